"""Describing on the devices that are given."""

import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.checkpoint import read_model, save_model
from dir_jax.describe import describer as module
from dir_jax.describe.describer import Describer, Recipe
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
