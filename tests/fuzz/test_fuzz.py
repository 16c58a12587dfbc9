"""Two hundred damaged inputs for every reader; `make fuzz` tries more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are watched as Linux does it"
)


def test_every_reader_reads_or_refuses(tmp_path):
    # Not in this process: it has threads, and a fork of it could not use JAX.
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--rounds=200", f"--json={tmp_path / 'found.json'}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    for name, count in json.loads((tmp_path / "found.json").read_text())["counts"].items():
        assert count["read"] + count["refused"] >= 200, name
        assert count["read"] > 0, name


# What readers could do -> what is to be said of it.
CONDUCT = {
    "pass": "read ",
    "raise UserError('a.jpg is missing')": "refused a.jpg is missing",
    "raise UserError('two\\nlines')": "failed a message of 2 lines: ",
    "raise UserError('a' * 1000)": "failed a message of 1000 characters: ",
    "raise UserError('\\x1b[31m')": "failed a message with characters that do not print: ",
    "raise UserError('MemoryError')": "failed refused only for lack of memory: ",
    "[][0]": "failed IndexError: ",
    "bytearray(1 << 31)": "failed MemoryError: ",
    "os.kill(os.getpid(), 11)": "failed the process died: SIGSEGV",
    "while True: pass": "failed the process died after 1 s of work",
    "open('pipe')": "failed it waits, or runs, without an end",
    "eval(open('bad.txt').read())": "failed it did what no reader may do: import canary",
    "os.system('true')": "failed it did what no reader may do: os.system",
    "subprocess.run(['true'])": "failed it did what no reader may do: subprocess.Popen",
    "open('../outside', 'w')": "failed it did what no reader may do: open ",
    "os.mkdir('../outside')": "failed it did what no reader may do: os.mkdir ",
    "t = threading.Thread(target=lambda: [][0]); t.start(); t.join()": "failed a traceback",
}
SCRIPT = """
import os, subprocess, sys, threading
from pathlib import Path
from dir_jax.errors import UserError
from tests.fuzz import sandbox
from tests.fuzz.mutators import Special

sandbox.CPU_SECONDS, sandbox._IDLE_SECONDS, root = 1, 1, Path(sys.argv[1])
files = {"bad.txt": b"__import__('canary')", "pipe": Special.FIFO}

def outcome(code):
    read = lambda folder: exec(code, globals()) if code else None
    sys.path.insert(0, "")
    reading = sandbox.Reading(lambda folder: None, [files], root / "inside", 1)
    reading.read = read
    return reading.outcome(files)

(root / "inside").mkdir()
for code in sys.argv[2:]:
    for found in sandbox.in_process(outcome, [code], root / "inside"):
        print(found.kind, " ".join(found.detail.split()))
"""


def test_what_the_watch_notices(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *CONDUCT],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stderr == ""
    for said, expected in zip(result.stdout.splitlines(), CONDUCT.values(), strict=True):
        assert said.startswith(expected)
