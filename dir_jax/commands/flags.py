"""The flags that test_dir, extract_features and extract_kapture share, and what they make."""

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
    """Adds --dataset and --db-root."""
    parser.add_argument(
        "--dataset", "-d", required=True, metavar="DATASET",
        help="a name such as ROxford5K, or a text such as 'ImageList(\"list.txt\", \"folder\")'",
    )  # fmt: skip
    parser.add_argument(
        "--db-root",
        metavar="DIR",
        help="folder of the named data sets (default: $DB_ROOT)",
    )


def add_cache_flag(parser: Parser) -> None:
    """Adds --compilation-cache."""
    parser.add_argument(
        "--compilation-cache", metavar="DIR",
        help="folder that keeps compiled programs; '' for none (default: a folder in the user's "
        "cache folder)",
    )  # fmt: skip


def add_model_flags(parser: Parser, *, whiten: str | None, whitenp: float) -> None:
    """Adds --checkpoint, how images become descriptors, and on what they are computed.

    Args:
      parser: of the command.
      whiten: the default of --whiten, None for none.
      whitenp: the default of --whitenp.
    """
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH",
        help="folder of a checkpoint or of a training run, or a PyTorch file, which is converted",
    )  # fmt: skip
    group = parser.add_argument_group("descriptors")
    add = group.add_argument
    add(
        "--trfs", nargs="+", default=[""], metavar="CHAIN",
        help="transforms of the images, such as 'Scale(1050), Pad(800)'; several chains are "
        "several scales, whose descriptors are pooled (default: images as they are)",
    )  # fmt: skip
    add(
        "--pooling", default="gem",
        help="how the descriptors of several scales are pooled: gem or mean (default: gem)",
    )  # fmt: skip
    add("--gemp", type=float, default=3, metavar="P", help="power of pooling by gem (default: 3)")
    add(
        "--center-bias", type=float, metavar="B",
        help="extra weight of the image's centre (default: the model's own)",
    )  # fmt: skip
    add(
        "--whiten", default=whiten, metavar="NAME",
        help="name of one of the checkpoint's whitenings; '' for none "
        f"(default: {whiten or 'none'})",
    )  # fmt: skip
    add(
        "--whitenp", type=float, default=whitenp, metavar="P",
        help=f"power of the variances that whitening divides by (default: {whitenp})",
    )  # fmt: skip
    add(
        "--whitenv",
        type=int,
        metavar="N",
        help="number of components that whitening keeps (default: all)",
    )
    add(
        "--whitenm",
        type=float,
        default=1.0,
        metavar="M",
        help="constant factor of what whitening divides by (default: 1)",
    )
    group = parser.add_argument_group("running")
    add = group.add_argument
    add(
        "--threads", type=int, default=8, metavar="N",
        help="number of processes that decode images, at most one per core (default: 8)",
    )  # fmt: skip
    add(
        "--gpu", type=int, nargs="+", metavar="N",
        help="numbers of the accelerators to use; -1 for the CPU (default: the first accelerator, "
        "or the CPU where there is none)",
    )  # fmt: skip
    add(
        "--dtype", choices=("float32", "bfloat16"),
        help="type in which the network computes (default: the model's own)",
    )  # fmt: skip
    add(
        "--precision", choices=("highest", "high", "default"),
        help="precision of float32 products on accelerators: highest is exact, default may use "
        "TF32 (default: the model's own)",
    )  # fmt: skip
    add(
        "--on-error", choices=("stop", "skip"), default="stop",
        help="what to do at an image that cannot be used (default: stop)",
    )  # fmt: skip
    add_cache_flag(parser)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """How images become descriptors, as the flags say.

    Raises:
      UserError: a transform cannot be read, or --threads is negative.
    """
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
    """The model of --checkpoint, with the options that flags give.

    Raises:
      UserError: the model cannot be read, or has no centre bias that could be set.
    """
    from dir_jax.checkpoint import load_model

    names = ("center_bias", "dtype", "precision")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    checkpoint = load_model(args.checkpoint, **given)
    if args.center_bias is not None and "_fpn" in checkpoint.model.config.arch:
        raise UserError(
            f"--center-bias cannot be used: {checkpoint.model.config.arch} has no centre bias"
        )
    return checkpoint


def create_describer(args: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Describer:
    """The describer that the flags describe."""
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
    """Sets up logging and JAX; to be called before anything uses a device."""
    import jax

    from dir_jax.runtime.compiler import set_up_jax

    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if args.gpu == [-1]:
        jax.config.update("jax_platforms", "cpu")
    set_up_jax(args.compilation_cache)
