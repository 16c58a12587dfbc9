"""`dir-jax COMMAND …`: the commands by one name, each the same as its `python -m MODULE …`."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from dir_jax.errors import did_you_mean
from dir_jax.runtime.allocator import restart_with_allocator
from dir_jax.runtime.start import start_program


class Command(NamedTuple):
    """One row of the table of commands."""

    module: str  # has a `main(prog)` that reads sys.argv and returns the exit code
    summary: str
    computes: bool = False  # runs a network, and gains from the allocator's settings


COMMANDS = {
    "train": Command("dir_jax.train", "train a network by a recipe", computes=True),
    "test-dir": Command("dir_jax.test_dir", "evaluate a model on a data set", computes=True),
    "extract-features": Command(
        "dir_jax.extract_features", "write the descriptors of images to a file", computes=True
    ),
    "extract-kapture": Command(
        "dir_jax.extract_kapture", "add global features to a kapture dataset", computes=True
    ),
    "index": Command("dir_jax.index_images", "make an index of images to search", computes=True),
    "search": Command("dir_jax.search_index", "find a picture in an index", computes=True),
    "pairs": Command("dir_jax.write_pairs", "write pairs of images for hloc", computes=True),
    "duplicates": Command(
        "dir_jax.find_duplicates", "find images that are nearly the same", computes=True
    ),
    "serve": Command("dir_jax.serve", "a page to search an index on", computes=True),
    "whiten": Command("dir_jax.whiten", "learn a whitening, and add it to a model", computes=True),
    "download": Command(
        "dir_jax.data.download.__main__",
        "download a data set, or some archives of it",
    ),
    "models": Command("dir_jax.list_models", "list the models that can be loaded by name"),
    "publish": Command("dir_jax.publish", "write a model for others, or send it to the hub"),
    "from-torch": Command("converters.from_torch", "convert a PyTorch checkpoint"),
    "to-torch": Command("converters.to_torch", "export a model as a PyTorch checkpoint"),
}


def script() -> int:
    """The console script `dir-jax`."""
    start_program()
    return main()


def main(prog: str = "dir-jax") -> int:
    """Runs the command that sys.argv names, or lists the commands; returns the exit code.

    `prog` is how this program was called, for usage texts.
    """
    first, *rest = sys.argv[1:] or ["--help"]
    if first in ("-h", "--help", "help"):
        print(_usage(prog))
        return 0
    if first in ("-V", "--version"):
        from dir_jax import __version__

        print(f"dir_jax {__version__}")
        return 0
    name = first.replace("_", "-")
    if name not in COMMANDS:
        message = f"there is no command {first}{did_you_mean(name, COMMANDS)}"
        print(f"error: {message} ({prog} lists the commands)", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    if command.computes and not {"-h", "--help"} & set(rest):
        restart_with_allocator()
    sys.argv[:2] = [command.module]
    return importlib.import_module(command.module).main(f"{prog} {name}")


def _usage(prog: str) -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: {prog} COMMAND [FLAGS]

Deep Image Retrieval in JAX.

commands:
{rows}

{prog} COMMAND --help lists a command's flags; {prog} --version prints the version."""
