"""Two hundred damaged inputs for every reader; `make fuzz` tries more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched as Linux does it")
def test_every_reader_reads_or_refuses(tmp_path):
    # Not in this process: it has threads, and a fork of it could not use JAX.
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--rounds=200", f"--json={tmp_path / 'found.json'}"],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    for name, count in json.loads((tmp_path / "found.json").read_text())["counts"].items():
        assert count["read"] + count["refused"] >= 200, name
        assert min(count["read"], count["refused"]) > 0, name
