"""What of a run's state has to fit when it is resumed: its chunks and its classes."""

from types import SimpleNamespace

import numpy as np
import optax
import pytest

from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.saving import (
    Resumed,
    check_chunk_size,
    restore_newest,
    saved_with_model,
)
from dir_jax.training.state import create_state


def arcface_state():
    """A state of four classes whose vectors, and Adam's moments of them, are all different."""
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    state = create_state(
        {"fc.bias": np.ones(4, np.float32)}, {}, optax.adam(0.1), batch_norm="frozen",
        loss={"class_weights": vectors},
    )  # fmt: skip
    moments = state.optimizer[0]
    mu = {**moments.mu, "class_weights": vectors + 100}
    return state._replace(optimizer=(moments._replace(mu=mu), *state.optimizer[1:]))


def resumed(state, train, classes):
    newest = 3, state.params, state.stats, train
    checkpoints = SimpleNamespace(restore_newest=lambda: newest, path=lambda step: f"run/{step}")
    return restore_newest(checkpoints, state, classes).state


def test_vectors_of_classes_are_found_by_name(caplog):
    state = arcface_state()
    train = saved_with_model(
        state.loss, state.optimizer, None, [], {}, np.zeros(0, int), 4, ["a", "b", "c", "d"]
    )
    found = resumed(state, train, ["c", "a", "b", "d"])
    order = [2, 0, 1, 3]
    for one, other in (
        (found.loss, state.loss),
        (found.optimizer[0].mu, state.optimizer[0].mu),
    ):
        np.testing.assert_array_equal(one["class_weights"], other["class_weights"][order])
    np.testing.assert_array_equal(found.optimizer[0].mu["fc.bias"], np.zeros(4))
    for others, message in (
        (
            ["a", "b", "c", "e"],
            "for each of 4 classes, .* 4 classes, 1 of them new, such as 'e'; put",
        ),
        (["a", "b", "c"], "for each of 4 classes, and config.data.train has 3 classes; put"),
        (["a", "b", "c", "d", "f"], "has 5 classes, 1 of them new, such as 'f'; put"),
    ):
        with pytest.raises(UserError, match=message):
            resumed(state, train, others)
    assert not caplog.text
    del train["classes"]  # of an earlier version
    np.testing.assert_array_equal(
        resumed(state, train, ["c", "a", "b", "d"]).loss["class_weights"],
        state.loss["class_weights"],
    )
    assert "does not say of which classes" in caplog.text


def test_other_chunks_are_refused_where_they_are_normalised():
    config = default_config()
    config.batch_size, config.batch_norm = 32, "trained"
    check_chunk_size(config, 4, Resumed(3, None, chunk_size=4))
    check_chunk_size(config, 2, Resumed(3, None))  # a checkpoint of dir_jax 0.1.0
    with pytest.raises(UserError, match=r"on chunks of 4 images, .*of 2, .* on 8 devices or fewer"):
        check_chunk_size(config, 2, Resumed(3, None, chunk_size=4))
    config.batch_norm = "frozen"
    check_chunk_size(config, 2, Resumed(3, None, chunk_size=4))
