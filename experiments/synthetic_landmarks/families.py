"""The families of landmarks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from . import bridges, monuments, sacred, secular, towers, town
from .geometry import Mesh
from .paint import Kit


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of landmark.

    Attributes:
      build: Makes a landmark from its kit.
      water: Whether it stands by the water.
      raised: Whether it is best seen from above.
    """

    build: Callable[[Kit], Mesh]
    water: bool = False
    raised: bool = False


FAMILIES: tuple[tuple[str, Family], ...] = (
    ("church", Family(sacred.church)),
    ("castle", Family(secular.castle)),
    ("mosque", Family(sacred.mosque)),
    ("bridge", Family(bridges.bridge, water=True)),
    ("windmill", Family(towers.windmill)),
    ("temple", Family(sacred.temple)),
    ("skyscraper", Family(towers.skyscraper)),
    ("gate", Family(secular.gate)),
    ("pagoda", Family(sacred.pagoda)),
    ("house_row", Family(town.house_row)),
    ("lighthouse", Family(towers.lighthouse, water=True)),
    ("monument", Family(monuments.monument)),
    ("clock_tower", Family(town.clock_tower)),
    ("stadium", Family(monuments.stadium, raised=True)),
    ("palace", Family(secular.palace)),
    ("ferris_wheel", Family(monuments.ferris_wheel)),
    ("factory", Family(town.factory)),
    ("step_pyramid", Family(monuments.step_pyramid)),
    ("lattice_tower", Family(towers.lattice_tower)),
    ("television_tower", Family(towers.television_tower)),
)


def build_landmark(family: Family, rng: np.random.Generator, image_size: int) -> Mesh:
    """Makes a landmark with textures sharp enough for close-ups in pictures of `image_size`."""
    return family.build(Kit(rng, resolution=min(4 * image_size, 2048)))
