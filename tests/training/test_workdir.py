"""What is refused of a working directory before anything is written into it."""

import shutil
from types import SimpleNamespace

import pytest

from dir_jax.errors import UserError
from dir_jax.training.workdir import check_free_space


def test_full_disk_is_refused(monkeypatch, tmp_path):
    asked = []

    def usage(place):
        asked.append(place)
        return SimpleNamespace(free=350)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    workdir = tmp_path / "not" / "yet"
    with pytest.raises(UserError, match=f"--workdir {workdir}.*config.checkpoint.keep"):
        check_free_space(workdir, 100, keep=2)  # two, the best, and the one being written
    assert asked == [tmp_path]
    check_free_space(workdir, 87, keep=2)


def test_checkpoints_that_are_there_need_no_more_room(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=150))
    for step in range(8):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    check_free_space(tmp_path, 100, keep=2)  # room to write one before another is deleted
    with pytest.raises(UserError, match="0 MB free"):
        check_free_space(tmp_path, 151, keep=2)
