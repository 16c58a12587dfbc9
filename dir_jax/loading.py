"""From what people have to a model: a checkpoint, a training run, or another program's file.

This is the only place in `dir_jax` that knows of `converters`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from dir_jax.checkpoint import Checkpoint, read_model
from dir_jax.errors import UserError

log = logging.getLogger(__name__)


def load_model(path: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """Reads a model.

    Args:
      path: a checkpoint directory; a training run's directory; a file of PyTorch (.pt, .pth, or the
        .zip that it comes in) or a safetensors file, which is converted and kept in the user's
        cache folder. `~` is the user's home.
      **options: options of `dir_jax.models.ModelConfig` that replace the model's own, such as
        dtype='bfloat16'.

    Raises:
      UserError: there is no checkpoint, it cannot be read, it cannot be converted, or it is
        PyTorch's file and PyTorch is not installed.
    """
    path = Path(path).expanduser()
    if not path.exists() or path.is_dir():
        return read_model(path, **options)
    from converters.cache import cached_conversion

    kept = cached_conversion(path)
    try:
        return read_model(kept, **options)
    except UserError as e:
        log.warning("%s; converting %s again", e, path)
        return read_model(cached_conversion(path, again=True), **options)
