"""Families of landmarks: rows of houses, clock towers, factories."""

from __future__ import annotations

import numpy as np

from . import ornaments, parts
from .geometry import Mesh
from .ornaments import Window
from .paint import GLOW, HOLE, Kit, Wall, shift


def house_row(kit: Kit) -> Mesh:
    """Narrow town houses side by side, each with a gable and a front of its own."""
    mesh = Mesh()
    count = kit.integer(3, 5)
    widths = [kit.uniform(5.5, 8.5) for _ in range(count)]
    heights = [kit.uniform(10, 17) for _ in range(count)]
    d = kit.uniform(9, 13)
    kit.sized(max(sum(widths), 20) * 1.05)
    x = -sum(widths) / 2
    tones = [kit.wall_colour, kit.accent, kit.trim, shift(kit.wall_colour, -0.3), kit.roof_colour]
    for w, h in zip(widths, heights, strict=True):
        window = Window.random(kit, ("flat", "round", "flat"))
        colour = kit.pick(tones)
        material = kit.pick(["plaster", "brick", "plaster", "planks"])
        gable_h = kit.uniform(3, 5.5)
        shape = kit.pick(["step", "bell", "neck", "point", "flat"])
        front = kit.wall(w, h + gable_h, material, colour)
        _gable_outline(kit, front, gable_h, shape)
        floors, bays = kit.integer(3, 4), kit.integer(2, 3)
        window.grid(kit, front, w * 0.04, gable_h, w * 0.92, h * 0.72, bays, floors, (0.5, 0.62))
        if shape != "flat":
            window.paint(kit, front, w * 0.42, gable_h * 0.45, w * 0.16, gable_h * 0.4)
        shop = h * 0.24
        if kit.chance(0.6):
            front.rect(0, h + gable_h - shop, w, shop, kit.pick([kit.door, kit.accent, kit.trim]))
            front.rect(w * 0.06, h + gable_h - shop * 0.68, w * 0.5, shop * 0.58, kit.glass, GLOW)
            front.rect(
                w * 0.68, h + gable_h - shop * 0.72, w * 0.22, shop * 0.72, shift(kit.door, -0.3)
            )
            ornaments.sign(
                kit, front, w * 0.06, h + gable_h - shop, w * 0.88, shop * 0.25, kit.integer(4, 9)
            )
        else:
            ornaments.portal(kit, front, w * kit.pick([0.25, 0.5, 0.75]), w * 0.2, shop, "round", 1)
        top = h + gable_h
        mesh.quad((x, top, d / 2), (w, 0, 0), (0, -top, 0), front.image)
        flank = kit.wall(d, h, material, colour).image
        mesh.box((x + w / 2, 0, -0.05), (w, h, d - 0.2), flank)
        mesh.gable(
            (x + w / 2, h, -0.1),
            (w, gable_h * 0.9, d - 0.3),
            kit.roof(d, w).image,
            kit.wall(w, gable_h, material, colour).image,
            eaves=0.0,
        )
        if kit.chance(0.6):
            stack = kit.wall(0.9, 2.5, "brick", (150, 84, 66)).image
            mesh.box(
                (x + w * kit.uniform(0.2, 0.8), h + gable_h * 0.4, -d * 0.2), (0.9, 2.5, 0.9), stack
            )
        x += w
    return mesh


def _gable_outline(kit: Kit, front: Wall, rise: float, shape: str) -> None:
    """Cuts the wall's top into a gable, with a coping along it."""
    w = front.width
    half: dict[str, list[tuple[float, float]]] = {
        "step": [
            (0, 1),
            (0, 0.72),
            (0.13, 0.72),
            (0.13, 0.46),
            (0.26, 0.46),
            (0.26, 0.2),
            (0.39, 0.2),
            (0.39, 0),
        ],
        "bell": [
            (0, 1),
            (0.03, 0.8),
            (0.16, 0.62),
            (0.24, 0.36),
            (0.27, 0.16),
            (0.36, 0.05),
            (0.5, 0),
        ],
        "neck": [(0, 1), (0, 0.85), (0.2, 0.72), (0.26, 0.5), (0.26, 0.14), (0.5, 0)],
        "point": [(0, 1), (0.5, 0)],
        "flat": [(0, 0.72), (0.5, 0.72)],
    }
    left = half[shape]
    edge = left + [(1 - a, b) for a, b in reversed(left)]
    outside = [(-0.02, -0.02), (-0.02, edge[0][1]), *edge, (1.02, edge[-1][1]), (1.02, -0.02)]
    front.polygon([(a * w, b * rise) for a, b in outside], (120, 116, 110), HOLE)
    coping = [(a * w, b * rise + rise * 0.03) for a, b in edge]
    front.line(coping, kit.trim, w * 0.045)


