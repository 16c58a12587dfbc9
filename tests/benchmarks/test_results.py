"""Measured tables get to their places in RESULTS.md, and nowhere else."""

import json

import pytest

from benchmarks import results

MACHINE = {
    "processor": "a CPU",
    "cores": 2,
    "device": {"platform": "cpu", "kind": "cpu", "gigaflops": {"float32": 400, "bfloat16": 700}},
    "python": "3.11",
    "versions": {"jax": "0.10"},
    "date": "2026-01-02",
    "command": "python -m benchmarks.network",
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    file = tmp_path / "RESULTS.md"
    monkeypatch.setattr(results, "RESULTS", file)
    file.write_text(
        "before\n<!-- network -->\nold\n<!-- end of network -->\nbetween\n"
        "<!-- search -->\nkept\n<!-- end of search -->\nafter\n"
    )
    return file


def test_replaces_its_own_table(file, tmp_path):
    table = "| a | b |\n|---|---|\n| 1.5\\n | 2 |"
    results.write_figures(tmp_path / "new" / "network.json", MACHINE, table, cases=[1])
    results.main([str(tmp_path / "new" / "network.json")])
    text = file.read_text()
    assert text.startswith("before\n<!-- network -->\n`python -m benchmarks.network`, 2026-01-02:")
    assert table in text
    assert "old" not in text
    assert text.endswith(
        "<!-- end of network -->\nbetween\n<!-- search -->\nkept\n<!-- end of search -->\nafter\n"
    )
    once = file.read_text()
    results.main([str(tmp_path / "new" / "network.json")])
    assert file.read_text() == once
    assert json.loads((tmp_path / "new" / "network.json").read_text())["cases"] == [1]


def test_a_table_without_a_place_is_refused(file, tmp_path):
    before = file.read_text()
    results.write_figures(tmp_path / "other.json", MACHINE, "| a |")
    with pytest.raises(SystemExit, match="no place for 'other'"):
        results.main([str(tmp_path / "other.json")])
    assert file.read_text() == before
