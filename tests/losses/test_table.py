"""The table of losses that `config.loss.name` chooses from."""

import jax
import numpy as np
import pytest

from dir_jax.losses import (
    LOSSES,
    batch_triplet_loss,
    grouped_triplet_loss,
    listwise_average_precision_loss,
)

OPTIONS = {"name": "", "num_bins": 7, "class_weighted": True, "margin": 0.4, "mining": "all"}
BOUND = {
    ("ap", False): lambda x, y: listwise_average_precision_loss(
        x, y, num_bins=7, class_weighted=True
    ),
    ("tie_aware_ap", False): lambda x, y: listwise_average_precision_loss(
        x, y, num_bins=7, class_weighted=True, tie_aware=True
    ),
    ("triplet", False): lambda x, y: batch_triplet_loss(x, y, margin=0.4, mining="all"),
    ("triplet", True): lambda x, y: grouped_triplet_loss(x, y, margin=0.4),
    ("triplet_log_exp", False): lambda x, y: batch_triplet_loss(x, y, mining="all", log_exp=True),
    ("triplet_log_exp", True): lambda x, y: grouped_triplet_loss(x, y, log_exp=True),
}


@pytest.mark.parametrize(("name", "of_triplets"), BOUND)
def test_a_row_is_its_function_with_the_options_of_the_config(name, of_triplets):
    x = np.abs(np.random.default_rng(0).standard_normal((12, 5))).astype("f")
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.arange(12, dtype=np.int32) % 4 % 3
    loss = LOSSES[name].bind(OPTIONS, of_triplets=of_triplets)
    found = jax.value_and_grad(loss)(x, labels)
    expected = jax.value_and_grad(BOUND[name, of_triplets])(x, labels)
    assert float(found[0]) == float(expected[0]) > 0
    np.testing.assert_array_equal(found[1], expected[1])


def test_every_loss_is_bound_above_or_has_no_form_of_triplets():
    assert {name for name, _ in BOUND} == set(LOSSES)
    for name, loss in LOSSES.items():
        assert loss.paper
        if (name, True) not in BOUND:
            with pytest.raises(ValueError, match="batches of triplets"):
                loss.bind(OPTIONS, of_triplets=True)
