"""Finds images that are nearly the same: `dir-jax duplicates my.index --min-score 0.95`.

Prints groups of images that such scores link, the largest first, each image with its score to the
first of its group. --json prints JSON instead; --page also writes a page with the pictures.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import json
import sys

from dir_jax.commands.flags import add_index_flags, open_index
from dir_jax.commands.running import Parser, run_parsed


def main(prog: str | None = None) -> int:
    """Groups as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.find_duplicates", __doc__)
    add = parser.add_argument
    add("index", metavar="INDEX", help="a folder that `dir-jax index` has made")
    add("--min-score", type=float, default=0.95, metavar="S",
        help="the score from which two images are nearly the same (default: 0.95)")  # fmt: skip
    add("--json", action="store_true", help="prints JSON")
    add("--page", metavar="FILE", help="also writes an HTML page")
    add_index_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.describe.feature_files import make_folder
    from dir_jax.search.duplicates import find_duplicates

    if args.page:
        make_folder(args.page)
    index = open_index(args, args.index)
    groups = find_duplicates(index, args.min_score)
    summary = f"{len(groups):,} groups of {sum(map(len, groups)):,} images, of {len(index):,}"
    if args.json:
        content = [[{"name": index.names[row], "score": score, "row": row} for row, score in group]
                   for group in groups]  # fmt: skip
        about = {"index": args.index, "min_score": args.min_score}
        print(json.dumps({**about, "groups": content}, indent=1))
    else:
        print(f"{summary}, at scores from {args.min_score:g}")
        for number, group in enumerate(groups, 1):
            print(f"group {number}, {len(group)} images")
            for row, score in group:
                print(f"  {score:>7.4f}  {index.names[row]}")
    if args.page:
        from dir_jax.report.ranking import Ranking, write_rankings

        rankings = []
        for number, group in enumerate(groups, 1):
            rows, scores = zip(*group, strict=True)
            name = f"Group {number}, {len(group)} images"
            rankings.append(Ranking(name, [index.names[row] for row in rows], scores, rows))
        settings = {"Index": args.index, "Score": f"from {args.min_score:g}",
                    "Descriptors": str(index.recipe)}  # fmt: skip
        write_rankings(args.page, rankings, index.view, title="Near-duplicates",
                       summary=summary, settings=settings)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