def clock_tower(kit: Kit) -> Mesh:
    """A tall square shaft with clocks, a belfry and a spire; sometimes a low hall at its foot."""
    mesh = Mesh()
    w, h = kit.uniform(7, 10), kit.uniform(30, 44)
    top_h = kit.uniform(6, 14)
    kit.sized(h + top_h)
    window = Window.random(kit)
    shaft = kit.wall(w, h)
    style = kit.pick(["panels", "bands", "windows", "quoins"])
    if style == "panels":
        count = kit.integer(2, 4)
        for k in range(count):
            shaft.rect(
                w * (k + 0.25) / count,
                h * 0.06,
                w * 0.5 / count,
                h * 0.8,
                shift(kit.wall_colour, -0.28),
            )
        window.grid(kit, shaft, 0, h * 0.08, w, h * 0.75, count, kit.integer(4, 7), (0.2, 0.4))
    elif style == "bands":
        for k in range(kit.integer(4, 7)):
            ornaments.cornice(kit, shaft, h * (0.1 + 0.13 * k), h * 0.02)
        window.grid(kit, shaft, w * 0.3, h * 0.1, w * 0.4, h * 0.78, 1, 6, (0.5, 0.5))
    else:
        window.grid(kit, shaft, 0, h * 0.05, w, h * 0.8, kit.integer(1, 3), kit.integer(4, 8))
        if style == "quoins":
            ornaments.quoins(kit, shaft, h / 30)
    ornaments.portal(kit, shaft, w / 2, w * 0.3, h * 0.1, "round", 2)
    mesh.box((0, 0, 0), (w, h * 0.7, w), shaft.image)
    face_w, face_h = w * kit.uniform(1.0, 1.2), w * kit.uniform(1.15, 1.4)
    face = kit.wall(face_w, face_h)
    ornaments.clock(
        kit, face, face_w / 2, face_h * 0.52, face_w * kit.uniform(0.3, 0.38), kit.chance(0.5)
    )
    ornaments.cornice(kit, face, 0, face_h * 0.08)
    ornaments.cornice(kit, face, face_h * 0.93, face_h * 0.07, dentils=False)
    mesh.box((0, h * 0.7, 0), (face_w, face_h, face_w), face.image)
    y = h * 0.7 + face_h
    belfry_h = w * kit.uniform(0.5, 1.1)
    belfry = kit.wall(w * 0.96, belfry_h)
    ornaments.blind_arcade(
        kit, belfry, belfry_h * 0.15, belfry_h * 0.85, kit.integer(2, 5), window.shape, -0.7
    )
    mesh.box((0, y, 0), (w * 0.96, belfry_h, w * 0.96), belfry.image)
    parts.spire(mesh, kit, (0, y + belfry_h, 0), w, top_h, kit.pick(parts.SPIRES))
    if kit.chance(0.5):
        hall_w, hall_h = w * kit.uniform(2.5, 3.6), h * kit.uniform(0.2, 0.3)
        hall = kit.wall(hall_w, hall_h)
        window.grid(kit, hall, 0, hall_h * 0.1, hall_w, hall_h * 0.8, kit.integer(5, 9), 2)
        x = kit.pick([-1.0, 0.0, 1.0]) * (hall_w + w) * 0.4
        mesh.box((x, 0, -w), (hall_w, hall_h, w * 1.4), hall.image)
        mesh.gable(
            (x, hall_h, -w),
            (hall_w, hall_h * 0.6, w * 1.4),
            kit.roof(hall_w, w).image,
            kit.wall(w, hall_h).image,
            along_x=True,
        )
    return mesh


