"""The journal: entries come back, damage shows, a write that fails leaves what was there."""

import json
import os
import resource

import pytest
import torch

from snn_sparse.training.journal import Journal

ENTRIES = [{"level": n, "loss": 0.1 * n, "name": f"ä{n}"} for n in range(20)]


@pytest.fixture
def journal(tmp_path):
    found = Journal(tmp_path / "deep" / "lines.jsonl", "this run")
    for entry in ENTRIES:
        found.append(entry)
    return found


def test_entries_come_back(journal):
    assert journal.read() == (ENTRIES, 0)
    assert Journal(journal.path.with_name("none"), "x").read() == ([], 0)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [{k: line[k] for k in ENTRIES[0]} for line in lines] == ENTRIES
    journal.rewrite(ENTRIES[3:5])
    journal.append(ENTRIES[7])
    assert journal.read() == ([ENTRIES[3], ENTRIES[4], ENTRIES[7]], 0)


def test_a_line_that_a_kill_cut_short_is_all_that_is_lost(journal):
    journal.path.write_bytes(journal.path.read_bytes()[:-5])
    assert journal.read() == (ENTRIES[:-1], 1)


def test_no_damage_goes_unseen(journal):
    content = journal.path.read_bytes()
    seen = 0
    for place in torch.randint(0, 8 * len(content), (200,)).tolist():
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        journal.path.write_bytes(flipped)
        entries, damaged = journal.read()
        assert all(entry in ENTRIES for entry in entries)
        assert damaged or entries == ENTRIES
        seen += damaged > 0
    assert seen > 100


def test_lines_of_another_run_are_not_ours(journal):
    assert Journal(journal.path, "another run").read() == ([], len(ENTRIES))
    journal.path.write_text('{"level": 0}\n[1]\n"x"\n\n')
    assert journal.read() == ([], 4)
    assert Journal(journal.path).read() == ([{"level": 0}], 3)  # a version without checksums wrote it


def test_a_full_disk_leaves_the_lines_that_were_there(journal):
    size = journal.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large|no room"):
            journal.append(ENTRIES[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.path.getsize(journal.path) == size
    assert journal.read() == (ENTRIES, 0)


def test_numbers_that_json_does_not_know_are_refused(journal):
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"loss": float("nan")})
    assert journal.read() == (ENTRIES, 0)
