"""Evaluates a model: `python -m dir_jax.test_dir --dataset ROxford5K --checkpoint models/ap_gem`.

Prints mAP by the data set's own protocol: easy, medium and hard for the revisited sets, and for
labelled ones every image as a query, itself excluded. The revisited and the classic sets are
downloaded to $DB_ROOT if they are not there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dir_jax.commands.flags import (
    add_dataset_flags,
    add_model_flags,
    create_describer,
    load_checkpoint,
    recipe_of,
    set_up,
)
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError
from dir_jax.runtime.allocator import restart_with_allocator

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
            help=f"alpha-weighted {what}: how many neighbours, and alpha, as in --{name} 10 3",
        )  # fmt: skip
    group = parser.add_argument_group("results")
    add = group.add_argument
    add("--out-json", metavar="FILE", help="adds the results to this file, under the data set")
    add("--detailed", action="store_true", help="with each query's own values, in --out-json")
    add("--report", metavar="FILE.html", help="writes a page with the queries and their results")
    add(
        "--save-feats", metavar="PATH",
        help="only writes the descriptors before whitening: PATH.bdescs.npy, PATH.qdescs.npy",
    )  # fmt: skip
    add(
        "--load-feats", metavar="DIR",
        help="evaluates DIR/feats.bdescs.npy, DIR/feats.qdescs.npy as --save-feats DIR/feats "
        "wrote them",
    )  # fmt: skip
    return parser


def _main(args: argparse.Namespace) -> None:
    recipe = recipe_of(args)
    aqe, adba = _expansion("aqe", args.aqe), _expansion("adba", args.adba)
    results = _read_results(args.out_json)
    if args.save_feats and args.load_feats:
        raise UserError("--save-feats and --load-feats together would copy files; give one")
    dataset = _create_dataset(args)
    print("Test dataset:", dataset)
    from dir_jax.describe.feature_files import make_folder
    from dir_jax.evaluation import (
        check_can_be_evaluated,
        check_expansions,
        evaluate_descriptors,
        expand_descriptors,
    )

    if args.save_feats:  # as they come from the network
        recipe = dataclasses.replace(recipe, whiten=None)
    else:
        check_can_be_evaluated(dataset)
        check_expansions(dataset, aqe, adba)
    set_up(args)
    describer = create_describer(args, load_checkpoint(args), recipe)
    for file in (args.out_json, args.report, args.save_feats):
        if file:
            make_folder(file)
    if args.save_feats:
        _save_features(args.save_feats, describer, dataset)
        return
    if args.load_feats:
        database, queries = _load_features(args.load_feats, dataset, describer)
    else:
        database, queries = _describe(describer, dataset)
    database, queries = expand_descriptors(database, queries, aqe=aqe, adba=adba)
    evaluation = evaluate_descriptors(dataset, database, queries)
    for name, value in evaluation.metrics.items():
        print(f" * {name} = {value:g}")
    if args.out_json:
        from dir_jax.runtime.files import write_text

        detailed = evaluation.detailed() if args.detailed else {}
        results[args.dataset] = {**detailed, **evaluation.metrics}
        write_text(args.out_json, json.dumps(results, indent=1))
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
            f"--{flag} {' '.join(values)}: expected two numbers, how many neighbours and alpha, as "
            f"in --{flag} 10 3"
        ) from None


def _read_results(file: str | None) -> dict[str, Any]:
    if not file or not os.path.exists(file):
        return {}
    try:
        results = json.loads(Path(file).read_text())
    except (OSError, ValueError) as e:
        raise UserError(f"--out-json {file} cannot be added to: {e}") from e
    if not isinstance(results, dict):
        raise UserError(f"--out-json {file} cannot be added to: it does not hold an object")
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
    for descriptors in found:
        for reason in descriptors.failures.values():
            print(f"left out: {reason}", file=sys.stderr)
    return found[0].array(), found[1].array() if len(found) > 1 else None


def _save_features(path: str, describer: Describer, dataset: ImageDataset) -> None:
    from dir_jax.describe.describer import describe_with_queries
    from dir_jax.describe.feature_files import save_descriptors

    described = describe_with_queries(describer, dataset, partial=f"{path}.partial")
    for kind, descriptors in zip(("bdescs", "qdescs"), described.lists, strict=False):
        save_descriptors(f"{path}.{kind}.npy", descriptors)
        print(f"wrote {path}.{kind}.npy: {len(descriptors)} images")
    described.delete_partial()


def _load_features(
    folder: str, dataset: ImageDataset, describer: Describer
) -> tuple[np.ndarray, np.ndarray | None]:
    from dir_jax.describe.describer import queries_of

    queries = queries_of(dataset)
    database = _load(os.path.join(folder, "feats.bdescs.npy"), len(dataset), "images", describer)
    if queries is None:
        return database, None
    file = os.path.join(folder, "feats.qdescs.npy")
    return database, _load(file, len(queries), "queries", describer)


def _load(file: str, rows: int, what: str, describer: Describer) -> np.ndarray:
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
    except FileNotFoundError as e:
        raise UserError(f"--load-feats: there is no file {file}") from e
    except (OSError, ValueError) as e:
        raise UserError(f"--load-feats: {file} is no array that NumPy can read: {e}") from e
    expected = rows, describer.descriptor_size
    if found.shape != expected or found.dtype.kind != "f":
        raise UserError(
            f"--load-feats: {file} holds {found.dtype} of shape {found.shape}; this data set has "
            f"{rows} {what}, and the checkpoint's descriptors {expected[1]} dimensions: expected "
            f"{expected}"
        )
    return describer.whiten(found.astype(np.float32, copy=False))


def _write_report(
    args: argparse.Namespace,
    dataset: ImageDataset,
    evaluation: Evaluation,
    database: np.ndarray,
    queries: np.ndarray | None,
) -> None:
    from dir_jax.evaluation import rankings_to_show
    from dir_jax.report import write_report

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
        dataset,
        title=f"{args.dataset}",
        metrics=evaluation.metrics,
        aps=evaluation.aps,
        shown=shown,
        rankings=rankings,
        scores=scores,
        settings=flags,
    )


if __name__ == "__main__":
    restart_with_allocator()
    sys.exit(main())
