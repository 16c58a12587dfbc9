"""Descriptors of a data set: each image's own, in order, whatever it shared a batch with."""

import jax
import numpy as np
import pytest
from PIL import Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.headers import check_dataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import parse_transforms
from dir_jax.describe.extractor import Extractor
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from dir_jax.models.variables import split_variables


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(50, 40), (40, 50), (50, 40), (64, 48), (40, 50)]
    names = []
    for i, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        names.append(f"{i}.png\n")
    (tmp_path / "list.txt").write_text("".join(names))
    return create_dataset(f'ImageList("{tmp_path}/list.txt", "{tmp_path}")')


def describe(dataset, transform, **options):
    model = create_model("resnet18_rmac", out_dim=8)
    graphdef, params, stats = split_variables(model)
    extractor = Extractor(graphdef, mean=IMAGENET_MEAN, std=IMAGENET_STD, width=8, max_batch_size=8)
    sizes = check_dataset(dataset, progress=False)
    found = extractor(params, stats, dataset, parse_transforms(transform), sizes, **options)
    return model, found


@pytest.mark.parametrize("transform", ["", "Scale((48, 48))"])
def test_equals_each_image_alone(photos, transform):
    """Whatever the batches: the order is that of the list."""
    model, found = describe(photos, transform)
    assert found.shape == (5, 8)
    rng = np.random.default_rng(0)
    for i in range(len(photos)):
        image = parse_transforms(transform)(photos.open(i), rng)
        alone = model(normalize(np.asarray(image)[None], IMAGENET_MEAN, IMAGENET_STD))[0]
        # Another batch size is another order of summation; entries are up to 1.
        np.testing.assert_allclose(found[i], alone, rtol=0, atol=2e-6)


def test_chosen_images(photos):
    _, everything = describe(photos, "")
    _, some = describe(photos, "", indices=np.array([3, 0]))
    np.testing.assert_allclose(some, everything[[3, 0]], rtol=0, atol=2e-6)


def test_unreadable_image_is_named(photos, tmp_path):
    sizes = check_dataset(photos, progress=False)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:900])
    model = create_model("resnet18_rmac", out_dim=8)
    graphdef, params, stats = split_variables(model)
    extractor = Extractor(graphdef, mean=IMAGENET_MEAN, std=IMAGENET_STD, width=8, max_batch_size=8)
    with pytest.raises(UserError, match=r"2\.png"):
        extractor(params, stats, photos, parse_transforms(""), sizes)


def test_many_sizes_compile_a_dozen_programs(tmp_path, monkeypatch):
    """600 images of 300 sizes, in order; a second call compiles nothing."""
    monkeypatch.setattr(
        "dir_jax.describe.padded_shapes._PROGRAM", 0
    )  # as if there were 5,000 of them
    rng = np.random.default_rng(0)
    sizes = np.array([(24 + i % 20, 24 + i // 20) for i in range(300)])[rng.permutation(600) % 300]
    for i, size in enumerate(sizes.tolist()):
        Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist())).save(tmp_path / f"{i}.png")
    dataset = ImageDataset([f"{i}.png" for i in range(600)], str(tmp_path))
    model = create_model("resnet18_rmac", out_dim=8)
    graphdef, params, stats = split_variables(model)
    extractor = Extractor(
        graphdef, width=8, mean=IMAGENET_MEAN, std=IMAGENET_STD, devices=jax.devices()[:1]
    )
    compiled = []
    listener = lambda event, _, **__: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    identity = parse_transforms("")
    found = extractor(params, stats, dataset, identity, sizes)
    programs = extractor._describe._cache_size()
    assert 2 <= programs <= 12
    assert "/jax/core/compile/backend_compile_duration" in compiled
    compiled.clear()
    np.testing.assert_array_equal(extractor(params, stats, dataset, identity, sizes), found)
    assert "/jax/core/compile/backend_compile_duration" not in compiled
    assert extractor._describe._cache_size() == programs
    for i in (0, 299, 599):
        alone = extractor(params, stats, dataset, identity, sizes, indices=np.array([i]))
        np.testing.assert_allclose(found[i], alone[0], rtol=0, atol=2e-6)
    assert len(np.unique(found.round(4), axis=0)) > 500  # images are told apart
