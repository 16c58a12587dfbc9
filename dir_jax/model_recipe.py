"""A model's recipe: how images become descriptors, apart from the network.

model.json keeps it with the model, so that every command and the Python interface describe images
as the model was evaluated, unless they are told otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from dir_jax.data.transforms import Compose, parse_transforms
from dir_jax.errors import UserError, shown
from dir_jax.runtime.files import write_text

PUBLISHED_WHITENING = "Landmarks_clean"  # what the published models are evaluated with


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an image becomes a descriptor, apart from the network.

    Attributes:
      trfs: the texts of the transforms, one chain for each scale; '' is the image as it is.
      pooling: how scales are pooled, 'gem' or 'mean'.
      gemp: the power of 'gem'.
      whiten: the name of one of the model's whitenings, or None for no whitening.
      whitenp: the power of the variance that whitening divides by.
      whitenv: how many components whitening keeps, or None for all of them.
      whitenm: a constant factor of what whitening divides by.
    """

    trfs: tuple[str, ...] = ("",)
    pooling: str = "gem"
    gemp: float = 3
    whiten: str | None = None
    whitenp: float = 0.25
    whitenv: int | None = None
    whitenm: float = 1.0

    def changed(self, **parts: Any) -> Recipe:
        """This recipe with other parts: None keeps one, and `whiten=''` is no whitening.

        Another whitening than the recipe's has all its components, unless `whitenv` is given.
        """
        parts = {name: value for name, value in parts.items() if value is not None}
        if "whiten" in parts:
            parts["whiten"] = parts["whiten"] or None
            if parts["whiten"] != self.whiten:
                parts = {"whitenv": None} | parts
        return dataclasses.replace(self, **parts)

    def transforms(self) -> list[Compose]:
        """One chain for each scale. Raises UserError, with a caret, for one that is not valid."""
        return [parse_transforms(text) for text in self.trfs or ("",)]

    def __str__(self) -> str:
        chains = [text or "images as they are" for text in self.trfs]
        words = [chains[0]]
        if len(chains) > 1:
            how = f"gem {self.gemp:g}" if self.pooling == "gem" else self.pooling
            words = [f"{len(chains)} scales ({' | '.join(chains)}) pooled by {how}"]
        if not self.whiten:
            return "; ".join([*words, "no whitening"])
        kept = f", {self.whitenv} dimensions" if self.whitenv is not None else ""
        factor = f", divisor {self.whitenm:g}" if self.whitenm != 1 else ""
        words.append(f"whitening {self.whiten!r}, power {self.whitenp:g}{kept}{factor}")
        return "; ".join(words)


def published_recipe(whitenings: Collection[str]) -> Recipe:
    """How the published models are evaluated, which is the recipe of a model that states none."""
    return Recipe(whiten=PUBLISHED_WHITENING if PUBLISHED_WHITENING in whitenings else None)


def read_recipe(value: Any, whitenings: Collection[str]) -> Recipe:
    """The recipe in a model.json, where None stands for a model that states none.

    Args:
      value: JSON, as `dataclasses.asdict` makes it from a `Recipe`.
      whitenings: the names of the model's whitenings.

    Raises:
      UserError: a field is not one of a recipe's, or has a value of another kind.
    """
    if value is None:
        return published_recipe(whitenings)
    if not isinstance(value, Mapping):
        raise UserError(f"its recipe is {shown(value)}; expected an object")
    fields = dict(value)
    trfs = fields.pop("trfs", [""])
    if not (isinstance(trfs, list) and trfs and all(isinstance(text, str) for text in trfs)):
        raise UserError(f"its recipe has trfs {shown(trfs)}; expected a list of texts")
    kinds: dict[str, Any] = {
        "pooling": str, "gemp": int | float, "whiten": str | None, "whitenp": int | float,
        "whitenv": int | None, "whitenm": int | float,
    }  # fmt: skip
    for name, field in fields.items():
        if name not in kinds:
            raise UserError(f"its recipe has {shown(name)}, which no recipe has")
        if not isinstance(field, kinds[name]) or isinstance(field, bool) or field != field:
            raise UserError(f"its recipe has {name} {shown(field)}; expected {kinds[name]}")
    return Recipe(tuple(trfs), **fields)


def write_recipe(features: str, recipe: Recipe) -> None:
    """Writes how descriptors were made beside their file, to FILE.recipe.json.

    Raises:
      UserError: the file cannot be written.
    """
    write_text(f"{features}.recipe.json", json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")


def recipe_beside(features: str) -> Recipe | None:
    """How the descriptors of a file were made, where `write_recipe` has said so.

    Raises:
      UserError: FILE.recipe.json is damaged.
    """
    file = f"{features}.recipe.json"
    if not os.path.exists(file):
        return None
    try:
        return read_recipe(read_json(file), ())
    except UserError as e:
        raise UserError(f"{file} is not a recipe: {e}") from e
