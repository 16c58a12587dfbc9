"""The flags that test_dir, extract_features and extract_kapture share, and what they mean."""

from __future__ import annotations

import argparse
import functools
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dir_jax.commands.running import Parser
from dir_jax.errors import UserError, shown

if TYPE_CHECKING:
    import jax

    from dir_jax.data.images import ImageDataset
    from dir_jax.describe.describer import Describer
    from dir_jax.search.index import Index

log = logging.getLogger(__name__)


# fmt: off
def add_dataset_flags(parser: Parser) -> None:
    """Adds --dataset, and --db-root, where the named data sets are."""
    parser.add_argument("--dataset", "-d", required=True, metavar="DATASET",
        help="a folder of pictures, a list (.txt, .csv, .tsv, .json), a picture, a pattern such as "
        "'photos/*.jpg', a name such as ROxford5K, or a call such as "
        "'ImageList(\"list.txt\", \"folder\")'")
    parser.add_argument("--db-root", metavar="DIR",
        help="folder of the named data sets (default: $DB_ROOT)")
    parser.add_argument("--on-duplicate", choices=("keep", "drop"), default="keep",
        help="what to do about a file that a list has twice: keep both rows, or drop all but the "
        "first (default: keep)")


def add_cache_flag(parser: Parser) -> None:
    """Adds --compilation-cache."""
    parser.add_argument("--compilation-cache", metavar="DIR",
        help="folder that keeps compiled programs; '' for none (default: "
        "$JAX_COMPILATION_CACHE_DIR, or a folder in the user's cache folder)")


def add_process_flags(parser: Parser) -> None:
    """Adds the flags of training in several processes, and of ending one."""
    group = parser.add_argument_group("several processes", "docs/several-machines.md has examples.")
    add = group.add_argument
    add("--distributed", choices=("auto", "on", "off"), default="auto",
        help="whether this is one of several processes that train together (default: auto, which "
        "asks Slurm, Open MPI and Cloud TPU)")
    add("--coordinator-address", metavar="HOST:PORT", help="where the others find process 0")
    add("--num-processes", type=int, metavar="N", help="how many processes there are")
    add("--process-id", type=int, metavar="N", help="which of them this is, from 0")
    add("--exit-code-on-preemption", type=int, default=0, metavar="N",
        help="the exit code after SIGTERM, SIGHUP or JAX's preemption notice, when the run has "
        "been saved (default: 0)")


def add_model_flags(parser: Parser, *, optional: bool = False, whitens: bool = True) -> None:
    """Adds --checkpoint, how images become descriptors, and where that is computed.

    Without `whitens` there are no flags of whitening.
    """
    parser.add_argument("--checkpoint", required=not optional, metavar="PATH",
        help="a checkpoint directory, a training run's directory, a PyTorch file, or the name of a "
        "published model (dir-jax models lists them)")
    group = parser.add_argument_group("descriptors", "The defaults are the model's own recipe.")
    add = group.add_argument
    add("--trfs", nargs="+", metavar="CHAIN",
        help="transforms such as 'Scale(1050), Pad(800)'; '' is the image as it is; with several "
        "chains, each image is described at several scales, which are pooled")
    add("--multiscale", nargs="*", metavar="FACTOR",
        help="describes each image at these scales, as CNN Image Retrieval in PyTorch does "
        "(without factors: 1, 1/sqrt(2) and 1/2)")
    add("--exif", action=argparse.BooleanOptionalAction,
        help="whether images are turned as their EXIF data says, or described as they are stored")
    add("--pooling", metavar="HOW", help="how scales are pooled: gem, mean or cirtorch")
    add("--gemp", type=float, metavar="P", help="the power of gem and cirtorch")
    add("--center-bias", type=float, metavar="B",
        help="how much more the centre of the image weighs")
    if whitens:
        add("--whiten", metavar="NAME",
            help="the name of one of the checkpoint's whitenings; '' for none; test-dir also takes "
            "learn:DATASET, a PCA of these images, for one evaluation")
        add("--whitenp", type=float, metavar="P",
            help="whitening divides by this power of the variance")
        add("--whitenv", type=int, metavar="N", help="dimensions that whitening keeps")
        add("--whitenm", type=float, metavar="M",
            help="a constant factor of what whitening divides by")
    add = add_running_flags(parser).add_argument
    add("--dtype", choices=("float32", "bfloat16"),
        help="the number format that the network computes in (default: as the model says)")
    add("--precision", choices=("highest", "high", "default"),
        help="the precision of float32 products on accelerators: highest is exact, default may be "
        "TF32 (default: as the model says)")
    add("--on-error", choices=("stop", "skip"), default="stop",
        help="what to do where an image cannot be used: stop, or skip it (default: stop)")
    add("--dbg", nargs="*", metavar="OPTION",
        help="accepted because the original has it; without effect")


