"""Processes that are killed at a step, run twice, or have a full disk."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock
from tests.data.download.serving import (
    COMPLETE,
    NO_IMAGES,
    OXFORD,
    OXFORD_IMAGES,
    TRUTH,
    fetch,
    images,
    listing,
)  # fmt: skip

# A run in a process of its own; {before} may prepare its end.
RUN = """
import os, resource, signal, sys, tarfile
from pathlib import Path
from dir_jax.errors import UserError
from dir_jax.data import download
from dir_jax.data.download import archives, connection, fetch
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
    download.download_dataset("ROxford5K", sys.argv[1], base_urls=bases, progress=False)
except UserError as e:
    sys.exit(str(e))
"""


def start(server, root: Path, before: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN.format(before=before), str(root), server.address]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_transfer(server, tmp_path):
    server.hold.clear()
    server.cut_images(123_456)
    part = tmp_path / "oxford5k" / "oxbuild_images.tgz.partial"
    with start(server, tmp_path) as process:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 123_456:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "oxford5k" / "jpg").exists()
    server.hold.set()
    server.recover()
    fetch(server, tmp_path)
    assert server.paths == [OXFORD]
    assert server.starts() == [123_456]
    assert server.sent == len(server.files[OXFORD]) - 123_456
    assert images(tmp_path) == OXFORD_IMAGES
    assert listing(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    ("before", "fetched"),
    [
        ("die_at(fetch, 'write_text', 1)", []),  # before anything is known of the ground truth
        ("die_at(connection.Connection, 'read', 2)", [TRUTH]),
        ("die_at(fetch, '_checked', 2)", [TRUTH, OXFORD]),
        ("die_at(archives, '_extract', 5)", [TRUTH, OXFORD]),
        ("die_at(archives, '_check_end', 1)", [TRUTH, OXFORD]),
        ("die_at(download, 'update_records', 2)", [TRUTH, OXFORD]),
        ("die_at(Path, 'rename', 1)", [TRUTH]),
        ("die_at(Path, 'rename', 2)", [TRUTH, OXFORD]),
        ("die_at(Path, 'rename', 2, True)", [TRUTH, OXFORD]),
    ],
)
def test_killed_at_a_step(server, tmp_path, before, fetched):
    with start(server, tmp_path, before) as process:
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "oxford5k" / "jpg").exists() == ("True" in before)
    server.recover()
    fetch(server, tmp_path)
    assert not set(server.paths) & set(fetched)
    assert images(tmp_path) == OXFORD_IMAGES


def test_killed_among_images_that_were_there(server, tmp_path):
    (tmp_path / "oxford5k" / "jpg").mkdir(parents=True)
    (tmp_path / "oxford5k" / "jpg" / "hall_000000.jpg").write_bytes(b"own")
    with start(server, tmp_path, "die_at(Path, 'rename', 5)") as process:
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert len(images(tmp_path)) == 1 + 3  # the first rename was the ground truth's
    server.recover()
    fetch(server, tmp_path)
    assert server.requests == []
    assert images(tmp_path) == OXFORD_IMAGES | {"hall_000000.jpg": b"own"}
    assert listing(tmp_path) == COMPLETE


def test_two_at_once(server, tmp_path):
    (tmp_path / "oxford5k").mkdir()
    lock = take_lock(tmp_path / "oxford5k" / ".download.lock", "")
    with pytest.raises(UserError, match=r"another process is downloading into .*oxford5k"):
        fetch(server, tmp_path)
    assert server.requests == []
    lock.release()
    fetch(server, tmp_path)
    fetch(server, tmp_path, "Oxford5K")  # the lock was released


class TestDisks:
    @pytest.mark.parametrize("by_hand", [False, True])
    def test_full(self, server, tmp_path, by_hand):
        """In the transfer, or in the extraction."""
        if by_hand:
            (tmp_path / "oxford5k").mkdir()
            (tmp_path / "oxford5k" / "oxbuild_images.tgz").write_bytes(server.files[OXFORD])
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
        with start(server, tmp_path, limit) as process:
            message = process.stderr.read()
        assert process.returncode == 1
        assert re.fullmatch(r"cannot read or write \S*oxford5k\S*: File too large; .*\n", message)
        file = "oxbuild_images.tgz" + ".partial" * (not by_hand)
        assert listing(tmp_path) == sorted([*NO_IMAGES, file])
        assert server.paths.count(OXFORD) == (not by_hand)  # another attempt would not help
        server.recover()
        fetch(server, tmp_path)
        assert server.starts() == ([] if by_hand else [100_000])
        assert images(tmp_path) == OXFORD_IMAGES

    @pytest.mark.parametrize("root", ["/proc/nowhere", "/dev/null/sets"])
    def test_cannot_be_written(self, server, root):
        with pytest.raises(UserError, match=rf"cannot read or write {root}.*another folder than"):
            fetch(server, Path(root))
        assert server.requests == []

    def test_a_file_is_in_the_way(self, server, tmp_path):
        (tmp_path / "oxford5k").mkdir()
        (tmp_path / "oxford5k" / "jpg").write_text("")
        with pytest.raises(UserError, match=r"cannot read or write .*oxford5k/jpg"):
            fetch(server, tmp_path)
