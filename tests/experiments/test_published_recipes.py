"""The recipes on the published data sets run: their data, their sampler, their loss."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dir_jax.commands.recipes import load_config
from dir_jax.data.datasets import create_dataset
from dir_jax.data.samplers import EveryClass
from dir_jax.training.config import validate_config
from dir_jax.training.feed import Feed
from dir_jax.training.setup import create_setup
from tests.data import published

RECIPES = {
    "ap_gem_sfm120k": EveryClass,
    "ap_gem_gldv2": EveryClass,
    "triplet_gem_sfm120k": None,  # mined
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The published layouts at small size, with pictures."""
    root = tmp_path_factory.mktemp("data")
    published.write_sfm(root)
    published.write_landmarks(root)
    rng = np.random.default_rng(0)
    for name in ("SfM120k_train", "SfM120k_val", "GLDv2_train_clean"):
        dataset = create_dataset(name, db_root=str(root))
        for i in range(len(dataset)):
            pixels = rng.integers(0, 256, (48, 56, 3), np.uint8)
            file = published.write(root / dataset.path(i), b"")
            Image.fromarray(pixels).save(file, "JPEG")
    return root


def small(name: str, root):
    flags = ["--config.model.arch=resnet18_rmac", "--config.model.out_dim=8",
             "--config.data.eval_oxford=", f"--config.data.db_root={root}",
             "--config.model.init=", "--config.batch_norm=trained"]  # fmt: skip
    config = load_config(name, flags)
    config.data.transform = config.eval.transform = "Scale(40), CenterCrop(40)"
    config.whitening.transform = config.mining.transform = ""
    config.data.num_workers = 0
    return config


@pytest.mark.parametrize("name", [*RECIPES, "sop_ap"])
def test_is_a_valid_config(name):
    validate_config(load_config(name, ["--config.model.init=x.pth"]))


@pytest.mark.parametrize("name", RECIPES)
def test_reads_its_data(name, root):
    config = small(name, root)
    config.batch_size = 24 if RECIPES[name] is None else 8
    if name == "ap_gem_gldv2":
        config.batch_size, config.parallel = 8, "shard_map"
        config.sampler.name = "shuffle"  # five images, for eight devices
    setup = create_setup(config)
    assert setup.transform.output_size((56, 48), (56, 48)) == ((40, 40), (40, 40))
    if name != "ap_gem_gldv2":
        assert type(setup.sampler) is (RECIPES[name] or type(None))


def test_triplets_of_matching_pairs(root):
    """A run mines pairs of the list and negatives of other clusters; an image has no descriptor."""
    config = small("triplet_gem_sfm120k", root)
    config.mining.pairs, config.mining.pool_size, config.batch_size = 4, 7, 24
    setup = create_setup(config)

    class Current:
        def describe(self, state, chosen, transform, name):
            x = np.random.default_rng(0).standard_normal((len(chosen), 6)).astype(np.float32)
            x[chosen == 3] = np.nan
            return x / np.linalg.norm(x, axis=1, keepdims=True)

    feed = Feed(config, setup, None, Current(), None)
    labels, pairs = setup.dataset.labels, setup.dataset.pairs.tolist()
    for step in range(0, 800, 400):
        found = feed._mine(step, None)
        assert 3 <= len(found.anchors) <= 4
        for anchor, (positive,), negatives in zip(*vars(found).values(), strict=True):
            assert [anchor, positive] in pairs
            assert 3 not in (anchor, *negatives)
            assert len({labels[anchor], *labels[negatives]}) == 1 + len(negatives)
