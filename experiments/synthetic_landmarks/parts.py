"""Building parts that several families share: towers, spires, domes, columns, steps."""

from __future__ import annotations

import numpy as np

from . import ornaments
from .geometry import Mesh
from .ornaments import Window
from .paint import GLOW, Kit, Wall, shift

Point = tuple[float, float, float]

SPIRES = ("pyramid", "octagon", "onion", "dome", "lantern", "crenels", "needles")


def parapet(
    mesh: Mesh,
    kit: Kit,
    at: Point,
    size: tuple[float, float],
    height: float,
    count: int,
    swallow: bool = False,
) -> None:
    """Crenels around a flat roof of size (width, depth) at height at[1]."""
    x, y, z = at
    w, d = size
    front = ornaments.crenels(kit, w, height, count, swallow).image
    side = ornaments.crenels(kit, d, height, max(2, round(count * d / w)), swallow).image
    down, y = (0, -height, 0), y + height
    mesh.quad((x - w / 2, y, z + d / 2), (w, 0, 0), down, front, True)
    mesh.quad((x + w / 2, y, z - d / 2), (-w, 0, 0), down, front, True)
    mesh.quad((x + w / 2, y, z + d / 2), (0, 0, -d), down, side, True)
    mesh.quad((x - w / 2, y, z - d / 2), (0, 0, d), down, side, True)


def finial(mesh: Mesh, kit: Kit, at: Point, height: float) -> None:
    """A cross, a ball on a rod, a flag or a vane on top of something."""
    x, y, z = at
    kind = kit.pick(["cross", "ball", "flag", "rod"])
    if kind == "flag":
        cloth = ornaments.flag(kit, height * 0.9, height)
        mesh.quad((x, y + height, z), (height * 0.9, 0, 0), (0, -height, 0), cloth.image, True)
        return
    metal = (86, 80, 62)
    rod = kit.sheer(height * 0.6, height)
    rod.rect(height * 0.26, 0, height * 0.08, height, metal)
    if kind == "cross":
        rod.rect(height * 0.05, height * 0.25, height * 0.5, height * 0.1, metal)
    elif kind == "ball":
        rod.ellipse(height * 0.3, height * 0.5, height * 0.17, height * 0.17, (188, 150, 70))
    mesh.quad(
        (x - height * 0.3, y + height, z), (height * 0.6, 0, 0), (0, -height, 0), rod.image, True
    )


def spire(mesh: Mesh, kit: Kit, at: Point, width: float, height: float, kind: str) -> None:
    """The top of a tower: one of SPIRES, `width` wide and `height` high."""
    x, y, z = at
    r = width / 2
    if kind == "pyramid":
        roof = kit.roof(width, height).image
        mesh.frustum(at, (width * 1.08, width * 1.08), (0, 0), height, roof)
    elif kind == "octagon":
        texture = kit.roof(np.pi * width, height)
        flare = [(r * 1.25, 0.0), (r * 0.85, height * 0.12), (0.0, height)]
        mesh.lathe(at, flare, texture.image, sides=8, turn=np.pi / 8)
    elif kind == "onion":
        shape = [
            (0.8, 0),
            (1.12, 0.14),
            (1.14, 0.26),
            (0.95, 0.4),
            (0.5, 0.57),
            (0.2, 0.72),
            (0, 1),
        ]
        texture = ribbed(kit, np.pi * width, height, 10)
        mesh.lathe(at, [(r * a, height * b) for a, b in shape], texture.image, sides=10)
    elif kind == "dome":
        dome(mesh, kit, at, r * 1.05, min(height * 0.55, width * 0.8))
        y, height = y, min(height * 0.55, width * 0.8)
    elif kind == "lantern":
        low = height * 0.35
        wall = kit.wall(width * 0.6, low)
        Window("round", (1, 1), kit.trim, kit.glass, None, 0.1, "none", 0.9).grid(
            kit, wall, 0, 0, width * 0.6, low, 2, 1, (0.6, 0.8)
        )
        lead = kit.roof(width, height).image
        mesh.frustum(at, (width * 1.05,) * 2, (width * 0.6,) * 2, height * 0.15, lead)
        mesh.box((x, y + height * 0.15, z), (width * 0.6, low, width * 0.6), wall.image)
        mesh.frustum(
            (x, y + height * 0.15 + low, z), (width * 0.7,) * 2, (0, 0), height * 0.5, lead
        )
    elif kind == "crenels":
        parapet(mesh, kit, at, (width * 1.06,) * 2, width * 0.2, kit.integer(3, 6))
        height = 0.0
    else:  # needles: a pinnacle on every corner around a low roof
        stone = kit.wall(width * 0.2, height * 0.6, "plain", kit.trim).image
        for a in (-1, 1):
            for b in (-1, 1):
                corner = (x + a * r * 0.85, y, z + b * r * 0.85)
                mesh.frustum(corner, (width * 0.2,) * 2, (0, 0), height * 0.6, stone)
        mesh.frustum(at, (width * 0.8,) * 2, (0, 0), height, kit.roof(width, height).image)
    if height:
        finial(mesh, kit, (x, y + height * 0.97, z), width * 0.45)


