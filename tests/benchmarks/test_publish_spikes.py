"""Tables and plot of convolutions by firing rate, from rows."""

import struct

from benchmarks import publish
from benchmarks.publish_spikes import ratios_of, spikes_plot, spikes_tables
from benchmarks.rows import Row, write

WHERE = {"device": "a processor", "versions": "versions", "commit": "1", "date": "2026-01-02"}


def row(direction, layer, rate, provider, times, metric="times faster"):
    case = f"{direction} {layer} {rate} % spikes, T=5 batch 16"
    return Row(case, provider, metric, times, times, times, **WHERE)


ROWS = [
    row("output", "8x4x4", "2", "dense nchw", 1.0),
    row("output", "8x4x4", "2", "dense", 1.0),
    row("output", "8x4x4", "2", "spikes", 9.0, "seconds"),
    row("output", "8x4x4", "2", "spikes", 5.04),
    row("output", "8x4x4", "2.5", "spikes", 4.0),
    *(row("output", "8x4x4", rate, "live 90 %", times) for rate, times in (("2", 3.0), ("2.5", 2.0))),
    row("input gradient", "8x4x4", "2", "spikes", 1.5),
    row("input gradient", "8x4x4", "2.5", "spikes", 1.7),
    row("input gradient", "16x2x2", "2", "live 90 %", 6.0),
]


def test_ratios_leave_out_dense_and_other_metrics():
    found = ratios_of(ROWS)
    assert list(found) == ["output", "input gradient"]
    assert found["output"] == {"8x4x4": {"spikes": {2.0: 5.04, 2.5: 4.0}, "live 90 %": {2.0: 3.0, 2.5: 2.0}}}


def test_a_table_a_direction():
    head, output, gradient = spikes_tables(ROWS).split("\n\n")
    assert head == "a processor; versions; 2026-01-02"
    assert output.splitlines() == [
        "| output | from spikes, 2 % | from spikes, 2.5 % | live 90 % |",
        "|---|---|---|---|",
        "| 8x4x4 | 5.0x | 4.0x | 3.0x |",
    ]
    assert gradient.splitlines()[0] == "| input gradient | by Winograd | live 90 % |"
    assert gradient.splitlines()[2:] == ["| 8x4x4 | 1.7x |  |", "| 16x2x2 |  | 6.0x |"]


def test_the_plot_is_as_wide_as_there_are_layers():
    sizes = [struct.unpack(">II", spikes_plot(rows)[16:24]) for rows in (ROWS[:-1], ROWS)]
    assert sizes[0][0] * 1.9 < sizes[1][0] < sizes[0][0] * 2.1
    assert sizes[0][1] == sizes[1][1]


def test_published_between_the_markers(tmp_path, monkeypatch):
    page, picture = tmp_path / "kernels.md", tmp_path / "spikes.png"
    page.write_text(f"before\n\n{publish.BEGIN}\n\nold\n\n{publish.END}\n\nbehind\n")
    monkeypatch.setattr(publish, "KERNELS", page)
    monkeypatch.setattr(publish, "WAYS", picture)
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    write(ROWS, "spikes", tmp_path)
    publish.publish_spikes()
    assert "old" not in page.read_text()
    assert page.read_text().startswith("before")
    assert spikes_tables(ROWS) in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_page_holds_what_the_rows_say():
    rows = publish.read(publish.RESULTS / "spikes.jsonl")
    assert publish.with_tables(publish.KERNELS.read_text(), spikes_tables(rows)) == publish.KERNELS.read_text()
