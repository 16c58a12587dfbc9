"""Evaluates a model: `python -m dir_jax.test_dir --dataset ROxford5K --checkpoint models/ap_gem`.

Prints the protocol of the data set and its measures: easy, medium and hard for the revisited sets;
for labelled sets every image queries all others, unless the set has queries of its own. The
revisited and the classic sets are downloaded to $DB_ROOT if they are not there.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dir_jax.commands.flags import (
    add_dataset_flags,
    add_model_flags,
    create_describer,
    recipe_changes,
)
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError, shown

if TYPE_CHECKING:
    import numpy as np

    from dir_jax.data.images import ImageDataset
    from dir_jax.describe.describer import Describer
    from dir_jax.describe.stored_rows import StoredRows
    from dir_jax.evaluation import Evaluation
    from dir_jax.retrieval.blockwise import Rows

    Found = tuple[np.ndarray, np.ndarray | None, Rows | None]  # database, queries, distractors


_LEARN = "learn:"  # before a data set that --whiten learns from


def main(prog: str | None = None) -> int:
    """Evaluates as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.test_dir", __doc__)
    add_dataset_flags(parser)
    add_model_flags(parser, optional=True)
    group = parser.add_argument_group("search")
    for name, what in (("aqe", "query expansion"), ("adba", "database augmentation")):
        group.add_argument(
            f"--{name}", nargs="+", metavar="N",
            help=f"alpha-weighted {what}: the number of neighbours and alpha, as in --{name} 10 3",
        )  # fmt: skip
    group.add_argument(
        "--distractors", metavar="WHAT",
        help="more images to search: R1M, a list such as those of --dataset, or their descriptors "
        "in a .npy file or in the folder of extract_features --shards, read in blocks",
    )  # fmt: skip
    group = parser.add_argument_group("results")
    add = group.add_argument
    add(
        "--out-json",
        metavar="FILE",
        help="adds the results to this file, under the data set's name",
    )
    add("--detailed", action="store_true", help="adds the values of each query to --out-json")
    add(
        "--report",
        metavar="FILE.html",
        help="writes a page that shows the queries and their results",
    )
    add(
        "--save-feats", metavar="DIR",
        help="also writes the descriptors before whitening, to DIR/feats.bdescs.npy and "
        "DIR/feats.qdescs.npy",
    )  # fmt: skip
    add(
        "--load-feats", metavar="PATH",
        help="evaluates descriptors instead of describing images: the folder of --save-feats, or "
        "the .npy file or the folder of extract_features; with --checkpoint, they are whitened "
        "first, unless they are already",
    )  # fmt: skip
    return parser


def _main(args: argparse.Namespace) -> None:
    import jax

    from dir_jax.commands.distractors import find_distractors
    from dir_jax.commands.stored_features import load_features
    from dir_jax.data.datasets import create_dataset
    from dir_jax.describe.feature_files import make_folder
    from dir_jax.evaluation import (
        check_can_be_evaluated,
        check_distractors,
        check_expansions,
        evaluate_descriptors,
        expand_descriptors,
        protocol_of,
    )

    changes = recipe_changes(args)
    aqe, adba = _expansion("aqe", args.aqe), _expansion("adba", args.adba)
    results = _read_results(args.out_json)
    if args.save_feats and args.load_feats:
        raise UserError("--save-feats and --load-feats together only copy files; give one of them")
    if not (args.checkpoint or args.load_feats):
        raise UserError("--checkpoint is missing; only --load-feats can do without a model")
    dataset = _create_dataset(args)
    learn_from = None
    if args.whiten and args.whiten.startswith(_LEARN):
        learn_from = create_dataset(
            args.whiten.removeprefix(_LEARN), db_root=args.db_root, on_duplicate=args.on_duplicate
        )
    print("Test dataset:", dataset)
    check_can_be_evaluated(dataset)
    print("Protocol:", protocol_of(dataset))
    check_distractors(dataset, args.distractors is not None)
    check_expansions(dataset, aqe, adba, distractors=args.distractors is not None)
    if args.distractors and args.report:
        raise UserError("--report shows the data set's own images; leave out --distractors")
    for file in (args.out_json, args.report, args.save_feats and f"{args.save_feats}/feats"):
        if file:
            make_folder(file)
    more = find_distractors(args.distractors, args.db_root)
    if args.load_feats:
        loaded = load_features(args, changes, dataset, learn_from, more)
        _print_left_out(loaded.failures)
        database, queries, distractors = loaded.database, loaded.queries, loaded.distractors
        how, exif, device = loaded.how, loaded.exif, loaded.device
    else:
        describer = create_describer(args, changes, learn_from)
        database, queries, distractors = _describe(args, describer, dataset, more)
        how, exif, device = str(describer), describer.recipe.exif, describer.devices[0]
    if distractors is not None:
        print(f"Searched: {len(database)} images and {len(distractors)} distractors")
    with jax.default_device(device):
        database, queries = expand_descriptors(
            database, queries, distractors=distractors, aqe=aqe, adba=adba
        )
        evaluation = evaluate_descriptors(
            dataset, database, queries, distractors=distractors, allow_missing=True
        )
        for name, value in evaluation.metrics.items():
            # The original's word on its lines; everywhere else it is recall@K.
            print(f" * {name.replace('recall@', 'top')} = {value:g}")
        if args.out_json:
            _write_results(args, results, evaluation)
            print(f"saved to {args.out_json}")
        if args.report:
            _write_report(args, dataset.with_exif(exif), evaluation, database, queries, how)
            print(f"saved to {args.report}")


