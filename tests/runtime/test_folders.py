"""Folders are whole whatever kills their writer, and the next writer clears what it left."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from dir_jax.runtime import folders
from dir_jax.runtime.folders import left_behind, replacing_folder

# Writes `target` as a folder of two files, and is killed at the event number `at`.
WRITER = """
import os, signal, sys
from pathlib import Path
from dir_jax.runtime import folders

target, at, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
seen = 0

def at_event(event, args):
    global seen
    if event in ("os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree"):
        seen += 1
        if seen > at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(at_event)
if not exchange:
    folders._exchange = lambda a, b: False
with folders.replacing_folder(target, overwrite=True) as new:
    new.mkdir()
    for name in ("a", "b"):
        (new / name).write_text("new")
"""


def content(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


def write(target, text, **options):
    with replacing_folder(target, overwrite=options.get("overwrite", True)) as new:
        new.mkdir()
        for name in ("a", "b"):
            (new / name).write_text(text)


def writer(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_writer_that_is_killed_leaves_one_whole_folder(how, tmp_path):
    """Killed at each of its steps, one after the other, until it comes to its end."""
    whole = [{"a": text, "b": text} for text in ("old", "new")]
    seen, at = [], 0
    while True:
        target = tmp_path / str(at) / "model"
        write(target, "old")
        code = writer(target, at, how).wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        found = left_behind(target) or target
        assert content(found) in whole
        seen.append(content(found)["a"])
        with pytest.raises(FileExistsError):  # once more there is a model
            write(target, "another", overwrite=False)
        assert content(target) in whole
        write(target, "another")
        assert content(target) == {"a": "another", "b": "another"}
        assert os.listdir(target.parent) == ["model"]
        at += 1
    assert content(target) == whole[1]
    assert os.listdir(target.parent) == ["model"]
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}


def test_the_folder_of_a_living_writer_is_left_alone(tmp_path):
    target = tmp_path / "model"
    with replacing_folder(target, overwrite=True) as new:
        new.mkdir()
        write(target, "first")
        assert new.is_dir()
        (new / "a").write_text("second")
    assert content(target) == {"a": "second"}
    assert os.listdir(tmp_path) == ["model"]


def test_an_error_leaves_the_old_folder(tmp_path):
    write(tmp_path / "model", "old")
    with (
        contextlib.suppress(ZeroDivisionError),
        replacing_folder(tmp_path / "model", overwrite=True) as new,
    ):
        new.mkdir()
        raise ZeroDivisionError
    assert content(tmp_path / "model") == {"a": "old", "b": "old"}
    assert os.listdir(tmp_path) == ["model"]


def test_without_locks_nothing_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "fcntl", None)
    (tmp_path / ".model.1.writing" / "old").mkdir(parents=True)
    write(tmp_path / "model", "new")
    assert content(tmp_path / "model") == {"a": "new", "b": "new"}
    assert sorted(os.listdir(tmp_path)) == [".model.1.writing", "model"]
