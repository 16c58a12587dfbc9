"""Describing on the devices that are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dir_jax.checkpoint import read_model, save_model
from dir_jax.data.images import ImageDataset
from dir_jax.describe import describer as module
from dir_jax.describe.describer import Describer, NoUsableImageError, Recipe
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.retrieval.whitening import learn_whitening


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


def test_a_network_that_is_not_finite(tmp_path):
    save_model(tmp_path / "net", create_model("resnet18_rmac", out_dim=8))
    checkpoint = read_model(tmp_path / "net")
    mean = checkpoint.model.backbone.bn1.mean
    mean.set_value(np.full(64, np.nan, np.float32))
    describer = Describer(checkpoint, Recipe(), threads=0, skip_failures=True)
    nowhere = ImageDataset(["gone.png"], str(tmp_path))  # is not looked for
    with pytest.raises(UserError, match=r"its bn1\.mean has values that are not finite"):
        describer.describe([("all", nowhere)], str(tmp_path / "partial"))
    assert not (tmp_path / "partial").exists()


def test_descriptors_that_are_not_finite(tmp_path):
    """The image is named, and it is not said to be unreadable, nor left out."""
    Image.new("RGB", (40, 40), (200, 30, 7)).save(tmp_path / "a.png")
    network = create_model("resnet18_rmac", out_dim=8)
    network.fc.kernel[...] = network.fc.kernel[...] * 3e38 / abs(network.fc.kernel[...]).max()
    rows = np.random.default_rng(0).standard_normal((50, 8)) / 100
    save_model(tmp_path / "net", network, whitenings={"set": learn_whitening(rows)})
    model = read_model(tmp_path / "net")
    with pytest.raises(UserError, match="cannot divide by 8 of its 8 variances to the power 10000"):
        Describer(model, Recipe(whiten="set", whitenp=1e4))
    describer = Describer(model, Recipe(), threads=0, skip_failures=True)
    with pytest.raises(UserError, match=r"descriptor of .*a\.png is not finite") as e:
        describer.describe([("all", ImageDataset(["a.png"], str(tmp_path)))]).lists[0].array()
    assert "\n" not in str(e.value)