def add_running_flags(parser: Parser) -> argparse._ArgumentGroup:
    """Adds where, and by how many processes, images are described; returns the flags' group."""
    group = parser.add_argument_group("running")
    add = group.add_argument
    add("--threads", type=int, default=8, metavar="N",
        help="how many processes decode images, at most one for each core (default: 8)")
    add("--gpu", type=int, nargs="+", metavar="N",
        help="the numbers of the accelerators to use, or -1 for the CPU (default: all of this "
        "machine, or the CPU if there is none)")
    add_cache_flag(parser)
    return group


def add_index_flags(parser: Parser) -> None:
    """Adds --checkpoint and what `add_running_flags` adds, for a command that opens an index."""
    parser.add_argument("--checkpoint", metavar="PATH",
        help="the model that made the index, if it is elsewhere now")
    add_running_flags(parser)


def open_index(args: argparse.Namespace, path: str) -> Index:
    """Opens an index on the device of --gpu."""
    from dir_jax.search.index import Index

    devices = set_up_devices(args)
    return Index(path, checkpoint=args.checkpoint, devices=devices, threads=args.threads)
# fmt: on


def recipe_changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags change in a model's recipe. Raises UserError for a value that is not valid."""
    from dir_jax.model_recipe import MULTISCALE, Recipe

    if args.threads < 0:
        raise UserError(f"--threads is {args.threads}; expected 0 or more")
    names = ("exif", "pooling", "gemp", "whiten", "whitenp", "whitenv", "whitenm")
    changes = {name: getattr(args, name, None) for name in names}
    changes["trfs"] = None if args.trfs is None else tuple(args.trfs)
    if args.multiscale is not None:
        changes["scales"] = tuple(map(_factor, args.multiscale)) or MULTISCALE
    chains = {**changes, "scales": None}
    for flag, parts in (("--trfs", chains), ("--multiscale", changes)):
        try:
            recipe = Recipe().changed(**parts)
            recipe.transforms()
        except UserError as e:
            raise UserError(f"{flag}: {e}") from e
    recipe.check("flags")
    return changes


def _factor(text: str) -> float:
    """A factor of --multiscale: a number, or such as 1/2, sqrt(2), 1/sqrt(2)."""
    match = re.fullmatch(r"(?:(\d{1,9})/)?(sqrt\()?(\d{0,9}\.?\d{1,18})(?(2)\))", text)
    number = float(match[3]) ** (0.5 if match[2] else 1) if match else 0
    if not match or number == 0:
        raise UserError(f"--multiscale {shown(text)} is not a number such as 0.5 or 1/sqrt(2)")
    return float(match[1]) / number if match[1] else number


def set_up_devices(args: argparse.Namespace) -> list[jax.Device]:
    """Sets up JAX, before any device is used, and returns the devices of --gpu.

    Raises:
      UserError: there is no such device.
    """
    import jax

    from dir_jax.runtime.compiler import set_up_jax
    from dir_jax.runtime.devices import select_devices

    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if args.gpu == [-1]:
        jax.config.update("jax_platforms", "cpu")
    set_up_jax(args.compilation_cache)
    return select_devices(args.gpu)


def create_describer(
    args: argparse.Namespace,
    changes: Mapping[str, Any],
    learn_from: ImageDataset | None = None,
) -> Describer:
    """Loads --checkpoint, and makes the describer of its recipe with some changes.

    The recipe is printed. No device may have been used before. With `learn_from`, the whitening of
    `changes` is a PCA that is first learned from those images.

    Raises:
      UserError: the checkpoint cannot be read, an option or the recipe does not fit it, or there is
        no such device.
    """
    from dir_jax.describe.describer import Describer
    from dir_jax.loading import load_model

    devices = set_up_devices(args)
    names = ("center_bias", "dtype", "precision")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    checkpoint = load_model(args.checkpoint, **given)
    if learn_from is None and (changes.get("whiten") or "").startswith("learn:"):
        raise UserError(
            f"--whiten {shown(changes['whiten'])}: only test-dir learns a whitening for one "
            "evaluation; dir-jax whiten adds one to the model"
        )
    arch = checkpoint.model.config.arch
    if args.center_bias is not None and "_fpn" in arch:
        raise UserError(f"--center-bias does not apply to {arch}, which has no centre bias")
    describer_of = functools.partial(
        Describer,
        devices=devices,
        threads=args.threads,
        skip_failures=args.on_error == "skip",
    )
    if learn_from is not None:
        from dir_jax.describe.learned_whitening import learn_from_images

        plain = describer_of(checkpoint, checkpoint.recipe.changed(**{**changes, "whiten": ""}))
        dims, width = changes["whitenv"], plain.descriptor_size
        if dims is not None and dims > width:
            raise UserError(
                f"cannot keep {dims} dimensions (--whitenv): the descriptors have {width}"
            )
        whitening = learn_from_images(plain, learn_from, dims=dims)
        checkpoint.whitenings[changes["whiten"]] = whitening
    describer = describer_of(checkpoint, checkpoint.recipe.changed(**changes))
    idle = [
        f"--{name}" for name in ("whitenp", "whitenv", "whitenm") if changes.get(name) is not None
    ]
    if idle and not describer.recipe.whiten:
        log.warning("%s: without effect, as nothing is whitened (see --whiten)", ", ".join(idle))
    print("Descriptors:", describer)
    return describer
