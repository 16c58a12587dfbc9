"""Is a converted network the same function as its original? Both are run."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from converters.conversion import Conversion
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.models.variables import merge_variables, split_variables

_SIZES = ((224, 224), (33, 47), (181, 123))  # (height, width)
_TOLERANCE = 1e-4  # of an entry of a unit vector; float32 in another order gives about 1e-6


def verify(conversion: Conversion) -> str:
    """Compares the descriptors of random images in PyTorch and in JAX, both in float32.

    Returns:
      One line a size, with the largest difference of an entry and the cosine.

    Raises:
      UserError: torch is not installed; the two differ.
    """
    try:
        import torch

        from converters.torch_network import TorchNetwork
    except ImportError as e:
        raise UserError(
            f"--verify runs PyTorch, which cannot be imported ({e}); pip install 'dir_jax[torch]'"
        ) from e
    # Whatever the network computes in by default, this compares exact float32.
    config = dataclasses.replace(conversion.model.config, dtype="float32", precision="highest")
    graphdef = split_variables(create_model(**dataclasses.asdict(config), seed=None))[0]
    ours = merge_variables(graphdef, *split_variables(conversion.model)[1:])
    theirs = TorchNetwork(config).eval()
    counters = {k: v for k, v in theirs.state_dict().items() if k.endswith("num_batches_tracked")}
    weights = {name: torch.from_numpy(array) for name, array in conversion.state_dict.items()}
    theirs.load_state_dict(weights | counters)
    rng = np.random.default_rng(0)
    lines, worst = [], 0.0
    for height, width in _SIZES:
        images = rng.standard_normal((1, height, width, 3), np.float32)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        found = np.asarray(ours(jnp.asarray(images)))
        difference, cosine = float(np.abs(found - expected).max()), float((found * expected).sum())
        worst = max(worst, difference) if np.isfinite(difference) else np.inf
        lines.append(
            f"{height}×{width}: largest difference to PyTorch {difference:.1e}, cosine {cosine:.8f}"
        )
    if not worst <= _TOLERANCE:
        raise UserError(
            f"{conversion.path}: the converted network differs from PyTorch's by {worst:.1e} "
            f"(allowed {_TOLERANCE:.0e}): {'; '.join(lines)}"
        )
    return "\n".join(lines)
