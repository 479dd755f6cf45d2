"""Instructions are counted in machine code: of code written by hand, and of one kernel, compiled without a GPU."""

import json

import pytest

import benchmarks.rows
from benchmarks.__main__ import main

pytest.importorskip("triton")

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;   /* 0x0000a100ff007b82 */
        /*0010*/               @P0 EXIT ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   NOP ;
        /*0040*/              @!P2 LDG.E.U16.CONSTANT R4, desc[UR4][R2.64] ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/               @P1 BRA 0x20 ;
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0080*/                   STG.E desc[UR4][R2.64], R4 ;
        /*0090*/              @!P1 BRA 0xb0 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   MUFU.RCP R4, R4 ;
        /*00c0*/                   BRA 0xc0 ;
"""


def test_reading_machine_code():
    from benchmarks.machine_code import barriers, read_code, widths

    code = read_code(SASS)
    assert [x.name for x in code.loop] == ["LDG.E.128", "LDG.E.U16.CONSTANT", "BAR.SYNC.DEFER_BLOCKING", "BRA"]
    assert len(code.instructions) == 10
    assert (code.executed(1), code.executed(4)) == (10, 10 + 3 * 4)
    assert (barriers(code.instructions), barriers(code.loop)) == (2, 1)
    assert (widths(code.instructions, "LDG"), widths(code.instructions, "STG")) == ("16 x 1, 2 x 1", "4 x 1")


def test_what_cannot_be_counted():
    from benchmarks.machine_code import read_code

    with pytest.raises(ValueError, match="no end"):
        read_code("nothing")
    with pytest.raises(ValueError, match="2 loops"):
        read_code(SASS.replace("BRA 0xb0", "BRA 0x70"))


def test_one_kernel_is_compiled_and_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    assert main(["kernels", "--only", "statistics", "--timesteps", "2"]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "kernels.jsonl").read_text().splitlines()]
    assert (row["kernel"], row["dtype"], row["arch"], row["spills"]) == ("statistics", "bfloat16", 90, 0)
    assert 2 < row["instructions"] < 100
    assert row["bytes"] == pytest.approx(2, rel=0.1)  # y in bfloat16 is read once
    layers = 2 * 64 * 32**2 + 2 * 128 * 16**2 + 3 * 256 * 8**2 + 3 * 512 * 4**2 + 3 * 512 * 2**2
    assert row["traffic_ms"] == pytest.approx(1e3 * row["bytes"] * 2 * 128 * layers / 3e12, abs=1e-3)
    assert "Nothing here was timed" in capsys.readouterr().out


@pytest.mark.parametrize("timesteps", ["0", "9", "five"])
def test_steps_that_it_does_not_count(timesteps, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["kernels", "--timesteps", timesteps])
    assert stop.value.code == 2
    assert "must be 1 to 8" in capsys.readouterr().err