def _expansion(flag: str, values: list[str] | None) -> tuple[int, float] | None:
    if values is None:
        return None
    try:
        k, alpha = values
        return int(k), float(alpha)
    except ValueError:
        raise UserError(
            f"--{flag} {' '.join(values)}: expected two numbers, the number of neighbours and "
            f"alpha, as in --{flag} 10 3"
        ) from None


def _read_results(file: str | None) -> dict[str, Any]:
    from dir_jax.runtime.reading import read_json

    if not file or not os.path.exists(file):
        return {}
    try:
        results = read_json(file)
        if not isinstance(results, dict):
            raise UserError("it does not hold an object")
        json.dumps(results, indent=1)  # as it will be written, which fails earlier than reading
    except (UserError, RecursionError) as e:
        why = e if isinstance(e, UserError) else "it is nested too deeply"
        raise UserError(f"--out-json {shown(file)} cannot be added to: {why}") from e
    return results


def _create_dataset(args: argparse.Namespace) -> ImageDataset:
    from dir_jax.data.datasets import create_dataset

    db_root = os.path.expanduser(args.db_root or os.environ.get("DB_ROOT", ""))
    if args.dataset.isidentifier() and db_root and not args.load_feats:
        # Not where the data set is a list or a folder: `requests` takes long to import.
        from dir_jax.data.download import DOWNLOADABLE, download_dataset

        if args.dataset in DOWNLOADABLE:
            download_dataset(args.dataset, db_root)
    return create_dataset(
        args.dataset, db_root=db_root, labelled=True, on_duplicate=args.on_duplicate
    )


def _describe(
    args: argparse.Namespace,
    describer: Describer,
    dataset: ImageDataset,
    more: ImageDataset | StoredRows | None,
) -> Found:
    from dir_jax.commands.distractors import whitened_distractors
    from dir_jax.describe.describer import describe_with_queries
    from dir_jax.describe.stored_rows import StoredRows

    stored = more if isinstance(more, StoredRows) else None
    listed = None if isinstance(more, StoredRows) else more
    if args.save_feats:
        rows = _save_features(args.save_feats, describer, dataset, listed)
    else:
        found = describe_with_queries(describer, dataset, distractors=listed).lists
        _print_left_out([descriptors.failures for descriptors in found])
        kept = len(found) - (listed is not None)
        rows = [*(descriptors.array() for descriptors in found[:kept]), *found[kept:]]
    distractors = (
        rows.pop() if listed is not None else whitened_distractors(stored, describer, None)
    )
    return rows[0], rows[1] if len(rows) > 1 else None, distractors


def _save_features(
    folder: str, describer: Describer, dataset: ImageDataset, distractors: ImageDataset | None
) -> list[Any]:
    """Describes and writes the descriptors before whitening; returns them whitened."""
    from dir_jax.describe.describer import describe_with_queries, queries_of
    from dir_jax.describe.feature_files import save_descriptors, saved_paths, wrote
    from dir_jax.describe.stored_rows import StoredRows
    from dir_jax.model_recipe import write_recipe

    stem = os.path.join(folder, "feats")
    described = describe_with_queries(
        describer, dataset, f"{stem}.partial", distractors=distractors, whiten=False
    )
    _print_left_out([descriptors.failures for descriptors in described.lists])
    found: list[Any] = []
    paths = saved_paths(stem, queries_of(dataset) is not None, distractors is not None)
    for path, descriptors in zip(paths, described.lists, strict=True):
        save_descriptors(path, descriptors)
        digest = describer.model_digest(whitened=False)
        write_recipe(path, describer.recipe.changed(whiten=""), digest)
        print(wrote(path, descriptors))
        if descriptors.dataset is distractors:
            found.append(StoredRows(path, describer.whiten, describer.finished_size))
        else:
            found.append(describer.whiten(descriptors.array()))
    described.delete_partial()
    return found


def _print_left_out(failures: Sequence[Mapping[int, str]]) -> None:
    reasons = [reason for each in failures for reason in each.values()]
    for reason in reasons:
        print(f"left out: {reason}", file=sys.stderr)
    if reasons:
        print(f"left out: {len(reasons)} images")


def _write_results(
    args: argparse.Namespace, results: dict[str, Any], evaluation: Evaluation
) -> None:
    from dir_jax.runtime.files import write_text

    detailed = evaluation.detailed() if args.detailed else {}
    results = {**results, args.dataset: {**detailed, **evaluation.metrics}}
    write_text(args.out_json, json.dumps(results, indent=1))


def _write_report(
    args: argparse.Namespace,
    dataset: ImageDataset,
    evaluation: Evaluation,
    database: np.ndarray,
    queries: np.ndarray | None,
    how: str,
) -> None:
    from dir_jax.evaluation import rankings_to_show
    from dir_jax.report import JudgedRankings, write_report

    shown, rankings, scores = rankings_to_show(dataset, evaluation, database, queries)
    flags = {
        "Data set": args.dataset,
        "Checkpoint": args.checkpoint or "none",
        "Descriptors": how,
        "Query expansion": " ".join(args.aqe) if args.aqe else "none",
        "Database augmentation": " ".join(args.adba) if args.adba else "none",
    }
    write_report(
        args.report,
        JudgedRankings(dataset, evaluation.metrics, evaluation.aps, shown, rankings, scores),
        title=args.dataset,
        settings=flags,
    )


if __name__ == "__main__":
    sys.exit(main())
