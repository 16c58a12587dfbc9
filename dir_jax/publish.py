"""Writes a model for others: `dir-jax publish runs/mine --to FOLDER`, or `--to hf://USER/NAME`.

The folder has safetensors with torchvision's and DIR's names, model.json, and a model card with the
recipe, the data and the results. `dir_jax.load(FOLDER)` and `dir_jax.load("hf://USER/NAME")` read
it, and so does --checkpoint. The hub needs `pip install 'dir_jax[hub]'` and `hf auth login`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError, shown

if TYPE_CHECKING:
    from dir_jax.checkpoint import Checkpoint


def main(prog: str | None = None) -> int:
    """Publishes as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    parser = Parser("dir_jax.publish", __doc__)
    add = parser.add_argument
    add("model", metavar="RUN", help="a training run, a checkpoint, a PyTorch file, or a name")
    add("--to", required=True, metavar="WHERE", help="a folder, or hf://USER/NAME")
    add("--license", metavar="ID", default="",
        help="the model's licence as the hub names it, such as cc-by-4.0")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the folder")
    return run_parsed(parser, _main, prog)


def _main(args: argparse.Namespace) -> None:
    from dir_jax.published.hub import SCHEME, check_address, send_to_hub
    from dir_jax.runtime.folders import check_replaceable

    if not re.fullmatch(r"[\w.+-]*", args.license):
        raise UserError(f"--license {shown(args.license)} is not a name such as cc-by-4.0")
    to_hub = args.to.startswith(SCHEME)
    if to_hub:
        check_address(args.to)
    elif Path(args.to).exists() and not args.overwrite:
        raise UserError(f"--to {args.to} exists; choose another folder, or add --overwrite")
    else:
        check_replaceable(Path(args.to), "model.json", "a published model")
    from dir_jax.loading import load_model

    checkpoint = load_model(args.model)
    if to_hub:
        with tempfile.TemporaryDirectory() as scratch:
            _write(Path(scratch) / "model", checkpoint, args)
            print("wrote", send_to_hub(Path(scratch) / "model", args.to))
    else:
        _write(Path(args.to), checkpoint, args)
        print(f"wrote {args.to}")


def _write(folder: Path, checkpoint: Checkpoint, args: argparse.Namespace) -> None:
    """Writes the folder, whole or not at all."""
    from converters.shared_folder import write_shared
    from dir_jax.published import PUBLISHED, published_name
    from dir_jax.published.card import model_card
    from dir_jax.runtime.folders import replacing_folder

    name = args.to.rstrip("/").rpartition("/")[2].partition("@")[0]
    licence = args.license
    if not licence and (published := published_name(args.model)):
        licence = PUBLISHED[published].family.licence.lower()
    card = model_card(name, args.to, checkpoint, Path(args.model), licence)
    try:
        with replacing_folder(folder.absolute(), overwrite=args.overwrite) as new:
            new.mkdir()
            write_shared(new, checkpoint)
            (new / "README.md").write_text(card)
    except OSError as e:
        raise UserError(f"cannot write {folder}: {e.strerror or e}") from e


if __name__ == "__main__":
    sys.exit(main())
