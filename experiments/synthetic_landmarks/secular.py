"""Families of landmarks: castles, gates, palaces."""

from __future__ import annotations

import itertools

from . import ornaments, parts
from .geometry import Mesh
from .ornaments import Window
from .paint import HOLE, Kit, arch_outline, shift


def castle(kit: Kit) -> Mesh:
    """A crenellated wall with a gate, corner towers and a keep."""
    mesh = Mesh()
    w, h, d = kit.uniform(26, 40), kit.uniform(8, 13), kit.uniform(18, 28)
    kit.sized(w * 1.25)
    window = Window.random(kit, ("round", "pointed", "flat"))
    swallow = kit.chance(0.3)
    front = kit.wall(w, h)
    gate = kit.uniform(0.35, 0.65) * w
    ornaments.portal(kit, front, gate, w * 0.11, h * 0.55, kit.pick(["round", "pointed"]), 2)
    window.grid(kit, front, w * 0.06, h * 0.25, w * 0.88, h * 0.3, kit.integer(4, 8), 1, (0.2, 0.6))
    if kit.chance(0.5):
        ornaments.blind_arcade(kit, front, h * 0.02, h * 0.12, kit.integer(14, 26), "round")
    side = kit.wall(d, h)
    window.grid(kit, side, 0, h * 0.25, d, h * 0.3, 4, 1, (0.2, 0.6))
    mesh.box((0, 0, 0), (w, h, d), front.image, side.image, kit.wall(w, d, "concrete").image)
    parts.parapet(mesh, kit, (0, h, 0), (w, d), h * 0.14, kit.integer(10, 18), swallow)

    top = kit.pick(["cone", "crenels", "cone"])
    slits = kit.integer(2, 4)
    shape = kit.pick(["round", "round", "square"])
    for a in (-1, 1):
        for b in (1, -1):
            r = w * kit.pick([0.08, 0.1, 0.12])
            tall = h * kit.uniform(1.15, 2.0)
            at = (a * w / 2, 0.0, b * d / 2)
            if shape == "round":
                parts.round_tower(mesh, kit, at, r, tall, top, slits)
            else:
                _square_tower(mesh, kit, at, r * 1.9, tall, window, top)

    keep_w = w * kit.uniform(0.2, 0.4)
    keep_h = h * kit.uniform(1.6, 2.6)
    x = kit.uniform(-0.2, 0.2) * w
    keep = kit.wall(keep_w, keep_h)
    window.grid(
        kit,
        keep,
        keep_w * 0.08,
        keep_h * 0.05,
        keep_w * 0.84,
        keep_h * 0.5,
        kit.integer(2, 4),
        kit.integer(2, 3),
        (0.35, 0.6),
    )
    at = (x, 0.0, -d * kit.uniform(0.05, 0.25))
    mesh.box(at, (keep_w, keep_h, keep_w), keep.image)
    crown = (at[0], keep_h, at[2])
    if kit.chance(0.5):
        parts.parapet(mesh, kit, crown, (keep_w * 1.06,) * 2, h * 0.16, kit.integer(5, 8), swallow)
        parts.finial(mesh, kit, crown, h * 0.7)
    else:
        roof = kit.roof(keep_w, keep_w)
        mesh.gable(
            crown,
            (keep_w, keep_w * 0.7, keep_w),
            roof.image,
            kit.wall(keep_w, keep_w).image,
            along_x=kit.chance(0.5),
        )
    if kit.chance(0.5):
        sign = kit.pick([-1, 1])
        at = (x + sign * keep_w / 2, 0.0, at[2] + keep_w / 2)
        parts.round_tower(mesh, kit, at, keep_w * 0.16, keep_h * 1.25, "cone", 4)
    return mesh


def _square_tower(
    mesh: Mesh, kit: Kit, at: parts.Point, width: float, height: float, window: Window, top: str
) -> None:
    x, _, z = at
    wall = kit.wall(width, height)
    window.grid(kit, wall, width * 0.1, height * 0.06, width * 0.8, height * 0.6, 1, 2, (0.3, 0.5))
    ornaments.quoins(kit, wall, height / 14)
    mesh.box(at, (width, height, width), wall.image)
    if top == "cone":
        roof = kit.roof(width, width)
        mesh.frustum((x, height, z), (width * 1.15,) * 2, (0, 0), width * 0.9, roof.image)
    else:
        parts.parapet(mesh, kit, (x, height, z), (width * 1.1,) * 2, width * 0.2, 4)


