"""Writes pairs of images for hloc to match: `dir-jax pairs --queries queries.txt
--database my.index --top 50 --output pairs.txt`.

Each row is `QUERY IMAGE`, as `hloc.pairs_from_retrieval` writes it. Without --queries, the images
of the index are paired with one another. No image is paired with itself.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import os
import sys

from dir_jax.commands.flags import add_index_flags, open_index
from dir_jax.commands.running import Parser, run_parsed


def main(prog: str | None = None) -> int:
    """Writes pairs as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.write_pairs", __doc__)
    add = parser.add_argument
    add("--database", required=True, metavar="INDEX", help="a folder that `dir-jax index` has made")
    add("--queries", metavar="LIST",
        help="the queries: a list of names in the folder of the index's images, or a data set "
        "such as 'ImageList(\"list.txt\", \"folder\")' (default: the index's images)")  # fmt: skip
    add("--output", required=True, metavar="FILE", help="the list of pairs to write")
    add("--top", type=int, default=50, metavar="N", help="the most pairs of a query (default: 50)")
    add("--min-score", type=float, metavar="S", help="the least score of a pair")
    add("--query-prefix", nargs="+", default=[], metavar="PREFIX",
        help="only queries whose names begin so")  # fmt: skip
    add("--db-prefix", nargs="+", default=[], metavar="PREFIX",
        help="pairs only with images whose names begin so")  # fmt: skip
    add_index_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.datasets import create_dataset
    from dir_jax.data.lists import read_image_list
    from dir_jax.describe.feature_files import make_folder
    from dir_jax.search.pairs import write_pairs

    make_folder(args.output)
    index = open_index(args, args.database)
    queries = None
    if args.queries and os.path.isfile(args.queries):
        queries = read_image_list(args.queries, index.root)
    elif args.queries:
        queries = create_dataset(args.queries)
    written = write_pairs(
        args.output, index, queries, top=args.top, min_score=args.min_score,
        query_prefix=args.query_prefix, database_prefix=args.db_prefix,
        partial=f"{args.output}.partial",
    )  # fmt: skip
    print(f"wrote {args.output}: {written} pairs")


if __name__ == "__main__":
    sys.exit(main())
