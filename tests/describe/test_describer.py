"""Describing on the devices that are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dir_jax.checkpoint import Checkpoint, Preprocessing, read_model, save_model
from dir_jax.data.images import ImageDataset
from dir_jax.describe import describer as module
from dir_jax.describe.describer import Describer, NoUsableImageError, Recipe
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.retrieval.whitening import learn_whitening
from dir_jax.runtime.replicas import MeshReplicas


def test_scales_and_whitening_are_computed_on_its_own_device(tmp_path, monkeypatch):
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((50, 8)))
    network = create_model("resnet18_rmac", out_dim=8)
    save_model(tmp_path / "net", network, whitenings={"set": whitening})
    device, used = jax.devices()[1], []
    for name in ("pool_scales", "apply_whitening"):
        function = getattr(module, name)

        def noting(*args, function=function, **options):
            used.append(jnp.zeros(()).device)
            return function(*args, **options)

        monkeypatch.setattr(module, name, noting)
    describer = Describer(read_model(tmp_path / "net"), Recipe(whiten="set"), devices=[device])
    used.clear()
    rows = np.eye(8, dtype=np.float32)
    assert describer.finish([rows]).shape == (8, 8)
    assert used == [device, device]


@pytest.fixture
def three(tmp_path):
    """Three images, and a describer made by `describer(skip)`, whose network is in memory."""
    for i in range(3):
        Image.new("RGB", (40, 40), (60 * i, 9, 9)).save(tmp_path / f"{i}.png")
    images = ImageDataset([f"{i}.png" for i in range(3)], str(tmp_path))
    checkpoint = Checkpoint(create_model("resnet18_rmac", out_dim=8), Preprocessing(), {}, {})

    def describer(skip):
        return Describer(checkpoint, Recipe(), threads=0, skip_failures=skip)

    return images, describer


def test_descriptors_that_are_not_finite(three, monkeypatch, tmp_path):
    images, describer = three
    fetch = MeshReplicas.fetch

    def not_finite(self, x):
        found = fetch(self, x).copy()
        found[[0, 2], 3] = np.inf
        return found

    monkeypatch.setattr(MeshReplicas, "fetch", not_finite)
    partial = str(tmp_path / "partial")
    message = r"0\.png a descriptor that is not finite \(and 1 more of 3\)"
    with pytest.raises(UserError, match=message):
        describer(skip=False).describe([("images", images)], partial)
    skipping = describer(skip=True)
    for where in (None, partial, partial):
        described = skipping.describe([("images", images)], where)
        (found,) = described.lists
        assert found.failures.keys() == {0, 2}
        assert "2.png a descriptor that is not finite" in found.failures[2]
        assert np.isnan(found.array()).all(axis=1).tolist() == [True, False, True]
        if described._store is not None:
            described._store.close()


def test_a_network_that_is_not_finite(three):
    images, describer = three
    one = describer(skip=True)
    one._params["conv1.kernel"] = np.full_like(one._params["conv1.kernel"], np.nan)
    with pytest.raises(NoUsableImageError, match="descriptor that is not finite"):
        one.describe([("images", images)])


def test_lists_without_one_usable_image(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2])
    save_model(tmp_path / "net", create_model("resnet18_rmac", out_dim=8))
    describer = Describer(read_model(tmp_path / "net"), Recipe(), threads=0, skip_failures=True)
    good, bad = (ImageDataset([name], str(tmp_path)) for name in ("good.png", "bad.png"))
    partial = tmp_path / "partial"
    for lists, kept in (([bad, bad], False), ([good, bad], True)):
        with pytest.raises(NoUsableImageError, match="none of the 1 images") as e:
            describer.describe([(str(i), images) for i, images in enumerate(lists)], str(partial))
        assert "bad.png" in e.value.failures[0]
        assert partial.exists() == kept