def ribbed(kit: Kit, width: float, height: float, ribs: int) -> Wall:
    """A roof skin with dark seams, for domes and onions."""
    skin = kit.wall(width, height, kit.pick(["plain", "slate", "plain"]), kit.roof_colour)
    for k in range(ribs):
        skin.rect(k * width / ribs, 0, width * 0.012, height, shift(kit.roof_colour, -0.35))
    return skin


def dome(
    mesh: Mesh, kit: Kit, at: Point, radius: float, height: float, pointed: bool = False
) -> None:
    """A dome of a radius and height, round or keel-shaped, with a finial."""
    a = np.linspace(0, np.pi / 2, 6)
    across, up = np.cos(a), np.sin(a)
    if pointed:
        across, up = across * (1 + 0.16 * np.sin(2 * a)), up * (1 + 0.12 * (a / a[-1]) ** 4)
    across[-1] = 0
    profile = [(radius * float(c), height * float(s)) for c, s in zip(across, up, strict=True)]
    skin = ribbed(kit, 2 * np.pi * radius, 1.4 * radius, kit.pick([12, 16, 24]))
    mesh.lathe(at, profile, skin.image, sides=12)
    finial(mesh, kit, (at[0], at[1] + profile[-1][1] * 0.97, at[2]), radius * 0.35)


def drum(mesh: Mesh, kit: Kit, at: Point, radius: float, height: float, window: Window) -> None:
    """The cylinder under a dome: a ring of windows between two cornices."""
    around = 2 * np.pi * radius
    skin = kit.wall(around, height)
    window.grid(kit, skin, 0, height * 0.1, around, height * 0.75, kit.pick([8, 12, 16]), 1)
    ornaments.cornice(kit, skin, 0, height * 0.14)
    mesh.lathe(at, [(radius, 0), (radius, height)], skin.image, sides=12)


def round_tower(
    mesh: Mesh, kit: Kit, at: Point, radius: float, height: float, top: str, slits: int
) -> None:
    """A castle's round tower; its top is a 'cone' or 'crenels'."""
    x, y, z = at
    around = 2 * np.pi * radius
    skin = kit.wall(around, height)
    for j in range(slits):
        for i in range(5):
            left = around * ((i + 0.5 * (j % 2)) / 5 + 0.1)
            skin.opening(
                left,
                height * (j + 0.5) / slits,
                radius * 0.16,
                height * 0.09,
                shift(kit.glass, -0.3),
                "round",
                GLOW,
            )
    ornaments.cornice(kit, skin, height * 0.02, height * 0.05)
    mesh.lathe(at, [(radius * 1.12, 0), (radius, height * 0.12), (radius, height)], skin.image)
    crown = radius * 0.55
    if top == "cone":
        roof = kit.roof(around, radius * 3)
        eaves = [(radius * 1.2, 0.0), (0.0, radius * kit.uniform(1.8, 3.0))]
        mesh.lathe((x, y + height, z), eaves, roof.image, sides=12)
        finial(mesh, kit, (x, y + height + eaves[1][1] * 0.95, z), radius * 0.7)
    else:
        merlons = ornaments.crenels(kit, around * 1.1, crown, 12).image
        ring = [(radius, -crown * 0.4), (radius * 1.14, 0), (radius * 1.14, crown)]
        mesh.lathe((x, y + height, z), ring, merlons, sides=12)


