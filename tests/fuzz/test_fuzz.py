"""Two hundred damaged inputs for every reader; `make fuzz` tries more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched as Linux does it")
def test_every_reader_reads_or_refuses(tmp_path):
    # Not in this process: it has threads, and a fork of it could not use JAX.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", f"--part={i}/2", f"--json={tmp_path / str(i)}"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in (1, 2)
    ]  # fmt: skip
    printed = [part.communicate()[0] for part in parts]
    for i, text in enumerate(printed, start=1):
        assert (tmp_path / str(i)).exists(), text
        found = json.loads((tmp_path / str(i)).read_text())
        assert found["failures"] == [], text
        for name, count in found["counts"].items():
            assert count["read"] + count["refused"] >= 200, name
            assert min(count["read"], count["refused"]) > 0, name
