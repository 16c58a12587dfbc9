"""Finds the images of an index that are most similar to a picture: `dir-jax search my.index
photo.jpg`.

Prints a table for each picture: rank, score and name. --json prints JSON instead; --page also
writes a page with the pictures.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import functools
import json
import sys

from dir_jax.commands.flags import add_index_flags, open_index
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError


def main(prog: str | None = None) -> int:
    """Searches as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.search_index", __doc__)
    add = parser.add_argument
    add("index", metavar="INDEX", help="a folder that `dir-jax index` has made")
    add("pictures", nargs="+", metavar="PICTURE", help="the pictures to search for")
    add("--box", nargs="+", metavar="X0,Y0,X1,Y1",
        help="the part of the picture that counts: left,top,right,bottom in pixels; one for each "
        "where there are several pictures")  # fmt: skip
    add("--top", type=int, default=20, metavar="N", help="how many images to find (default: 20)")
    add("--aqe", nargs=2, metavar=("K", "ALPHA"),
        help="query expansion: the K nearest are added to the query, weighted by their similarity "
        "to the power of ALPHA")  # fmt: skip
    add("--json", action="store_true", help="prints JSON")
    add("--page", metavar="FILE", help="also writes an HTML page")
    add_index_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    import numpy as np

    from dir_jax.data.given import as_images, read_box
    from dir_jax.describe.feature_files import make_folder

    if args.top < 1:
        raise UserError(f"--top is {args.top}; expected 1 or more")
    boxes = None if args.box is None else [read_box("--box", text) for text in args.box]
    aqe = None if args.aqe is None else _expansion(*args.aqe)
    pictures = as_images(args.pictures, boxes)
    if args.page:
        make_folder(args.page)
    index = open_index(args, args.index)
    pictures = pictures.with_exif(index.recipe.exif)
    found = index.search(pictures, args.top, aqe=aqe)
    names = [name if args.box is None else f"{name} [{args.box[i]}]"
             for i, name in enumerate(args.pictures)]  # fmt: skip
    there = [np.flatnonzero(rows >= 0) for rows in found.rows]
    if args.json:
        queries = [{
            "picture": name,
            "box": None if boxes is None else boxes[i],
            "results": [{"rank": rank + 1, "name": found.names[i][rank],
                         "score": float(found.scores[i, rank]), "row": int(found.rows[i, rank])}
                        for rank in there[i].tolist()],
        } for i, name in enumerate(args.pictures)]  # fmt: skip
        print(json.dumps({"index": args.index, "queries": queries}, indent=1))
    else:
        for i, name in enumerate(names):
            print(f"{name}\n rank    score  name")
            for rank in there[i].tolist():
                print(f"{rank + 1:>5}  {found.scores[i, rank]:>7.4f}  {found.names[i][rank]}")
    if args.page:
        from dir_jax.report.ranking import Ranking, write_rankings

        rankings = [
            Ranking(name, [found.names[i][rank] for rank in there[i].tolist()],
                    found.scores[i, there[i]].tolist(), found.rows[i, there[i]].tolist(),
                    functools.partial(pictures.view, i))
            for i, name in enumerate(names)
        ]  # fmt: skip
        summary = f"{len(index):,} images in the index"
        settings = {"Index": args.index, "Descriptors": str(index.recipe)}
        if aqe:
            settings["Query expansion"] = f"{aqe[0]} neighbours, α = {aqe[1]:g}"
        write_rankings(args.page, rankings, index.view, title="Search", summary=summary,
                       settings=settings)  # fmt: skip


def _expansion(k: str, alpha: str) -> tuple[int, float]:
    try:
        return int(k), float(alpha)
    except ValueError as e:
        raise UserError(f"--aqe is {k} {alpha}; expected a whole number and a power") from e


if __name__ == "__main__":
    sys.exit(main())
