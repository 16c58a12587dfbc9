"""A whitening learned from images: what is said before, and which images and pairs it is from."""

import logging

import numpy as np
import pytest
from PIL import Image

from dir_jax.checkpoint import Checkpoint, read_model, save_model
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.describe.describer import Describer
from dir_jax.describe.learned_whitening import learn_from_images
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.retrieval.whitening import learn_whitening, learn_whitening_from_pairs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pictures and their folder; the fourth is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    path = tmp_path_factory.mktemp("model") / "net"
    save_model(path, create_model("resnet18_rmac", out_dim=6))
    return read_model(path)


NAMES = [f"{i}.png" for i in range(12)]


def test_images_that_cannot_be_used_are_left_out_and_their_pairs(checkpoint, photos):
    describer = Describer(checkpoint, threads=0, skip_failures=True)
    dataset = ImageDataset(NAMES, photos)
    x = np.delete(describer.describe([("all", dataset)]).lists[0].array(), 3, axis=0)
    mine = learn_from_images(describer, dataset, dims=4)
    expected = learn_whitening(x)
    np.testing.assert_array_equal(mine.components_, expected.components_[:4])
    np.testing.assert_array_equal(mine.explained_variance_, expected.explained_variance_[:4])
    dataset.pairs = np.array([[0, 1], [2, 3], [3, 5], [5, 6], [8, 7], [9, 10], [11, 2], [1, 4]])
    mine = learn_from_images(describer, dataset, method="pairs")
    pairs = np.array([[0, 1], [4, 5], [7, 6], [8, 9], [10, 2], [1, 3]])  # without picture 3
    expected = learn_whitening_from_pairs(x, pairs)
    np.testing.assert_array_equal(mine.components_, expected.components_)


def test_pairs_of_a_labelled_set(checkpoint, photos):
    describer = Describer(checkpoint, threads=0)
    names = NAMES[4:]
    labelled = LabelledDataset(names, list("aabbabcc"), photos)
    x = describer.describe([("all", labelled)]).lists[0].array()
    pairs = np.array([[0, 1], [1, 4], [4, 0], [2, 3], [3, 5], [5, 2], [6, 7], [7, 6]])
    expected = learn_whitening_from_pairs(x, pairs)
    mine = learn_from_images(describer, labelled, method="pairs")
    np.testing.assert_array_equal(mine.components_, expected.components_)
    with pytest.raises(UserError, match="needs a data set with labels or with matching pairs"):
        learn_from_images(describer, ImageDataset(names, photos), method="pairs")
    with pytest.raises(UserError, match=r"cannot keep 7 dimensions \(--dims\)"):
        learn_from_images(describer, labelled, dims=7)
    alone = LabelledDataset(NAMES[:3], list("abc"), photos)
    with pytest.raises(UserError, match="there are no matching pairs"):
        learn_from_images(describer, alone, method="pairs")


def test_too_few_images_are_said_before_they_are_described(checkpoint, photos, caplog):
    describer = Describer(checkpoint, threads=0)
    labelled = LabelledDataset(NAMES[:4], list("abab"), photos)  # one of them is damaged
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"3\.png"):
        learn_from_images(describer, labelled, method="pairs")
    assert "at most 3 of 6 dimensions will be kept" in caplog.text
    assert "4 matching pairs say nothing of some of the 6 dimensions" in caplog.text
