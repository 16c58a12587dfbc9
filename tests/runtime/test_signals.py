"""Ctrl-C ends every program with one line and exit code 130, whenever it comes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dir_jax.runtime import signals
from dir_jax.runtime.signals import Interrupts, hold_signals

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "dir_jax.train": ["--config", "quickstart", "--workdir", "run"],
    "dir_jax.test_dir": ["--dataset", "ImageList('x')", "--checkpoint", "none"],
    "dir_jax.extract_features": ["--dataset", "ImageList('x')", "--checkpoint", "none",
                                 "--output", "x.npy"],
    "dir_jax.extract_kapture": ["--kapture-root", "x", "--checkpoint", "none"],
    "dir_jax.data.download": ["--dataset", "Oxford5K", "--db-root", "."],
    "converters.from_torch": ["--checkpoint", "none", "--output", "x"],
    "converters.to_torch": ["--checkpoint", "none", "--output", "x"],
    "dir_jax": ["train", "--config", "quickstart", "--workdir", "run"],
}  # fmt: skip


def start(module, arguments, folder):
    """A program that writes to standard error what it imports, as it does."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "GLIBC_TUNABLES")}
    return subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", module, *arguments],
        cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def interrupt_after(module, arguments, imported, folder):
    """Sends Ctrl-C, several times at once, when the program has imported something."""
    process = start(module, arguments, folder)
    for line in process.stderr:
        if line.split("|")[-1].strip() == imported:
            break
    else:
        pytest.fail(f"{module} does not import {imported}")
    for _ in range(4):
        process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    words = [line for line in errors.splitlines() if not line.startswith("import time")]
    return process.returncode, output, words


@pytest.mark.parametrize("module", PROGRAMS)
@pytest.mark.parametrize("imported", ["argparse", "dir_jax.commands.running"])
def test_as_a_program_starts(module, imported, tmp_path):
    found = interrupt_after(module, PROGRAMS[module], imported, tmp_path)
    assert found == (130, "", ["interrupted"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("imported", ["ml_collections", "numpy", "jaxlib.xla_client", "jax"])
def test_while_large_libraries_are_imported(imported, tmp_path):
    """An exception in the middle of these prints tracebacks of theirs, or crashes."""
    found = interrupt_after("dir_jax.train", PROGRAMS["dir_jax.train"], imported, tmp_path)
    assert found == (130, "", ["interrupted"])


def test_an_interrupt_is_one_exception_and_then_none():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received


def test_a_program_that_hangs_is_left(monkeypatch):
    monkeypatch.setattr(signals, "AT_ONCE", 0.0)
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
    assert left == [130]


def test_an_interrupt_that_is_lost_still_ends_the_program(monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)

    class Deaf:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)

    with Interrupts():
        deaf = Deaf()
        del deaf
    assert left == [130]


def test_one_line_though_another_comes_while_it_is_written(tmp_path):
    program = """
import os, signal
from dir_jax.runtime.signals import leave
write = os.write
def interrupted_write(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGINT)
os.write = interrupted_write
signal.signal(signal.SIGINT, leave)
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ignored_interrupts_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_that_are_held_come_later():
    with Interrupts() as interrupts:
        hold_signals(True)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        assert not interrupts.received
        with pytest.raises(KeyboardInterrupt):
            hold_signals(False)
