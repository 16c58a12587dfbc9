"""Exports a checkpoint: `python -m converters.to_torch --checkpoint DIR --output FILE.pt`.

FILE.pt is laid out as the published checkpoints of Deep Image Retrieval. That toolbox and hloc load
it as they load those: by torch.load(weights_only=False), since its whitenings are objects of
scikit-learn. Converting it back gives DIR's model, bit for bit.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import argparse
import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError

if TYPE_CHECKING:
    from dir_jax.checkpoint import Checkpoint

_OURS = ("dtype", "precision")  # options that the original does not have
_INPUT_SIZE = 224  # what the original notes of every ResNet; it describes images of any size


def to_published(checkpoint: Checkpoint, *, sklearn: bool = True) -> dict[str, Any]:
    """A model as the dict that the original toolbox saves.

    Args:
      checkpoint: the model.
      sklearn: whether whitenings are objects of scikit-learn's; otherwise, and where it is not
        installed, they are dicts of tensors, see `converters.whitenings.to_dict`.

    Returns:
      `state_dict` (torch tensors), `model_options`, `preprocess`, `pca` if there are whitenings,
      and `dir_jax`, which the original does not look at: options that only we have.
    """
    import numpy as np
    import torch

    from converters.naming import to_torch_layout, torch_name
    from converters.whitenings import to_dict, to_sklearn
    from dir_jax.models.variables import split_variables

    def to_pca(whitening: Any) -> Any:
        if sklearn:
            with contextlib.suppress(ImportError):
                return to_sklearn(whitening)
        fields = to_dict(whitening).items()
        return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in fields}

    config = checkpoint.model.config
    _, params, stats = split_variables(checkpoint.model)
    state: dict[str, Any] = {}
    for name, value in (params | stats).items():
        array = to_torch_layout(name, np.array(value, np.float32))
        state[torch_name(name)] = torch.from_numpy(array)
        if name.endswith(".var"):  # torch's BatchNorm has a counter, too, and asks for it
            counter = f"{name.removesuffix('var')}num_batches_tracked"
            state[counter] = torch.zeros((), dtype=torch.int64)
    if config.without_fc:  # the original makes a projection all the same, and does not use it
        state["fc.weight"] = torch.zeros(config.out_dim, checkpoint.model.features)
        state["fc.bias"] = torch.zeros(config.out_dim)
    options, preprocess = dataclasses.asdict(config), dataclasses.asdict(checkpoint.preprocessing)
    published: dict[str, Any] = {
        "state_dict": state,
        "model_options": {key: value for key, value in options.items() if key not in _OURS},
        "preprocess": {
            **{key: list(value) for key, value in preprocess.items()},
            "input_size": _INPUT_SIZE,
        },
        "dir_jax": {key: options[key] for key in _OURS},
    }
    if checkpoint.whitenings:
        published["pca"] = {name: to_pca(w) for name, w in checkpoint.whitenings.items()}
    return published


def export(
    checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *, sklearn: bool = True
) -> None:
    """Writes a checkpoint directory, or a training run's model, as a file of torch.save.

    With `sklearn=False` today's default torch.load reads it; see `to_published`.

    Raises:
      UserError: there is no checkpoint, torch is not installed, or the file cannot be written.
    """
    try:
        import torch
    except ImportError as e:
        raise UserError(
            f"exporting needs PyTorch, which cannot be imported ({e}); pip install 'dir_jax[torch]'"
        ) from e
    from dir_jax.checkpoint import read_model
    from dir_jax.runtime.files import replacing

    published = to_published(read_model(checkpoint), sklearn=sklearn)
    with replacing(output) as scratch, scratch.open("wb") as stream:
        # The layout of the published files; every version of torch reads it.
        torch.save(published, stream, _use_new_zipfile_serialization=False)


def main(prog: str | None = None) -> int:
    """Exports as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("converters.to_torch", __doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a training run")
    add("--output", required=True, metavar="FILE.pt", help="where the file of PyTorch goes")
    add("--overwrite", action="store_true", help="replace FILE.pt")
    add("--no-sklearn", action="store_true",
        help="write whitenings as dicts of tensors (means, W, …), which torch.load reads by "
        "default (weights_only=True), instead of as scikit-learn's objects")  # fmt: skip
    return parser


def _main(args: argparse.Namespace) -> None:
    if Path(args.output).exists() and not args.overwrite:
        raise UserError(f"--output {args.output} exists; choose another, or add --overwrite")
    if not Path(args.output).absolute().parent.is_dir():
        raise UserError(f"--output {args.output}: there is no folder {Path(args.output).parent}")
    export(args.checkpoint, args.output, sklearn=not args.no_sklearn)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    sys.exit(main())
