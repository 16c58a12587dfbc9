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
