"""`--config RECIPE` and `--config.KEY=VALUE`: an experiment from a file and the command line.

A recipe is a Python file with a function `get_config()`. It is code and is run: it is the one file
that a command executes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dir_jax.commands.running import Parser
from dir_jax.errors import UserError, did_you_mean, quoted, shown

if TYPE_CHECKING:
    import ml_collections


class ConfigParser(Parser):
    """A parser that also takes `--config RECIPE` and any number of `--config.KEY=VALUE`."""

    def __init__(self, module: str, doc: str | None):
        super().__init__(module, doc)
        self.add_argument("--config", required=True, metavar="RECIPE",
            help=f"one of {', '.join(recipes())}; or a Python file with a get_config(), which is "
            "run. RECIPE:ARGUMENT calls get_config('ARGUMENT')")  # fmt: skip
        self.add_argument("--config.KEY", dest="overrides", action="append", metavar="VALUE",
            help="sets a key of the config, as in --config.batch_size=1024; "
            "dir_jax/training/config.py lists the keys")  # fmt: skip

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """See `Parser.parse`; `overrides` is the list of all `--config.KEY=VALUE`."""
        others: list[str] = []
        overrides: list[str] = []
        keys = ("--config.", "--noconfig.")
        for before, argument in itertools.pairwise(["", *arguments]):
            is_value = before.startswith(keys) and "=" not in before and argument[:2] != "--"
            (overrides if is_value or argument.startswith(keys) else others).append(argument)
        args = super().parse(others)
        args.overrides = overrides
        return args

    def _check_flag(self, argument: str) -> None:
        flag = argument.partition("=")[0]
        prefix, dot, key = flag.partition(".")
        if dot and prefix.startswith("--") and did_you_mean(prefix, ["--config"]):
            flag, meant = shown(flag), shown(f"--config.{key}")
            raise UserError(f"there is no flag {flag}; did you mean {meant}?")
        super()._check_flag(argument)


def load_config(recipe: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Runs a recipe and sets the keys of `overrides`, such as '--config.batch_size=1024'.

    `recipe` is a name from `recipes()` or the path of a Python file with a `get_config()`; followed
    by `:ARGUMENT`, if its `get_config` takes one. Values are for `validate_config` to check.
    Raises UserError where there is no such recipe or key, or the recipe fails.
    """
    from absl import flags
    from ml_collections import config_flags

    from dir_jax.training import config as keys

    config = _run(recipe)
    _check_keys(overrides, config)
    arguments = ["", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        rest = values(arguments)[1:]
    except (flags.Error, TypeError, ValueError) as e:
        line = str(e).partition("\n")[0]
        if found := re.match(r"flag --config\.([\w.]+)=(.*?): ", line):
            key, value = found.groups()
            line = f"config.{key} is {quoted(value)}; expected {keys.expected(key)}"
        raise UserError(shown(line)) from e
    if rest:
        raise UserError(f"unexpected argument {quoted(rest[0])}: flags begin with --")
    return config


def recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with dir_jax."""
    package = Path(__file__).resolve().parents[1]
    # An installed package holds them; in a checkout they lie beside it.
    for folder in (package / "experiments", package.parent / "experiments"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    return {}


def _run(recipe: str) -> ml_collections.ConfigDict:
    """What the `get_config` of --config returns."""
    import ml_collections

    name, colon, argument = recipe.partition(":")
    try:
        content = runpy.run_path(str(_find(name)), run_name="recipe")
        config = content["get_config"](*([argument] if colon else []))
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # the file is anyone's code, and can raise anything
        why = f"it has no {e}" if isinstance(e, KeyError) else f"{type(e).__name__}: {e}"
        why = shown(" ".join(why.split()))
        raise UserError(f"--config {shown(recipe)} cannot be used: {why}") from e
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"--config {shown(recipe)} cannot be used: its get_config() returned "
            f"a {type(config).__name__}; expected an ml_collections.ConfigDict"
        )
    return config


def _find(name: str) -> Path:
    """The file that --config means."""
    if name.endswith(".py") or Path(name).name != name:
        if not os.path.isfile(name):
            raise UserError(f"--config: there is no file {shown(name)}")
        return Path(name)
    known = recipes()
    if name not in known:
        raise UserError(
            f"--config: there is no recipe named {quoted(name)}{did_you_mean(name, known)}; "
            f"the recipes are {', '.join(known)}; a file of your own is given by its path, with .py"
        )
    return known[name]


def _check_keys(overrides: Sequence[str], config: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first `--config.KEY` whose key does not exist."""
    from dir_jax.training import config as keys

    known = keys.flatten(config.to_dict())
    for override in overrides:
        prefix, _, rest = override.partition(".")
        key = rest.partition("=")[0]
        if not prefix.startswith("--") or key in known:
            continue
        if inner := [k for k in known if k.startswith(f"{key}.")]:
            raise UserError(f"config.{key} is a group of keys; set one, such as config.{inner[0]}")
        raise UserError(f"there is no key config.{shown(key)}{keys.did_you_mean(key)}")
