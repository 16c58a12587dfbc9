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
from dir_jax.runtime.reading import read_json

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
        return [parse_transforms(text) for text in self.trfs]

    def check(self) -> None:
        """Raises UserError, naming the attribute and its value, for one that is out of range."""
        for name, good, expected in (
            ("trfs", _are_texts(self.trfs), "one text or more"),
            ("pooling", self.pooling in ("gem", "mean"), "gem or mean"),
            ("gemp", _is_number(self.gemp) and self.gemp > 0, "a number above 0"),
            ("whiten", isinstance(self.whiten, str | None), "the name of a whitening"),
            ("whitenp", _is_number(self.whitenp) and self.whitenp >= 0, "a number, not negative"),
            ("whitenv", self.whitenv is None or _is_count(self.whitenv), "a count above 0"),
            ("whitenm", _is_number(self.whitenm) and self.whitenm > 0, "a number above 0"),
        ):
            if not good:
                raise UserError(f"{name} is {shown(getattr(self, name))}; expected {expected}")

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
        raise UserError(f"a recipe is an object, not {shown(value)}")
    known = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := [name for name in value if name not in known]:
        raise UserError(f"a recipe has no {shown(unknown[0])}; it has {', '.join(known)}")
    recipe = Recipe(**value)
    if isinstance(recipe.trfs, list):
        recipe = dataclasses.replace(recipe, trfs=tuple(recipe.trfs))
    recipe.check()
    try:
        recipe.transforms()
    except UserError as e:
        raise UserError(f"trfs: {str(e).splitlines()[0]}") from e
    return recipe


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(x, str) for x in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


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
