"""From what people have to a model: a checkpoint, a training run, or another program's file.

This is the only place in `dir_jax` that knows of `converters`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dir_jax.checkpoint import Checkpoint, read_model


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
    if Path(path).exists() and not Path(path).is_dir():
        from converters.cache import cached_conversion

        path = cached_conversion(path)
    return read_model(path, **options)
