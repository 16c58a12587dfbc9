"""From what people have to a model: a checkpoint, a training run, or another program's file.

This is the only place in `dir_jax` that knows of `converters`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dir_jax.checkpoint import Checkpoint, find_checkpoint, read_model


def load_model(path: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """Reads a model.

    Args:
      path: a checkpoint directory; a training run's directory; a file of PyTorch (.pt, .pth, or the
        .zip that it comes in) or a safetensors file, which is converted and kept in the user's
        cache folder.
      **options: options of `dir_jax.models.ModelConfig` that replace the model's own, such as
        dtype='bfloat16'.

    Raises:
      UserError: there is no checkpoint, it cannot be read, it cannot be converted, or it is
        PyTorch's file and PyTorch is not installed.
    """
    return read_model(resolve_checkpoint(path), **options)


def resolve_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint directory that `path` means; a file is converted the first time.

    Raises:
      UserError: as `load_model`.
    """
    if Path(path).is_dir() or not Path(path).exists():
        return find_checkpoint(path)
    from converters.cache import cached_conversion

    return cached_conversion(path)
