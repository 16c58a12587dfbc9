"""What is refused of a run's directory: another run's, one in use, one on a full disk."""

import shutil
from types import SimpleNamespace

import pytest

from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.workdir import check_free_space, claimed_workdir


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


def test_a_second_process_is_refused(tmp_path):
    config, workdir = default_config(), tmp_path / "run"
    with (
        claimed_workdir(workdir, config),
        pytest.raises(UserError, match=f"another process .* --workdir {workdir}"),
        claimed_workdir(workdir, config),
    ):
        pass
    with claimed_workdir(workdir, config):  # the first has ended
        assert (workdir / "config.json").exists()


def test_a_write_that_fails_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=f"cannot write to --workdir {tmp_path}: No space left"),
        claimed_workdir(tmp_path, default_config()),
    ):
        raise OSError(28, "No space left on device")