def gate(kit: Kit) -> Mesh:
    """A triumphal arch or city gate: one or three passages, an attic, and statues on top."""
    mesh = Mesh()
    passages = kit.pick([1, 1, 3])
    w, h = kit.uniform(16, 24), kit.uniform(13, 20)
    d = w * kit.uniform(0.25, 0.4)
    kit.sized(max(w, h) * 1.25)
    shape = kit.pick(["round", "round", "pointed", "flat"])
    attic = h * kit.uniform(0.2, 0.32)
    front = kit.wall(w, h)
    spans = [(0.5, 0.36)] if passages == 1 else [(0.5, 0.26), (0.19, 0.15), (0.81, 0.15)]
    ornaments.pilasters(
        kit,
        front,
        w * 0.02,
        w * 0.96,
        attic * 1.15,
        h - attic * 1.15,
        4 if passages == 3 else kit.pick([2, 4]),
    )
    passage_h = h * kit.uniform(0.5, 0.6)
    openings = []
    for k, (centre, span) in enumerate(spans):
        pw, ph = w * span, passage_h * (1.0 if k == 0 else 0.68)
        x = w * centre - pw / 2
        front.opening(x - pw * 0.09, h - ph - pw * 0.09, pw * 1.18, ph + pw * 0.09, kit.trim, shape)
        front.opening(x, h - ph, pw, ph, shift(kit.wall_colour, -0.5), shape, HOLE)
        openings.append((x, pw, ph))
        if k and kit.chance(0.8):  # a relief above the small passages
            front.ellipse(w * centre, h - ph * 1.32, pw * 0.36, pw * 0.36, kit.trim)
            front.ellipse(w * centre, h - ph * 1.32, pw * 0.26, pw * 0.26, shift(kit.trim, -0.4))
    kind = kit.pick(["letters", "panels", "reliefs"])
    if kind == "letters":
        ornaments.sign(kit, front, w * 0.2, attic * 0.25, w * 0.6, attic * 0.5, kit.integer(7, 12))
    elif kind == "panels":
        ornaments.blind_arcade(kit, front, attic * 0.2, attic * 0.6, kit.integer(5, 11), "flat")
    else:
        for k in range(5):
            front.ellipse(w * (k + 0.5) / 5, attic * 0.5, attic * 0.28, attic * 0.28, kit.trim)
            front.ellipse(w * (k + 0.5) / 5, attic * 0.5, attic * 0.2, attic * 0.2, kit.accent)
    ornaments.cornice(kit, front, 0, attic * 0.16)
    ornaments.cornice(kit, front, attic, attic * 0.2)
    flank = kit.wall(d, h)
    ornaments.cornice(kit, flank, 0, attic * 0.16)
    ornaments.cornice(kit, flank, attic, attic * 0.2)
    mesh.box((0, 0, 0), (w, h, d), front.image, flank.image)
    for x, pw, ph in openings:
        _passage(mesh, kit, x - w / 2, pw, ph, d, shape)

    crown = kit.pick(["figures", "parapet", "towers", "pediment"])
    if crown == "figures":
        for k in range(count := kit.pick([1, 3, 5])):
            tall = attic * (1.1 if k == count // 2 else 0.8)
            parts.figure(mesh, kit, ((k + 0.5 - count / 2) * w * 0.8 / count, h, 0.0), tall)
    elif crown == "parapet":
        parts.parapet(mesh, kit, (0, h, 0), (w * 1.02, d * 1.02), attic * 0.4, kit.integer(6, 11))
    elif crown == "towers":
        for sign in (-1, 1):
            parts.round_tower(mesh, kit, (sign * w * 0.52, 0, 0), w * 0.13, h * 1.15, "cone", 3)
    else:
        roof = kit.roof(d, w)
        mesh.gable((0, h, 0), (w, attic * 0.9, d), roof.image, kit.wall(w, attic).image)
    return mesh


def _passage(mesh: Mesh, kit: Kit, x: float, w: float, h: float, d: float, shape: str) -> None:
    """The inside of an archway: quads from its outline in front to the one at the back."""
    outline = arch_outline(w, h, shape)
    lining = kit.wall(d, h, None, shift(kit.wall_colour, -0.35)).image
    for (x0, y0), (x1, y1) in itertools.pairwise(outline):
        start = (x + x0, h - y0, d / 2)
        mesh.quad(start, (0, 0, -d), (x1 - x0, y0 - y1, 0), lining, True)


def palace(kit: Kit) -> Mesh:
    """A long front of windows with a middle pavilion, wings, a mansard or a balustrade."""
    mesh = Mesh()
    w, h, d = kit.uniform(36, 52), kit.uniform(11, 17), kit.uniform(12, 18)
    kit.sized(w * 1.08)
    window = Window.random(kit, ("flat", "round", "flat"))
    floors = kit.integer(2, 3)
    bays = kit.integer(9, 15)
    front, flank = kit.wall(w, h), kit.wall(d, h)
    for wall, columns in ((front, bays), (flank, max(2, round(bays * d / w)))):
        window.grid(kit, wall, 0, h * 0.08, wall.width, h * 0.84, columns, floors)
        if kit.chance(0.6):
            ornaments.pilasters(kit, wall, 0, wall.width, h * 0.06, h * 0.9, columns + 1)
        for k in range(1, floors):
            ornaments.cornice(kit, wall, h * (0.08 + 0.84 * k / floors) - h * 0.02, h * 0.03, False)
        ornaments.cornice(kit, wall, 0, h * 0.05)
    mesh.box((0, 0, 0), (w, h, d), front.image, flank.image)
    mansard = kit.chance(0.55)
    if mansard:
        rise = h * kit.uniform(0.25, 0.45)
        roof = kit.roof(w, rise)
        Window("round", (1, 2), kit.trim, kit.glass, None, 0.2, "none", 0.4).grid(
            kit, roof, 0, rise * 0.2, w, rise * 0.6, bays // 2, 1, (0.2, 0.8)
        )
        mesh.frustum((0, h, 0), (w, d), (w - rise, d - rise), rise, roof.image)
    else:
        rail = ornaments.balustrade(kit, w, h * 0.09).image
        mesh.quad((-w / 2, h * 1.09, d / 2), (w, 0, 0), (0, -h * 0.09, 0), rail, True)
        low = kit.roof(w, d * 0.5)
        mesh.gable(
            (0, h, -0.5), (w * 0.98, h * 0.16, d * 0.9), low.image, flank.image, along_x=True
        )

    mid_w, mid_h = w * kit.uniform(0.2, 0.34), h * kit.uniform(1.05, 1.35)
    middle = kit.wall(mid_w, mid_h)
    columns = kit.pick([3, 3, 5])
    window.grid(kit, middle, 0, mid_h * 0.08, mid_w, mid_h * 0.5, columns, 1, (0.5, 0.7))
    for k in range(columns):
        ornaments.portal(
            kit,
            middle,
            mid_w * (k + 0.5) / columns,
            mid_w / columns * 0.5,
            mid_h * 0.32,
            kit.pick(["round", "flat"]),
            1,
        )
    ornaments.pilasters(kit, middle, 0, mid_w, mid_h * 0.06, mid_h * 0.92, columns + 1)
    ornaments.cornice(kit, middle, 0, mid_h * 0.06)
    at = (0.0, 0.0, d * 0.08)
    mesh.box(at, (mid_w, mid_h, d * 1.02), middle.image, kit.wall(d, mid_h).image)
    crown = kit.pick(["pediment", "dome", "cupola", "attic"])
    if crown in ("pediment", "attic"):
        tall = h * (0.3 if crown == "pediment" else 0.12)
        gable = kit.wall(mid_w, tall, "plain", kit.trim)
        gable.ellipse(mid_w / 2, tall * 0.62, tall * 0.22, tall * 0.22, kit.accent)
        mesh.gable((0, mid_h, at[2]), (mid_w, tall, d), kit.roof(d, mid_w).image, gable.image)
    elif crown == "dome":
        r = mid_w * 0.42
        parts.drum(mesh, kit, (0, mid_h, 0), r, h * 0.25, window)
        parts.dome(mesh, kit, (0, mid_h + h * 0.25, 0), r, r * kit.uniform(0.8, 1.3))
    else:
        mesh.frustum(
            (0, mid_h, at[2]),
            (mid_w * 1.04, d * 1.04),
            (mid_w * 0.4, d * 0.4),
            h * 0.4,
            kit.roof(mid_w, h * 0.5).image,
        )
        parts.spire(mesh, kit, (0, mid_h + h * 0.4, at[2]), mid_w * 0.35, h * 0.6, "lantern")
    if kit.chance(0.55):  # wings that stand forward
        wing_w = w * kit.uniform(0.12, 0.18)
        wing = kit.wall(wing_w, h)
        window.grid(kit, wing, 0, h * 0.08, wing_w, h * 0.84, 2, floors)
        ornaments.cornice(kit, wing, 0, h * 0.05)
        for sign in (-1, 1):
            x = sign * (w - wing_w) / 2
            mesh.box((x, 0, d * 0.3), (wing_w, h, d * 0.8), wing.image, flank.image)
            mesh.frustum(
                (x, h, d * 0.3),
                (wing_w * 1.05, d * 0.84),
                (0, 0),
                h * 0.35,
                kit.roof(wing_w, h * 0.4).image,
            )
    return mesh
