"""A model's recipe: how images become descriptors, apart from the network.

model.json keeps it with the model, so that every command and the Python interface describe images
as the model was evaluated, unless they are told otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Collection
from typing import Any

from dir_jax.data.transforms import Compose, parse_transforms
from dir_jax.errors import UserError, shown
from dir_jax.fields import Rule, check_fields, is_number, is_whole
from dir_jax.runtime.files import write_text
from dir_jax.runtime.reading import read_json

_ABOVE_0 = sys.float_info.min
_RULES = {
    "trfs": Rule(
        lambda v: isinstance(v, list) and v != [] and all(isinstance(x, str) for x in v),
        "a list of one chain of transforms or more",
    ),
    "pooling": Rule(lambda v: v in ("gem", "mean", "cirtorch"), "gem, mean or cirtorch"),
    "gemp": Rule(lambda v: is_number(v, _ABOVE_0) and v <= 100, "a number above 0, at most 100"),
    "whiten": Rule(lambda v: v is None or isinstance(v, str), "the name of a whitening"),
    "whitenp": Rule(lambda v: is_number(v, 0), "a number, not negative"),
    "whitenv": Rule(lambda v: v is None or is_whole(v, 1, 1 << 31), "a whole number above 0"),
    "whitenm": Rule(lambda v: is_number(v, _ABOVE_0), "a number above 0"),
    # Not in models that were written before it was there.
    "exif": Rule(lambda v: isinstance(v, bool), "True or False", required=False),
}
PUBLISHED_WHITENING = "Landmarks_clean"  # what the published models are evaluated with


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an image becomes a descriptor, apart from the network.

    Attributes:
      trfs: the texts of the transforms, one chain for each scale; '' is the image as it is.
      pooling: how scales are pooled, 'gem', 'mean' or 'cirtorch'; see `retrieval.scales`.
      gemp: the power of 'gem' and 'cirtorch'.
      whiten: the name of one of the model's whitenings, or None for no whitening.
      whitenp: the power of the variance that whitening divides by.
      whitenv: how many components whitening keeps, or None for all of them.
      whitenm: a constant factor of what whitening divides by.
      exif: whether images are turned as their EXIF data says, instead of described as stored.
    """

    trfs: tuple[str, ...] = ("",)
    pooling: str = "gem"
    gemp: float = 3
    whiten: str | None = None
    whitenp: float = 0.25
    whitenv: int | None = None
    whitenm: float = 1.0
    exif: bool = False

    def changed(self, **parts: Any) -> Recipe:
        """This recipe with other parts: None keeps one, and `whiten=''` is no whitening.

        Another whitening than the recipe's has all its components, unless `whitenv` is given.
        `scales` are factors: each chain of transforms is then used at each of them, by
        `Interpolate`; and of cirtorch's whitenings NAME-ss, of one scale, and NAME-ms, of several,
        the one that fits replaces the other.
        """
        parts = {name: value for name, value in parts.items() if value is not None}
        if scales := parts.pop("scales", None):
            chains = [filter(None, (chain, *([f"Interpolate({f})"] if f != 1 else [])))
                      for chain in parts.get("trfs", self.trfs) for f in scales]  # fmt: skip
            parts["trfs"] = tuple(", ".join(chain) for chain in chains)
            if self.whiten and self.whiten[-3:] in ("-ss", "-ms") and "whiten" not in parts:
                fitting = "-ms" if len(parts["trfs"]) > 1 else "-ss"
                parts = {"whiten": self.whiten[:-3] + fitting, "whitenv": self.whitenv} | parts
        if "whiten" in parts:
            parts["whiten"] = parts["whiten"] or None
            if parts["whiten"] != self.whiten:
                parts = {"whitenv": None} | parts
        return dataclasses.replace(self, **parts)

    def transforms(self) -> list[Compose]:
        """One chain for each scale. Raises UserError, with a caret, for one that is not valid."""
        return [parse_transforms(text) for text in self.trfs]

    def check(self, where: str = "the recipe") -> None:
        """Raises UserError, naming the attribute and its value, for one that is out of range."""
        check_fields(where, self.to_json(), _RULES)

    def to_json(self) -> dict[str, Any]:
        """The attributes, as `recipe_from_json` reads them."""
        return dataclasses.asdict(self) | {"trfs": list(self.trfs)}

    def __str__(self) -> str:
        chains = [text or "images as they are" for text in self.trfs]
        words = [chains[0]]
        if len(chains) > 1:
            how = self.pooling + f" {self.gemp:g}" * (self.pooling != "mean")
            words = [f"{len(chains)} scales ({' | '.join(chains)}) pooled by {how}"]
        if self.exif:
            words.append("turned by EXIF")
        if not self.whiten:
            return "; ".join([*words, "no whitening"])
        kept = f", {self.whitenv} dimensions" if self.whitenv is not None else ""
        factor = f", divisor {self.whitenm:g}" if self.whitenm != 1 else ""
        words.append(f"whitening {self.whiten!r}, power {self.whitenp:g}{kept}{factor}")
        return "; ".join(words)