def column(mesh: Mesh, kit: Kit, at: Point, radius: float, height: float, shaft: Wall) -> None:
    """A column with base and capital; the columns of a row share their `shaft`."""
    x, y, z = at
    block = kit.wall(radius * 2.6, radius * 0.8, "plain", kit.trim).image
    mesh.box((x, y, z), (radius * 2.6, radius * 0.6, radius * 2.6), block)
    mesh.lathe(
        (x, y + radius * 0.6, z),
        [(radius, 0), (radius * 0.84, height - radius * 1.5)],
        shaft.image,
        sides=8,
    )
    mesh.box((x, y + height - radius * 0.9, z), (radius * 2.6, radius * 0.9, radius * 2.6), block)


def fluted(kit: Kit, radius: float, height: float, flutes: int) -> Wall:
    """The skin of a column's shaft."""
    around = 2 * np.pi * radius
    skin = kit.wall(around, height, "plain", kit.trim)
    for k in range(flutes):
        skin.rect(
            around * (k + 0.3) / flutes, 0, around * 0.4 / flutes, height, shift(kit.trim, -0.28)
        )
    return skin


def steps(
    mesh: Mesh, kit: Kit, size: tuple[float, float], height: float, count: int, growth: float
) -> None:
    """A stepped base whose top, of `size` (width, depth), is at `height`."""
    rise = height / count
    for k in range(count):
        grow = 2 * growth * (count - 1 - k)
        w, d = size[0] + grow, size[1] + grow
        tone = shift(kit.trim, -0.08)
        mesh.box(
            (0, k * rise, 0),
            (w, rise, d),
            kit.wall(w, rise, "ashlar", tone).image,
            kit.wall(d, rise, "ashlar", tone).image,
            kit.wall(w, d, "concrete", shift(tone, 0.1)).image,
        )


def figure(mesh: Mesh, kit: Kit, at: Point, height: float) -> None:
    """A bronze or marble statue of a robed person, an arm raised or a staff in hand."""
    x, y, z = at
    metal = kit.pick([(84, 104, 90), (74, 62, 48), kit.trim])
    skin = kit.wall(height, height, "planks", metal).image
    h = height
    robe = [(0.2, 0), (0.17, 0.25), (0.12, 0.5), (0.17, 0.75), (0.12, 0.82), (0.04, 0.84)]
    mesh.lathe(at, [(a * h, b * h) for a, b in robe], skin, sides=8, stretch=0.75)
    a = np.linspace(-1, 1, 5) * np.pi / 2
    head = [(0.085 * h * float(np.cos(t)), 0.91 * h + 0.09 * h * float(np.sin(t))) for t in a]
    mesh.lathe(at, [(0.0, head[0][1]), *head[1:-1], (0.0, head[-1][1])], skin, sides=7)
    arm = kit.wall(0.08 * h, 0.45 * h, "plain", metal).image
    side = kit.pick([-1, 1])
    pose = kit.pick(["raised", "staff", "sword"])
    if pose == "raised":
        mesh.box((x + side * 0.2 * h, y + 0.7 * h, z), (0.07 * h, 0.5 * h, 0.07 * h), arm)
    elif pose == "staff":
        mesh.box((x + side * 0.26 * h, y, z), (0.04 * h, 1.15 * h, 0.04 * h), arm)
    else:
        mesh.box(
            (x + side * 0.28 * h, y + 0.5 * h, z + 0.02 * h), (0.34 * h, 0.06 * h, 0.06 * h), arm
        )
