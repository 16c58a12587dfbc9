"""Evaluates a model: `python -m dir_jax.test_dir --dataset ROxford5K --checkpoint models/ap_gem`.

Prints mAP by the protocol of the data set: easy, medium and hard for the revisited sets; for
labelled sets every image queries all others, unless the set has queries of its own. The revisited
and the classic sets are downloaded to $DB_ROOT if they are not there.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dir_jax.commands.flags import add_dataset_flags, add_model_flags, create_describer, recipe_of
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError, shown

if TYPE_CHECKING:
    import numpy as np

    from dir_jax.data.images import ImageDataset
    from dir_jax.describe.describer import Describer
    from dir_jax.evaluation import Evaluation


def main(prog: str | None = None) -> int:
    """Evaluates as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.test_dir", __doc__)
    add_dataset_flags(parser)
    add_model_flags(parser, whiten="Landmarks_clean", whitenp=0.25)
    group = parser.add_argument_group("search")
    for name, what in (("aqe", "query expansion"), ("adba", "database augmentation")):
        group.add_argument(
            f"--{name}", nargs="+", metavar="N",
            help=f"alpha-weighted {what}: the number of neighbours and alpha, as in --{name} 10 3",
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
        "--save-feats", metavar="PATH",
        help="only writes the descriptors before whitening, to PATH.bdescs.npy and "
        "PATH.qdescs.npy",
    )  # fmt: skip
    add(
        "--load-feats", metavar="DIR",
        help="evaluates DIR/feats.bdescs.npy and DIR/feats.qdescs.npy, which --save-feats "
        "DIR/feats has written, instead of describing images",
    )  # fmt: skip
    return parser


def _main(args: argparse.Namespace) -> None:
    import jax

    from dir_jax.describe.feature_files import make_folder
    from dir_jax.evaluation import (
        check_can_be_evaluated,
        check_expansions,
        evaluate_descriptors,
        expand_descriptors,
    )

    recipe = recipe_of(args)
    aqe, adba = _expansion("aqe", args.aqe), _expansion("adba", args.adba)
    results = _read_results(args.out_json)
    if args.save_feats and args.load_feats:
        raise UserError("--save-feats and --load-feats together only copy files; give one of them")
    dataset = _create_dataset(args)
    print("Test dataset:", dataset)
    if args.save_feats:  # as they come from the network
        recipe = dataclasses.replace(recipe, whiten=None)
    else:
        check_can_be_evaluated(dataset)
        check_expansions(dataset, aqe, adba)
    describer = create_describer(args, recipe)
    for file in (args.out_json, args.report, args.save_feats):
        if file:
            make_folder(file)
    if args.save_feats:
        _save_features(args.save_feats, describer, dataset)
        return
    if args.load_feats:
        database, queries = _load_features(args, describer, dataset)
    else:
        database, queries = _describe(describer, dataset)
    with jax.default_device(describer.devices[0]):
        database, queries = expand_descriptors(database, queries, aqe=aqe, adba=adba)
        evaluation = evaluate_descriptors(dataset, database, queries, allow_missing=True)
        for name, value in evaluation.metrics.items():
            print(f" * {name} = {value:g}")
        if args.out_json:
            _write_results(args, results, evaluation)
            print(f"saved to {args.out_json}")
        if args.report:
            _write_report(args, dataset, evaluation, database, queries)
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
            raise UserError(f"{shown(file)} does not hold an object")
        json.dumps(results, indent=1)  # as it will be written
    except (UserError, RecursionError) as e:
        why = e if isinstance(e, UserError) else "it is nested too deeply"
        raise UserError(f"--out-json {shown(file)} cannot be added to: {why}") from e
    return results


def _create_dataset(args: argparse.Namespace) -> ImageDataset:
    from dir_jax.data.datasets import create_dataset
    from dir_jax.data.download import DOWNLOADABLE, download_dataset

    db_root = args.db_root or os.environ.get("DB_ROOT")
    if args.dataset in DOWNLOADABLE and db_root and not args.load_feats:
        download_dataset(args.dataset, db_root)
    return create_dataset(args.dataset, db_root=args.db_root)


def _describe(describer: Describer, dataset: ImageDataset) -> tuple[np.ndarray, np.ndarray | None]:
    from dir_jax.describe.describer import describe_with_queries

    found = describe_with_queries(describer, dataset).lists
    _print_left_out([descriptors.failures for descriptors in found])
    return found[0].array(), found[1].array() if len(found) > 1 else None


def _print_left_out(failures: Sequence[Mapping[int, str]]) -> None:
    reasons = [reason for each in failures for reason in each.values()]
    for reason in reasons:
        print(f"left out: {reason}", file=sys.stderr)
    if reasons:
        print(f"{len(reasons)} images are left out")


def _load_features(
    args: argparse.Namespace, describer: Describer, dataset: ImageDataset
) -> tuple[np.ndarray, np.ndarray | None]:
    from dir_jax.describe.describer import queries_of
    from dir_jax.describe.feature_files import load_descriptors, saved_paths

    queries = queries_of(dataset)
    lists = [dataset] if queries is None else [dataset, queries]
    paths = saved_paths(os.path.join(args.load_feats, "feats"), queries is not None)
    width, skip = describer.descriptor_size, args.on_error == "skip"
    try:
        found = [
            load_descriptors(path, images.names, width, skip_failures=skip)
            for path, images in zip(paths, lists, strict=True)
        ]
    except UserError as e:
        raise UserError(f"--load-feats: {e}") from e
    _print_left_out([failures for _, failures in found])
    database, *rest = (describer.whiten(rows) for rows, _ in found)
    return database, rest[0] if rest else None


def _save_features(stem: str, describer: Describer, dataset: ImageDataset) -> None:
    from dir_jax.describe.describer import describe_with_queries
    from dir_jax.describe.feature_files import save_descriptors, saved_paths

    described = describe_with_queries(describer, dataset, partial=f"{stem}.partial")
    paths = saved_paths(stem, len(described.lists) > 1)
    for path, descriptors in zip(paths, described.lists, strict=True):
        save_descriptors(path, descriptors)
        print(f"wrote {path}: {len(descriptors)} images")
    described.delete_partial()


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
) -> None:
    from dir_jax.evaluation import rankings_to_show
    from dir_jax.report import JudgedRankings, write_report

    shown, rankings, scores = rankings_to_show(dataset, evaluation, database, queries)
    flags = {
        "Data set": args.dataset,
        "Checkpoint": args.checkpoint,
        "Transforms": " | ".join(text or "none" for text in args.trfs),
        "Whitening": f"{args.whiten}, power {args.whitenp:g}" if args.whiten else "none",
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