# How the networks of CNN Image Retrieval in PyTorch are evaluated (Radenović et al., TPAMI 2018,
# section 5.1): images of at most 1024 pixels. Where several scales are asked for, they are usually
# these, and without `fc` they are pooled by the network's own power of GeM.
CIRTORCH_RECIPE = Recipe(trfs=("Thumbnail(1024)",), pooling="mean")
MULTISCALE = (1.0, 1 / 2**0.5, 0.5)
_CIRTORCH_WHITENING = "retrieval-SfM-120k-ss"


def cirtorch_recipe(whitenings: Collection[str], power: float | None) -> Recipe:
    """How a network of CNN Image Retrieval in PyTorch is evaluated.

    `power` is that of its GeM, or None where it ends in a projection, `fc`, which was trained as
    its whitening, or has another pooling than GeM. Otherwise it is whitened by what was learned.
    """
    if power is None:
        return CIRTORCH_RECIPE
    whiten = _CIRTORCH_WHITENING if _CIRTORCH_WHITENING in whitenings else None
    return dataclasses.replace(CIRTORCH_RECIPE, pooling="cirtorch", gemp=power, whiten=whiten)


def published_recipe(whitenings: Collection[str]) -> Recipe:
    """How the published models are evaluated, which is the recipe of a model that states none."""
    return Recipe(whiten=PUBLISHED_WHITENING if PUBLISHED_WHITENING in whitenings else None)


def recipe_from_json(where: str, value: Any) -> Recipe:
    """The recipe that `to_json` gave; `where` says whose it is.

    Raises:
      UserError: a field is missing, is not one of a recipe's, or is out of range.
    """
    check_fields(where, value, _RULES)
    recipe = Recipe(**{**value, "trfs": tuple(value["trfs"])})
    try:
        recipe.transforms()
    except UserError as e:
        raise UserError(f"{where}: trfs: {str(e).splitlines()[0]}") from e
    return recipe


def write_recipe(features: str, recipe: Recipe, model: str | None = None) -> None:
    """Writes how descriptors were made beside their file, to FILE.recipe.json.

    `model` is the digest of what made them, from `Describer.model_digest`.

    Raises:
      UserError: the file cannot be written.
    """
    content = recipe.to_json() | ({} if model is None else {"model": model})
    write_text(f"{features}.recipe.json", json.dumps(content, indent=1) + "\n")


def recipe_beside(features: str) -> Recipe | None:
    """How the descriptors of a file were made, where `write_recipe` has said so.

    Raises:
      UserError: FILE.recipe.json is damaged.
    """
    return _beside(features)[0]


def model_beside(features: str) -> str | None:
    """The digest of the model that made the descriptors of a file; otherwise as `recipe_beside`."""
    return _beside(features)[1]


def _beside(features: str) -> tuple[Recipe | None, str | None]:
    file = f"{features}.recipe.json"
    if not os.path.exists(file):
        return None, None
    content = read_json(file)
    model = content.pop("model", None) if isinstance(content, dict) else None
    if not isinstance(model, str | None):
        raise UserError(f"{file}: model is {shown(model)}; expected a digest")
    return recipe_from_json(file, content), model
