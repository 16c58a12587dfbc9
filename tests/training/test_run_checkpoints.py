"""The steps of a run on disk: which are kept, which is restored, and what damage does."""

import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from dir_jax.checkpoint import Preprocessing, read_model
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe
from dir_jax.models import create_model
from dir_jax.models.variables import split_variables
from dir_jax.training.run_checkpoints import RunCheckpoints


@pytest.fixture(scope="module")
def model():
    return create_model("resnet18_rmac", out_dim=8)


def test_run_keeps_the_newest_and_the_best(model, tmp_path):
    checkpoints = RunCheckpoints(tmp_path / "run", keep=2)
    state = {"optimizer": {"count": np.int32(0), "mu": np.arange(3.0)}}
    for step, score in enumerate([0.2, 0.9, 0.5, None, 0.4], start=1):
        state["optimizer"]["count"] = np.int32(step)
        checkpoints.save(
            step,
            model,
            state,
            preprocessing=Preprocessing(),
            recipe=Recipe(),
            mean_average_precision=score,
        )
        state["optimizer"]["mu"] += 1  # the trainer goes on while this is being written
    checkpoints.wait()
    assert sorted(int(p.name) for p in (tmp_path / "run").glob("[0-9]*")) == [2, 4, 5]
    assert checkpoints.latest() == 5
    step, params, stats, train = checkpoints.restore_newest()
    assert step == int(train["optimizer"]["count"]) == 5
    np.testing.assert_array_equal(train["optimizer"]["mu"], np.arange(3.0) + 4)
    np.testing.assert_array_equal(params["fc.kernel"], split_variables(model)[1]["fc.kernel"])
    assert stats.keys() == split_variables(model)[2].keys()
    checkpoints.close()
    assert read_model(tmp_path / "run" / "5").model.config == model.config  # a step is a model, too


@pytest.fixture
def run(model, tmp_path):
    """A run with the steps 1, 2 and 3."""
    checkpoints = RunCheckpoints(tmp_path / "run", keep=3)
    for step in (1, 2, 3):
        train = {"optimizer": {"count": np.int32(step), "mu": np.full(1000, step / 7)}}
        checkpoints.save(step, model, train, preprocessing=Preprocessing(), recipe=Recipe())
    checkpoints.close()
    return tmp_path / "run"


def test_another_process_than_the_first_sees_the_newest_step(run, tmp_path, monkeypatch):
    monkeypatch.setattr("dir_jax.training.run_checkpoints.is_first", lambda: False)
    (run / "4.orbax-checkpoint-tmp").mkdir()
    assert RunCheckpoints(run, keep=3).latest() == 3
    assert RunCheckpoints(tmp_path / "none", keep=3).latest() is None


def damage(folder):
    """Makes the training state another one than was written: Orbax finds nothing wrong."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(folder / "train")
        tree["optimizer"]["mu"][17] += 1e-9
        checkpointer.save(folder / "train", tree, force=True)


def test_a_damaged_step_is_put_aside_for_the_one_before(model, run, caplog):
    damage(run / "3")
    shutil.rmtree(run / "2" / "arrays")
    checkpoints = RunCheckpoints(run, keep=3)
    step, _, _, train = checkpoints.restore_newest()
    assert step == int(train["optimizer"]["count"]) == 1
    assert sorted(p.name for p in run.iterdir()) == ["1", "damaged-2", "damaged-3"]
    assert f"{run / '3'} is damaged: 1 of its arrays" in caplog.text
    assert "continuing from step 1" in caplog.text
    # The steps are made again.
    checkpoints.save(2, model, train, preprocessing=Preprocessing(), recipe=Recipe())
    checkpoints.close()
    assert RunCheckpoints(run, keep=3).restore_newest()[0] == 2


def test_a_run_of_damaged_steps_is_refused(run):
    for step in "123":
        damage(run / step)
    with pytest.raises(UserError, match=r"/3 is damaged: .*no other step to continue from"):
        RunCheckpoints(run, keep=3).restore_newest()


def test_a_step_of_another_version_is_kept_and_refused(run):
    file = run / "3" / "model" / "model.json"
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UserError, match="has format version 2; this dir_jax reads 1"):
        RunCheckpoints(run, keep=3).restore_newest()
    assert (run / "3").is_dir()


def test_a_folder_named_like_a_step_is_not_believed(run):
    (run / "99").mkdir()
    assert RunCheckpoints(run, keep=3).restore_newest()[0] == 3
