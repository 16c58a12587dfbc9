"""`extract_features --shards`: which shards a process describes, and by what."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dir_jax.commands.flags import create_describer
from dir_jax.errors import UserError, quoted, shown

if TYPE_CHECKING:
    from dir_jax.describe.shards import ShardedExtraction

# What the schedulers of arrays of jobs call the number of a job: Slurm, Kubernetes.
_NUMBERED = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")


def check_shard_flags(args: argparse.Namespace) -> bool:
    """Whether the flags ask for shards. Raises UserError where they do not fit together."""
    from dir_jax.describe.sharded_files import MOST_SHARDS, is_sharded

    if args.shards is None:
        for flag, given in (
            ("--shard", args.shard is not None),
            ("--engine ray", args.engine == "ray"),
            ("--workers", args.workers is not None),
        ):
            if given:
                raise UserError(f"{flag} needs --shards, into how many the list is divided")
        if is_sharded(args.output):
            raise UserError(f"--output {shown(args.output)} has shards; --shards is missing")
        return False
    if not 1 <= args.shards <= MOST_SHARDS:
        raise UserError(f"--shards is {args.shards}; expected a number from 1 to {MOST_SHARDS}")
    if args.overwrite or args.append:
        raise UserError(
            "--overwrite and --append are for files; with --shards, finished shards are kept: "
            "delete the folder, or a shard's own in it, to describe it again"
        )
    if Path(args.output).suffix in (".npy", ".h5") or os.path.isfile(args.output):
        raise UserError(
            f"--output {shown(args.output)} is the name of a file; with --shards, expected that of "
            "a folder"
        )
    if args.workers is not None and (args.engine != "ray" or args.workers < 1):
        raise UserError("--workers is for --engine ray, and expected to be at least 1")
    if args.engine == "ray" and args.shard is not None:
        raise UserError("--engine ray describes all shards; --shard is for one process of many")
    return True


def shard_number(args: argparse.Namespace) -> int | None:
    """The shard that this process is for, or None for all. Raises UserError for a wrong number."""
    if args.engine == "ray":
        return None
    given = {"--shard": args.shard} | {f"${name}": os.environ.get(name) for name in _NUMBERED}
    for where, value in given.items():
        if value in (None, ""):
            continue
        number = int(value) if str(value).isascii() and str(value).isdigit() else -1
        if not 0 <= number < args.shards:
            raise UserError(
                f"{where} is {quoted(value)}; expected a shard's number, from 0 to "
                f"{args.shards - 1}"
            )
        return number
    return None


def extract_shards(args: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    """Describes the shards that the flags ask for, and says what was written."""
    number = shard_number(args)
    if args.engine == "ray":
        from dir_jax.commands.on_ray import extract_on_ray

        extract_on_ray(functools.partial(open_extraction, args, changes), args.shards, args.workers)
        return
    shards = open_extraction(args, changes)
    if number is not None:
        print(shards.describe(number))
        return
    for said in shards.describe_all():
        print(said, flush=True)


def open_extraction(args: argparse.Namespace, changes: Mapping[str, Any]) -> ShardedExtraction:
    """Reads the list and the model, and agrees with other processes on what is described."""
    from dir_jax.data.datasets import create_dataset
    from dir_jax.describe.describer import queries_of
    from dir_jax.describe.shards import ShardedExtraction

    dataset = create_dataset(args.dataset, db_root=args.db_root, on_duplicate=args.on_duplicate)
    queries = queries_of(dataset)
    lists = [dataset] if queries is None else [dataset, queries]
    describer = create_describer(args, changes)
    return ShardedExtraction(args.output, lists, args.shards, describer)