def factory(kit: Kit) -> Mesh:
    """A brick hall under a sawtooth or pitched roof, with chimneys, a tank, and its name."""
    mesh = Mesh()
    w, h, d = kit.uniform(26, 38), kit.uniform(8, 12), kit.uniform(14, 20)
    kit.sized(w * 1.15)
    window = Window.random(kit, ("flat", "round"))
    front, flank = kit.wall(w, h), kit.wall(d, h)
    bays = kit.integer(4, 8)
    window.grid(kit, front, 0, h * 0.22, w, h * 0.6, bays, kit.pick([1, 1, 2]), (0.62, 0.8))
    window.grid(kit, flank, 0, h * 0.22, d, h * 0.6, 3, 1, (0.62, 0.8))
    ornaments.pilasters(kit, front, 0, w, h * 0.16, h * 0.84, bays + 1)
    ornaments.sign(
        kit, front, w * 0.1, h * 0.02, w * kit.uniform(0.4, 0.8), h * 0.14, kit.integer(6, 11)
    )
    mesh.box((0, 0, 0), (w, h, d), front.image, flank.image)
    teeth = kit.pick([1, 3, 4, 5])
    rise = h * kit.uniform(0.3, 0.5)
    roof, pane = kit.roof(d, w / teeth), kit.wall(d, rise, "plain", kit.glass)
    for k in range(1, 10):
        pane.rect(d * k / 10, 0, d * 0.012, rise, kit.trim)
    gable = kit.wall(w / teeth, rise)
    if teeth == 1:
        mesh.gable((0, h, 0), (w, rise * 1.3, d), roof.image, gable.image)
    else:
        step = w / teeth
        for k in range(teeth):
            x0 = k * step - w / 2
            mesh.quad((x0, h + rise, d / 2), (0, 0, -d), (step, -rise, 0), roof.image, True)
            mesh.quad((x0, h + rise, -d / 2), (0, 0, d), (0, -rise, 0), pane.image, True)
            for z in (d / 2, -d / 2):
                corners = [(x0, h + rise, z), (x0 + step, h, z), (x0, h, z)]
                ring = corners if z > 0 else corners[::-1]
                mesh.polygon(ring, (1 if z > 0 else -1, 0, 0), gable.image)
    for _ in range(kit.integer(1, 3)):
        r, tall = kit.uniform(0.9, 1.6), h * kit.uniform(1.9, 3.4)
        skin = kit.wall(2 * np.pi * r, tall, "brick")
        for k in range(kit.integer(1, 4)):
            skin.rect(
                0, tall * (0.02 + 0.08 * k), 12 * r, tall * 0.035, kit.pick([kit.trim, kit.accent])
            )
        at = (kit.uniform(-0.45, 0.45) * w, 0.0, -d * kit.uniform(0.2, 0.6))
        lip = [(r * 1.5, 0.0), (r, tall * 0.95), (r * 1.25, tall * 0.96), (r * 1.25, tall)]
        mesh.lathe(at, lip, skin.image, sides=9)
    if kit.chance(0.45):  # a water tank on legs
        x, r = kit.pick([-1, 1]) * w * 0.42, kit.uniform(2, 3)
        legs = ornaments.trusses(kit, r * 2, h * 1.5, 3, (88, 84, 80), 0.25).image
        mesh.quad((x - r, h * 1.5, d * 0.1), (r * 2, 0, 0), (0, -h * 1.5, 0), legs, True)
        tank = kit.wall(2 * np.pi * r, r * 2, "planks", kit.pick([kit.accent, (140, 120, 96)]))
        barrel = [(0.0, -r * 0.3), (r, 0.0), (r, r * 1.5), (0.0, r * 2.1)]
        mesh.lathe((x, h * 1.5, d * 0.1), barrel, tank.image, sides=10)
    return mesh
