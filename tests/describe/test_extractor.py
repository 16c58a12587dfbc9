"""Descriptors of a data set: each image's own, in order, whatever it shared a batch with."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import parse_transforms
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.image_lists import ImageList, read_list
from dir_jax.describe.passes import describe_lists
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from dir_jax.models.resnet import BASIC, RESNETS, Variant
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


def describe(dataset, transform, chosen=None):
    model = create_model("resnet18_rmac", out_dim=8)
    graphdef, params, stats = split_variables(model)
    extractor = Extractor(graphdef, mean=IMAGENET_MEAN, std=IMAGENET_STD, width=8, max_batch_size=8)
    images = dataclasses.replace(read_list("describe", dataset), chosen=chosen)
    found = describe_lists(extractor, params, stats, [images], parse_transforms(transform))
    return model, found[0]


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
    _, some = describe(photos, "", chosen=np.array([3, 0]))
    np.testing.assert_allclose(some, everything[[3, 0]], rtol=0, atol=2e-6)


def test_a_damaged_image_is_named(photos, tmp_path):
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:900])  # the header is intact
    with pytest.raises(UserError, match=r"2\.png"):
        describe(photos, "")
    (tmp_path / "2.png").write_bytes(whole[:9])
    with pytest.raises(UserError, match=r"1 of 5 images cannot be used: .*2\.png"):
        describe(photos, "")


def test_an_image_that_a_transform_cannot_be_applied_to_is_named(photos):
    """By its own name, where only some images are chosen."""
    with pytest.raises(UserError, match=r"1 of 2 images cannot be used: .*4\.png: .*RandomCrop"):
        describe(photos, "RandomCrop(48)", chosen=np.array([3, 4]))
    with pytest.raises(UserError, match="random sizes"):
        describe(photos, "RandomScale(20, 30)")


def test_no_image_can_be_read(tmp_path):
    dataset = ImageDataset(["a.jpg", "b.jpg"], str(tmp_path / "wrong"))
    with pytest.raises(UserError, match=r"2 of 2 images cannot be used .is the root"):
        describe(dataset, "")


def test_many_sizes_compile_a_dozen_programs(tmp_path, monkeypatch):
    """600 images of 300 sizes, in order; a second call compiles nothing."""
    # As if there were 5,000 of them; and with half as many layers to compile for each shape.
    monkeypatch.setattr("dir_jax.describe.extractor.PROGRAM_CPU", 0)
    monkeypatch.setitem(RESNETS, "resnet18", Variant(BASIC, (1, 1, 1, 1)))
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
    images = ImageList("describe", dataset, sizes)

    def call(images):
        return describe_lists(extractor, params, stats, [images], identity)[0]

    found = call(images)
    programs = extractor._program(1.0)._cache_size()
    assert 2 <= programs <= 12
    assert "/jax/core/compile/backend_compile_duration" in compiled
    compiled.clear()
    np.testing.assert_array_equal(call(images), found)
    assert "/jax/core/compile/backend_compile_duration" not in compiled
    assert extractor._program(1.0)._cache_size() == programs
    for i in (0, 299, 599):
        alone = call(dataclasses.replace(images, chosen=np.array([i])))
        np.testing.assert_allclose(found[i], alone[0], rtol=0, atol=2e-6)
    assert len(np.unique(found.round(4), axis=0)) > 500  # images are told apart
