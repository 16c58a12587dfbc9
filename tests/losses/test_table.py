"""The table of losses that `config.loss.name` chooses from."""

import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from dir_jax.losses import (
    LOSSES,
    arcface_loss,
    batch_triplet_loss,
    contrastive_loss,
    cosface_loss,
    fast_ap_loss,
    grouped_contrastive_loss,
    grouped_triplet_loss,
    listwise_average_precision_loss,
    multi_similarity_loss,
    recall_at_k_surrogate_loss,
    smooth_ap_loss,
)

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "name": "", "num_bins": 7, "class_weighted": True, "margin": 0.4, "mining": "all",
    "temperature": 0.2, "recall_k": (1, 3), "rank_temperature": 0.5, "contrastive_margin": 0.9,
    "negatives": 2, "alpha": 3.0, "beta": 9.0, "base": 0.4, "epsilon": 0.2, "arcface_margin": 0.3,
    "cosface_margin": 0.2, "scale": 9.0,
}  # fmt: skip
MS = {key: OPTIONS[key] for key in ("alpha", "beta", "base", "epsilon")}
RECALL = {key: OPTIONS[key] for key in ("recall_k", "temperature", "rank_temperature")}
WEIGHTS = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
BOUND = {
    ("ap", False): functools.partial(
        listwise_average_precision_loss, num_bins=7, class_weighted=True
    ),
    ("tie_aware_ap", False): functools.partial(
        listwise_average_precision_loss, num_bins=7, class_weighted=True, tie_aware=True
    ),
    ("fast_ap", False): functools.partial(fast_ap_loss, num_bins=7),
    ("smooth_ap", False): functools.partial(smooth_ap_loss, temperature=0.2),
    ("recall_at_k", False): functools.partial(recall_at_k_surrogate_loss, **RECALL),
    ("triplet", False): functools.partial(batch_triplet_loss, margin=0.4, mining="all"),
    ("triplet", True): functools.partial(grouped_triplet_loss, margin=0.4),
    ("triplet_log_exp", False): functools.partial(batch_triplet_loss, mining="all", log_exp=True),
    ("triplet_log_exp", True): functools.partial(grouped_triplet_loss, log_exp=True),
    ("contrastive", False): functools.partial(contrastive_loss, margin=0.9, negatives=2),
    ("contrastive", True): functools.partial(grouped_contrastive_loss, margin=0.9),
    ("multi_similarity", False): functools.partial(multi_similarity_loss, **MS),
    ("arcface", False): functools.partial(arcface_loss, margin=0.3, scale=9.0),
    ("cosface", False): functools.partial(cosface_loss, margin=0.2, scale=9.0),
}


@pytest.mark.parametrize(("name", "of_triplets"), BOUND)
def test_a_row_is_its_function_with_the_options_of_the_config(name, of_triplets):
    x = np.abs(np.random.default_rng(0).standard_normal((12, 5))).astype("f")
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.arange(12, dtype=np.int32) % 4 % 3
    loss = LOSSES[name].bind(OPTIONS, of_triplets=of_triplets)
    more = [WEIGHTS] if LOSSES[name].class_weights else []
    found = jax.value_and_grad(loss)(x, labels, *more)
    expected = jax.value_and_grad(BOUND[name, of_triplets])(x, labels, *more)
    assert float(found[0]) == float(expected[0]) > 0
    np.testing.assert_array_equal(found[1], expected[1])


def test_every_loss_is_bound_above_or_has_no_form_of_triplets():
    assert {name for name, _ in BOUND} == set(LOSSES)
    for name, loss in LOSSES.items():
        assert loss.paper
        if (name, True) not in BOUND:
            with pytest.raises(ValueError, match="batches of triplets"):
                loss.bind(OPTIONS, of_triplets=True)


def test_the_pages_table_has_every_loss():
    text = (ROOT / "docs/losses.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert rows == list(LOSSES)
