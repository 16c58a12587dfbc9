"""From what people have to a model: a checkpoint, a run, a file, an address, or a name.

This is the only place in `dir_jax` that knows of `converters`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from dir_jax.checkpoint import Checkpoint, read_model
from dir_jax.errors import UserError, did_you_mean
from dir_jax.published import known_names, published_name
from dir_jax.published.hub import SCHEME, fetch_from_hub

log = logging.getLogger(__name__)


def load_model(path: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """Reads a model.

    Args:
      path: a checkpoint directory; a training run's directory; a file of PyTorch (.pt, .pth, or the
        .zip that it comes in) or a safetensors file, which is converted and kept in the user's
        cache folder; a folder that `dir-jax publish` wrote, or hf://USER/NAME, such a folder on the
        Hugging Face hub; or the name of a published model, whose file `dir_jax.published.lookup`
        finds. `~` is the user's home.
      **options: options of `dir_jax.models.ModelConfig` that replace the model's own, such as
        dtype='bfloat16'.

    Raises:
      UserError: there is no checkpoint, it cannot be read, it cannot be converted, or it is
        PyTorch's file and PyTorch is not installed; a published file, or the hub, is not there.
    """
    path = os.path.expanduser(path)
    if (name := published_name(path)) and not Path(path).exists():
        from dir_jax.published.lookup import find_file

        path = find_file(name)
    elif path.startswith(SCHEME):
        from converters.shared_folder import FILES

        path = fetch_from_hub(path, FILES)
    elif not Path(path).exists():
        return _read_or_suggest(path, options)
    if (weights := Path(path, "model.safetensors")).is_file():
        if Path(path, "model.json").exists():
            from converters.shared_folder import read_shared

            return read_shared(path, **options)
        path = weights
    if Path(path).is_dir():
        return read_model(path, **options)
    from converters.cache import cached_conversion

    kept = cached_conversion(path)
    try:
        return read_model(kept, **options)
    except UserError as e:
        log.warning("%s; converting %s again", e, path)
        return read_model(cached_conversion(path, again=True), **options)


def _read_or_suggest(path: str, options: dict[str, Any]) -> Checkpoint:
    """What a killed writer left of the model at `path`, where now is nothing."""
    try:
        return read_model(path, **options)
    except UserError as e:
        near = did_you_mean(path, dict(known_names()))
        if near or Path(path).name == path:
            near += "; dir-jax models lists the names of published models"
        raise UserError(f"{e}{near}") from e
