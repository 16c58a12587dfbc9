"""Lists the models that can be loaded by name, and which of them are here: `dir-jax models`.

A name will do wherever a checkpoint is asked for, as in --checkpoint Resnet101-AP-GeM. The model's
file is looked for in $DIR_MODELS, a folder, and in the user's cache folder; then it is fetched from
$DIR_MODELS_URL, a mirror, if that is set, or from its authors.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import argparse
import sys

from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError, did_you_mean


def main(prog: str | None = None) -> int:
    """Lists as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    parser = Parser("dir_jax.list_models", __doc__)
    parser.add_argument("--name", metavar="NAME", help="tells everything about this model alone")
    parser.add_argument(
        "--fetch",
        metavar="NAME",
        help="fetches this model's file, unless it is here, and says where it is",
    )
    return run_parsed(parser, _main, prog)


def _main(args: argparse.Namespace) -> None:
    if args.fetch:
        from dir_jax.published.lookup import find_file

        print(find_file(_known(args.fetch)))
    elif args.name:
        print(_everything(_known(args.name)))
    else:
        print(_list())


def _known(text: str) -> str:
    from dir_jax.published import known_names, published_name

    if name := published_name(text):
        return name
    near = did_you_mean(text, dict(known_names()))
    raise UserError(f"there is no published model {text}{near}; dir-jax models lists them")


def _list() -> str:
    from dir_jax.published import PUBLISHED
    from dir_jax.published.lookup import find_here

    width = max(map(len, PUBLISHED))
    rows, family = [], None
    for name, model in PUBLISHED.items():
        if family != model.family:
            family = model.family
            reported = f"; reported: {family.reported}" if family.reported else ""
            rows += ["", f"{family.title} ({family.licence}){reported}"]
        here = "here" if find_here(name) else "-"
        rows.append(f"  {name:{width}}  {here:4}  {model.reported}".rstrip())
    return "\n".join(rows[1:])


def _everything(name: str) -> str:
    from dir_jax.published import PUBLISHED
    from dir_jax.published.lookup import find_here

    model = PUBLISHED[name]
    family = model.family
    rows = {
        "name": name,
        "of": family.title,
        "licence": family.licence,
        "file": model.file,
        "address": model.address,
        "SHA-256": f"{model.digits}…" if model.digits else "not published",
        "here": find_here(name) or "no",
        "recipe": model.used,
        "input": f"mean {family.preprocessing.mean}, std {family.preprocessing.std}",
        "reported": f"{model.reported} ({family.reported})" if model.reported else "nothing",
    }
    return "\n".join(f"{key:8}  {value}" for key, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
