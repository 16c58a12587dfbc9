"""What the PyTorch side of benchmarks shares: our network, and our batches, in torch."""

from __future__ import annotations

import numpy as np
import torch

from converters.naming import to_torch_layout, torch_name
from converters.torch_network import TorchNetwork
from dir_jax.checkpoint import Preprocessing
from dir_jax.models import RetrievalNetwork
from dir_jax.models.variables import split_variables


def load_network(model: RetrievalNetwork) -> TorchNetwork:
    """The same network in PyTorch, with the same weights and statistics."""
    network = TorchNetwork(model.config)
    _, params, stats = split_variables(model)
    state = {
        torch_name(name): torch.from_numpy(to_torch_layout(name, np.asarray(value)).copy())
        for name, value in (params | stats).items()
    }
    surplus = network.load_state_dict(state, strict=False).unexpected_keys
    if surplus:
        raise ValueError(f"the two networks differ: {surplus}")
    return network


def torch_images(images: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), normalised."""
    mean, std = (torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))
    x = (torch.from_numpy(images).float() / 255 - mean) / std
    return x.permute(0, 3, 1, 2).contiguous()
