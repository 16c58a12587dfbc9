"""The flags that test_dir, extract_features and extract_kapture share, and what they stand for."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from dir_jax.commands.running import Parser
from dir_jax.errors import UserError

if TYPE_CHECKING:
    from dir_jax.checkpoint import Checkpoint
    from dir_jax.describe.describer import Describer, Recipe


def add_dataset_flags(parser: Parser) -> None:
    """--dataset and where named ones are."""
    parser.add_argument(
        "--dataset", "-d", required=True, metavar="DATASET",
        help="a name such as ROxford5K, or such as 'ImageList(\"list.txt\", \"folder\")'",
    )  # fmt: skip
    parser.add_argument(
        "--db-root", metavar="DIR", help="the folder of the named data sets (default: $DB_ROOT)"
    )


def add_model_flags(parser: Parser, *, whiten: str | None, whitenp: float) -> None:
    """The checkpoint, how images become descriptors, and what runs it; two defaults differ."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH",
        help="a checkpoint directory, a training run's, or a file of PyTorch, which is converted",
    )  # fmt: skip
    group = parser.add_argument_group("descriptors")
    add = group.add_argument
    add(
        "--trfs", nargs="+", default=[""], metavar="CHAIN",
        help="transforms such as 'Scale(1050), Pad(800)'; several are several scales, to be pooled "
        "(default: images as they are)",
    )  # fmt: skip
    add("--pooling", default="gem", help="of several scales: gem or mean (default: gem)")
    add("--gemp", type=float, default=3, metavar="P", help="power of that pooling (default: 3)")
    add(
        "--center-bias", type=float, metavar="B",
        help="weight of the image's centre, instead of the model's own",
    )  # fmt: skip
    add(
        "--whiten", default=whiten, metavar="NAME",
        help="one of the checkpoint's whitenings; '' for none "
        f"(default: {whiten or 'none'})",
    )  # fmt: skip
    add(
        "--whitenp", type=float, default=whitenp, metavar="P",
        help=f"power of the variance that it divides by (default: {whitenp})",
    )  # fmt: skip
    add("--whitenv", type=int, metavar="N", help="components to keep (default: all)")
    add("--whitenm", type=float, default=1.0, metavar="M", help="factor of it (default: 1)")
    group = parser.add_argument_group("running")
    add = group.add_argument
    add(
        "--threads", type=int, default=8, metavar="N",
        help="processes that decode images, at most one a core (default: 8)",
    )  # fmt: skip
    add(
        "--gpu", type=int, nargs="+", metavar="N",
        help="accelerators by number, -1 for the CPU (default: the first, or the CPU)",
    )  # fmt: skip
    add(
        "--dtype", choices=("float32", "bfloat16"),
        help="what the network computes in, instead of the model's own",
    )  # fmt: skip
    add(
        "--precision", choices=("highest", "high", "default"),
        help="of float32 products on accelerators: highest is exact, default may be TF32; instead "
        "of the model's own",
    )  # fmt: skip
    add(
        "--on-error", choices=("stop", "skip"), default="stop",
        help="what to do about an image that cannot be used (default: stop)",
    )  # fmt: skip
    add(
        "--compilation-cache", metavar="DIR",
        help="keeps compiled programs; '' for none (default: in the user's cache folder)",
    )  # fmt: skip


def recipe_of(args: argparse.Namespace) -> Recipe:
    """How images become descriptors, from the flags; refuses transforms that cannot be read."""
    from dir_jax.describe.describer import Recipe

    if args.threads < 0:
        raise UserError(f"--threads is {args.threads}; expected 0 or more")
    recipe = Recipe(
        trfs=tuple(args.trfs),
        pooling=args.pooling,
        gemp=args.gemp,
        whiten=args.whiten or None,
        whitenp=args.whitenp,
        whitenv=args.whitenv,
        whitenm=args.whitenm,
    )
    try:
        recipe.transforms()
    except UserError as e:
        raise UserError(f"--trfs: {e}") from e
    return recipe


def load_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """The model of --checkpoint, with the options that flags give."""
    from dir_jax.loading import load_model

    names = ("center_bias", "dtype", "precision")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    checkpoint = load_model(args.checkpoint, **given)
    if args.center_bias is not None and "_fpn" in checkpoint.model.config.arch:
        raise UserError(
            f"--center-bias has no meaning for {checkpoint.model.config.arch}, which has none"
        )
    return checkpoint


def create_describer(args: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Describer:
    """What describes images as the flags say."""
    from dir_jax.describe.describer import Describer
    from dir_jax.runtime.devices import select_devices

    return Describer(
        checkpoint,
        recipe,
        devices=select_devices(args.gpu),
        threads=args.threads,
        skip_failures=args.on_error == "skip",
    )


def set_up(args: argparse.Namespace) -> None:
    """jax's settings; before anything uses a device."""
    import jax

    from dir_jax.runtime.compiler import set_up_jax

    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if args.gpu == [-1]:
        jax.config.update("jax_platforms", "cpu")
    set_up_jax(args.compilation_cache)
