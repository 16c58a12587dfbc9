"""Descriptors in clusters, and indexes made of them without a network."""

import numpy as np
import pytest

from dir_jax.model_recipe import Recipe
from dir_jax.search.building import NewImages, create_index

MODEL = {"path": "no/model", "arch": "resnet18_rmac", "digest": "0" * 64, "options": {}}


def descriptors(count, width=32, seed=0):
    """Unit vectors around 20 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((20, width))
    x = centres[rng.integers(0, 20, count)] + 0.3 * rng.standard_normal((count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def new_images(x, names=None):
    """Images of an index, whose files nobody has."""
    names = [f"db/{i}.jpg" for i in range(len(x))] if names is None else names
    marks = np.arange(2 * len(x)).reshape(-1, 2)
    return NewImages(names, marks, lambda: [x[:7], x[7:]] if len(x) > 7 else [x])


@pytest.fixture
def make(tmp_path):
    """Makes an index: `make(descriptors, engine) -> path`."""

    def build(x, engine="exact", names=None, name="my.index", **options):
        path = tmp_path / name
        create_index(path, new_images(x, names), root=str(tmp_path), model=MODEL,
                     recipe=Recipe(), engine=engine, **options)  # fmt: skip
        return path

    return build
