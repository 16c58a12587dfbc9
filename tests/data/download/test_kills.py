"""Processes that are killed at a step, run twice, or have a full disk."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dir_jax.runtime.files import take_lock
from tests.data.download.serving import COMPLETE, NO_IMAGES, OXFORD, OXFORD_IMAGES, TRUTH

# A run in a process of its own; {before} may prepare its end.
RUN = """
import os, resource, signal, sys, tarfile
from pathlib import Path
from dir_jax.errors import UserError
from dir_jax.data import download
from dir_jax.data.download import connection, fetch
fetch._PAUSE = 0
def die_at(owner, name, number, done=False):
    function, calls = getattr(owner, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if done and len(calls) == number:
            function(*args, **kwargs)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    setattr(owner, name, dying)
{before}
try:
    bases = {{"pictures": sys.argv[2] + "/vgg", "ground_truth": sys.argv[2] + "/gnd"}}
    download.download_dataset("ROxford5K", sys.argv[1], base_urls=bases)
except UserError as e:
    sys.exit(str(e))
"""


def start(server, before: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN.format(before=before), str(server.root), server.address]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def die(server, before: str) -> None:
    with start(server, before) as process:
        process.wait(60)
    assert process.returncode == -signal.SIGKILL


def test_killed_in_the_transfer(server):
    server.hold.clear()
    server.cut_images(123_456)
    part = server.folder / "oxbuild_images.tgz.partial"
    with start(server) as process:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 123_456:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.kill()
    assert not (server.folder / "jpg").exists()
    server.hold.set()
    server.recover()
    server.fetch()
    assert server.paths == [OXFORD]
    assert server.starts() == [123_456]
    assert server.sent == len(server.files[OXFORD]) - 123_456
    assert server.images() == OXFORD_IMAGES
    assert server.listing() == COMPLETE


@pytest.mark.parametrize(
    ("before", "fetched"),
    [
        ("fetch, 'write_text', 1", []),  # before anything is known of the ground truth
        ("connection.Connection, 'read', 2", [TRUTH]),
        ("fetch, '_compare', 2", [TRUTH, OXFORD]),
        ("tarfile.TarFile, 'extract', 5", [TRUTH, OXFORD]),
        ("os, 'listdir', 1", [TRUTH, OXFORD]),  # the archive is extracted
        ("download, 'accept', 2", [TRUTH, OXFORD]),
        ("Path, 'rename', 1", [TRUTH]),
        ("Path, 'rename', 2", [TRUTH, OXFORD]),
        ("Path, 'rename', 2, True", [TRUTH, OXFORD]),
    ],
)
def test_killed_at_a_step(server, before, fetched):
    die(server, f"die_at({before})")
    assert (server.folder / "jpg").exists() == ("True" in before)
    server.recover()
    server.fetch()
    assert not set(server.paths) & set(fetched)
    assert server.images() == OXFORD_IMAGES


def test_killed_among_images_that_were_there(server):
    (server.folder / "jpg").mkdir(parents=True)
    (server.folder / "jpg" / "hall_000000.jpg").write_bytes(b"own")
    die(server, "die_at(Path, 'rename', 5)")
    assert len(server.images()) == 1 + 3  # the first rename was the ground truth's
    server.recover()
    server.fetch()
    assert server.requests == []
    assert server.images() == OXFORD_IMAGES | {"hall_000000.jpg": b"own"}
    assert server.listing() == COMPLETE


def test_two_at_once(server):
    server.folder.mkdir()
    lock = take_lock(server.folder / ".download.lock", "")
    server.fails(r"another process is downloading into .*oxford5k")
    assert server.requests == []
    lock.release()
    server.fetch()
    server.fetch("Oxford5K")  # the lock was released


@pytest.mark.parametrize("by_hand", [False, True])
def test_full_disk(server, by_hand):
    """In the transfer, or in the extraction."""
    if by_hand:
        server.folder.mkdir()
        (server.folder / "oxbuild_images.tgz").write_bytes(server.files[OXFORD])
    with start(server, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)") as process:
        message = process.stderr.read()
    assert process.returncode == 1
    last = message.splitlines()[-1]  # after those that show the progress
    assert re.fullmatch(r"cannot read or write \S*oxford5k\S*: File too large; .*", last)
    file = "oxbuild_images.tgz" + ".partial" * (not by_hand)
    assert server.listing() == sorted([*NO_IMAGES, file])
    assert server.paths.count(OXFORD) == (not by_hand)  # another attempt would not help
    server.recover()
    server.fetch()
    assert server.starts() == ([] if by_hand else [100_000])
    assert server.images() == OXFORD_IMAGES


@pytest.mark.parametrize("root", ["/proc/nowhere", "/dev/null/sets", "a file in the way"])
def test_cannot_be_written(server, root):
    if root.startswith("/"):
        server.root = Path(root)
    else:
        server.folder.mkdir()
        (server.folder / "jpg").write_text("")
        root = server.folder / "jpg"
    server.fails(rf"cannot read or write {root}.*another folder than")
    assert OXFORD not in server.paths
