"""Families of landmarks: windmills, lighthouses, skyscrapers, iron and television towers."""

from __future__ import annotations

import numpy as np

from . import ornaments, parts
from .geometry import Mesh
from .ornaments import Window
from .paint import GLOW, HOLE, SOLID, Kit, Wall, shift


def windmill(kit: Kit) -> Mesh:
    """A tapering tower with a cap, four to six sails, and perhaps a gallery or a house below."""
    mesh = Mesh()
    h, r = kit.uniform(12, 18), kit.uniform(3.2, 4.8)
    sail = h * kit.uniform(0.55, 0.8)
    kit.sized(h + sail)
    window = Window.random(kit)
    sides = kit.pick([8, 8, 14])
    taper = kit.uniform(0.55, 0.8)
    around = 2 * np.pi * r
    skin = kit.wall(around, h, kit.pick([kit.material, "planks", "tiles"]))
    window.grid(
        kit, skin, 0, h * 0.12, around, h * 0.6, kit.pick([5, 7]), kit.integer(2, 3), (0.22, 0.5)
    )
    ornaments.portal(kit, skin, around / 2, r * 0.5, h * 0.18, "round", 1)
    for k in range(kit.integer(0, 3)):
        skin.rect(0, h * (0.02 + 0.3 * k), around, h * 0.04, kit.accent)
    mesh.lathe((0, 0, 0), [(r, 0), (r * taper, h)], skin.image, sides=sides, turn=np.pi / sides)
    if kit.chance(0.5):
        y = h * kit.uniform(0.25, 0.4)
        rail = ornaments.balustrade(kit, around * 1.3, 1.1).image
        deck = kit.wall(around, 1, "planks", kit.door).image
        mesh.lathe((0, y, 0), [(r * 0.8, -0.6), (r * 1.35, 0)], deck, sides=sides)
        mesh.lathe((0, y, 0), [(r * 1.35, 0), (r * 1.35, 1.1)], rail, sides=sides)
    cap_r = r * taper * 1.12
    shapes = (
        [(1.0, 0.0), (0.95, 0.4), (0.6, 0.8), (0.0, 1.0)],
        [(1.0, 0.0), (0.0, 1.3)],
        [(1.0, 0.0), (1.0, 0.3), (0.75, 0.9), (0.2, 1.2), (0.0, 1.5)],
    )
    shape = kit.pick(shapes)
    cap = kit.roof(2 * np.pi * cap_r, cap_r * 1.5)
    mesh.lathe((0, h, 0), [(a * cap_r, b * cap_r) for a, b in shape], cap.image, sides=10)
    arms = kit.pick([4, 4, 4, 6])
    _sails(mesh, kit, (0.0, h + cap_r * 0.35, cap_r * 1.1), sail, arms)
    if kit.chance(0.4):
        w, tall = r * 1.8, h * 0.3
        house = kit.wall(w * 1.4, tall)
        window.grid(kit, house, 0, tall * 0.2, w * 1.4, tall * 0.6, 3, 1)
        x = kit.pick([-1, 1]) * (r + w * 0.55)
        mesh.box((x, 0, 0), (w * 1.4, tall, w), house.image)
        mesh.gable(
            (x, tall, 0),
            (w * 1.4, tall * 0.7, w),
            kit.roof(w * 1.5, w).image,
            kit.wall(w, tall).image,
            along_x=True,
        )
    return mesh


def _sails(mesh: Mesh, kit: Kit, hub: parts.Point, length: float, arms: int) -> None:
    frame = kit.pick([(238, 234, 226), (92, 72, 56), kit.accent])
    wide = length * kit.uniform(0.16, 0.26)
    cloth = kit.chance(0.6)
    sail = kit.sheer(wide * 1.2, length)
    bars = kit.integer(5, 9)
    if cloth:
        sail.rect(wide * 0.2, 0, wide * 0.95, length * 0.82, (222, 212, 190))
    for k in range(bars + 1):
        sail.rect(wide * 0.1, length * 0.82 * k / bars, wide * 1.05, length * 0.014, frame)
    for x in (wide * 0.12, wide * 0.65, wide * 1.12):
        sail.rect(x - wide * 0.03, 0, wide * 0.06, length * 0.83, frame)
    sail.rect(wide * 0.05, 0, wide * 0.16, length, shift(frame, -0.3))
    start = kit.uniform(0, 2 * np.pi / arms)
    for k in range(arms):
        a = start + 2 * np.pi * k / arms
        out = np.array([np.sin(a), np.cos(a), 0.0])
        across = np.array([np.cos(a), -np.sin(a), 0.0])
        tip = np.array(hub) + out * length - across * wide * 0.13
        mesh.quad(tip, across * wide * 1.2, -out * length, sail.image, True)


def lighthouse(kit: Kit) -> Mesh:
    """A tall banded tower with a gallery and a lantern, on rocks, with the keeper's house."""
    mesh = Mesh()
    h, r = kit.uniform(18, 30), kit.uniform(2.2, 3.6)
    kit.sized(h * 1.3)
    window = Window.random(kit)
    colour = kit.pick([kit.accent, (150, 44, 40), (40, 40, 44)])
    around = 2 * np.pi * r
    skin = kit.wall(around, h, kit.pick(["plaster", "brick", "ashlar"]), (226, 222, 212))
    pattern = kit.pick(["bands", "spiral", "diamonds", "plain", "half"])
    n = kit.integer(2, 5)
    if pattern == "bands":
        for k in range(n):
            skin.rect(0, h * (k + 0.5) / n, around, h * 0.5 / n, colour)
    elif pattern == "spiral":
        for k in range(-n, n + 1):
            y = h * k / n
            band = [(0, y), (around, y + h / n), (around, y + 1.5 * h / n), (0, y + 0.5 * h / n)]
            skin.polygon(band, colour)
    elif pattern == "diamonds":
        for k in range(n):
            for i in range(6):
                x, y = around * (i + 0.5) / 6, h * (k + 0.5) / n
                skin.polygon(
                    [
                        (x - r * 0.5, y),
                        (x, y - h * 0.5 / n),
                        (x + r * 0.5, y),
                        (x, y + h * 0.5 / n),
                    ],
                    colour,
                )
    elif pattern == "half":
        skin.rect(0, h * kit.uniform(0.3, 0.6), around, h, colour)
    window.grid(kit, skin, 0, h * 0.15, around, h * 0.7, 4, kit.integer(3, 5), (0.18, 0.3))
    ornaments.portal(kit, skin, around / 2, r * 0.6, h * 0.1, "round", 1)
    base = kit.uniform(1.0, 3.0)
    rock = kit.wall(12, 6, "rubble", (112, 106, 98)).image
    ledge = r * kit.uniform(2.2, 3.2)
    mesh.lathe(
        (0, 0, 0),
        [(ledge * 1.25, 0), (ledge, base * 0.7), (r * 1.5, base), (0, base)],
        rock,
        sides=9,
        turn=0.4,
    )
    profile = [(r * kit.uniform(1.15, 1.5), 0.0), (r, h * 0.18), (r * kit.uniform(0.55, 0.8), h)]
    mesh.lathe((0, base, 0), profile, skin.image, sides=14)
    y, top = base + h, profile[-1][0]
    deck = kit.wall(around, 1, "plain", colour).image
    mesh.lathe((0, y, 0), [(top, -top * 0.5), (top * 1.6, 0), (0, 0.05)], deck, sides=12)
    rail = ornaments.balustrade(kit, around * 1.4, 1.0).image
    mesh.lathe((0, y, 0), [(top * 1.6, 0), (top * 1.6, 1.1)], rail, sides=12)
    lamp_h = top * kit.uniform(1.0, 1.7)
    lamp = kit.wall(around, lamp_h, "plain", (196, 206, 206))
    lamp.rect(0, lamp_h * 0.15, around, lamp_h * 0.7, (214, 220, 206), GLOW)
    for k in range(12):
        lamp.rect(around * k / 12, 0, around * 0.02, lamp_h, colour)
    mesh.lathe((0, y, 0), [(top * 0.9, 0), (top * 0.9, lamp_h)], lamp.image, sides=12)
    cap = kit.wall(around, top, "seams", colour).image
    dome = [(1.1, 0.0), (0.9, 0.4), (0.5, 0.75), (0.0, 0.9)]
    shape = kit.pick([[(1.1, 0.0), (0.0, 1.0)], dome])
    mesh.lathe((0, y + lamp_h, 0), [(a * top, b * top) for a, b in shape], cap, sides=12)
    parts.finial(mesh, kit, (0, y + lamp_h + top * 0.9, 0), top * 0.8)
    for sign in ((-1,), (1,), (-1, 1), ())[kit.integer(0, 3)]:
        w, tall, d = kit.uniform(6, 9), kit.uniform(3, 4.5), kit.uniform(4, 6)
        house = kit.wall(w, tall, "plaster", (226, 222, 212))
        window.grid(kit, house, 0, tall * 0.25, w, tall * 0.5, kit.integer(2, 4), 1)
        at = (sign * (r + w * 0.62), base * 0.4, 0.0)
        mesh.box(at, (w, tall, d), house.image)
        mesh.gable(
            (at[0], at[1] + tall, 0),
            (w, d * 0.45, d),
            kit.roof(w, d).image,
            house.image,
            along_x=True,
        )
    return mesh


def skyscraper(kit: Kit) -> Mesh:
    """A tower of glass and concrete: stepped, round, or a pair with a bridge; and its crown."""
    mesh = Mesh()
    w, h = kit.uniform(13, 20), kit.uniform(42, 62)
    kit.sized(h * 1.15)
    kind = kit.pick(["setback", "round", "twin", "slab"])
    skin = kit.pick(["grid", "stripes", "ribbons", "diagonal"])
    frame = kit.pick([kit.trim, kit.wall_colour, (70, 76, 84), (206, 208, 210)])
    glass = kit.pick([(74, 96, 118), (54, 62, 72), (96, 120, 126), (110, 88, 66)])
    floors, bays = kit.integer(10, 22), kit.integer(4, 9)

    def facade(width: float, height: float) -> Wall:
        wall = kit.wall(width, height, "concrete", frame)
        rows = max(2, round(floors * height / h))
        columns = max(2, round(bays * width / w))
        for j in range(rows):
            for i in range(columns):
                tone = shift(glass, kit.uniform(-0.15, 0.2))
                alpha = GLOW if kit.chance(0.45) else SOLID
                x, y = width * i / columns, height * j / rows
                cw, ch = width / columns, height / rows
                if skin == "grid":
                    wall.rect(x + cw * 0.16, y + ch * 0.2, cw * 0.68, ch * 0.62, tone, alpha)
                elif skin == "stripes":
                    wall.rect(x + cw * 0.25, y, cw * 0.5, ch * 0.92, tone, alpha)
                elif skin == "ribbons":
                    wall.rect(x, y + ch * 0.35, cw, ch * 0.65, tone, alpha)
                else:
                    wall.rect(x, y, cw * 0.97, ch * 0.95, tone, alpha)
        if skin == "diagonal":
            bays_up = max(1, round(height / width / 0.9))
            for k in range(bays_up):
                y0, y1 = height * k / bays_up, height * (k + 1) / bays_up
                wall.line([(0, y0), (width / 2, y1), (width, y0)], frame, width * 0.05)
                wall.line([(0, y1), (width / 2, y0), (width, y1)], frame, width * 0.05)
        wall.rect(0, height * 0.96, width, height * 0.04, shift(glass, -0.4), GLOW)
        return wall

    top = h
    if kind == "setback":
        y, size, share = 0.0, w, [0.42, 0.3, 0.18, 0.1]
        shrink = kit.uniform(0.72, 0.9)
        for part in share[: kit.integer(2, 4)]:
            mesh.box((0, y, 0), (size, h * part, size), facade(size, h * part).image)
            y, size = y + h * part, size * shrink
        top, w = y, size
    elif kind == "round":
        ring = facade(np.pi * w, h)
        waist = kit.uniform(0.75, 1.15)
        mesh.lathe(
            (0, 0, 0),
            [(w / 2, 0), (w / 2 * waist, h * 0.5), (w / 2 * min(waist, 0.95), h)],
            ring.image,
            sides=16,
            stretch=kit.uniform(0.7, 1.0),
        )
    elif kind == "twin":
        wall = facade(w * 0.7, h)
        lower = kit.pick([1.0, 0.82])
        for sign, part in ((-1, 1.0), (1, lower)):
            mesh.box((sign * w * 0.62, 0, 0), (w * 0.7, h * part, w * 0.7), wall.image)
        y = h * kit.uniform(0.4, 0.65)
        mesh.box((0, y, 0), (w * 0.6, h * 0.05, w * 0.25), facade(w * 0.6, h * 0.05).image)
        w *= 0.7
    else:
        mesh.box(
            (0, 0, 0), (w * 1.3, h, w * 0.5), facade(w * 1.3, h).image, facade(w * 0.5, h).image
        )
    x = -w * 0.62 / 0.7 if kind == "twin" else 0.0
    crown = kit.pick(["pyramid", "mast", "slope", "box", "sign"])
    if crown == "pyramid":
        mesh.frustum((x, top, 0), (w, w), (0, 0), w * kit.uniform(0.6, 1.6), facade(w, w).image)
    elif crown == "mast":
        mast = kit.wall(1, h * 0.25, "bands", kit.accent).image
        mesh.frustum(
            (x, top, 0), (w * 0.12,) * 2, (w * 0.03,) * 2, h * kit.uniform(0.15, 0.3), mast
        )
    elif crown == "slope":
        mesh.gable(
            (x, top, 0), (w, w * 0.5, w), facade(w, w).image, facade(w, w * 0.5).image, eaves=0
        )
    else:
        tall = w * 0.3
        board = kit.wall(w * 0.8, tall, "seams", frame)
        if crown == "sign":
            ornaments.sign(kit, board, 0, 0, w * 0.8, tall, kit.integer(3, 6))
        mesh.box((x, top, 0), (w * 0.8, tall, w * 0.5), board.image)
    hall = kit.wall(w * 1.6, h * 0.07, "concrete", frame)
    hall.rect(0, h * 0.015, w * 1.6, h * 0.045, glass, GLOW)
    mesh.box((kit.uniform(-0.3, 0.3) * w, 0, w * 0.2), (w * 1.6, h * 0.07, w * 1.2), hall.image)
    return mesh


def lattice_tower(kit: Kit) -> Mesh:
    """An iron tower: four lattice legs that lean inwards, platforms, and an arch at the foot."""
    mesh = Mesh()
    h, w = kit.uniform(36, 50), kit.uniform(14, 22)
    kit.sized(h)
    colour = kit.pick([kit.accent, (104, 82, 62), (120, 124, 126), kit.roof_colour])
    levels = kit.integer(2, 4)
    curve = kit.uniform(1.2, 2.6)
    heights = np.linspace(0, 1, levels + 1) ** kit.uniform(0.9, 1.4)
    widths = np.maximum((1 - heights) ** curve, 0.06)
    arch = kit.chance(0.6)
    for k in range(levels):
        y0, y1 = heights[k] * h, heights[k + 1] * h
        w0, w1 = widths[k] * w, widths[k + 1] * w
        panel = ornaments.trusses(kit, w0, y1 - y0, kit.integer(2, 5), colour, w * 0.028)
        if k == 0 and arch:
            panel.opening(
                w0 * 0.16,
                panel.height * 0.3,
                w0 * 0.68,
                panel.height * 0.7,
                shift(colour, 0.1),
                "round",
            )
            panel.opening(
                w0 * 0.22,
                panel.height * 0.38,
                w0 * 0.56,
                panel.height * 0.62,
                colour,
                "round",
                HOLE,
            )
        cut = (w0 - w1) / 2
        slope = 1.5 * cut / w0 if k == 0 else 0.0
        legs = w0 * 0.5 * (1 - slope)
        if k == 0 and not arch:
            panel.polygon(
                [
                    (w0 / 2, 0),
                    (w0 / 2 + legs * 0.5, panel.height),
                    (w0 / 2 - legs * 0.5, panel.height),
                ],
                colour,
                HOLE,
            )
        # The iron's edge follows the slant of the panel, as does the face that is cut out of it.
        for edge in (((0, panel.height), (cut, 0)), ((w0, panel.height), (w0 - cut, 0))):
            panel.line(list(edge), shift(colour, -0.1), w * 0.05)
        mesh.frustum((0, y0, 0), (w0, w0), (w1, w1), y1 - y0, panel.image, two_sided=True)
        deck = ornaments.balustrade(kit, w1 * 1.4, h * 0.02)
        if k < levels - 1:
            deck.rect(0, deck.height * 0.4, deck.width, deck.height * 0.6, shift(colour, -0.2))
            mesh.box((0, y1, 0), (w1 * 1.35, h * 0.02, w1 * 1.35), deck.image)
    top = kit.wall(2, 2, "plain", colour).image
    width = float(widths[-1] * w)
    mesh.box((0, h, 0), (width * 1.8, h * 0.03, width * 1.8), top)
    mesh.frustum((0, h * 1.03, 0), (width * 0.5,) * 2, (0, 0), h * kit.uniform(0.06, 0.14), top)
    foot = kit.wall(w * 0.16, h * 0.03).image
    for a in (-1, 1):
        for b in (-1, 1):
            mesh.box((a * w * 0.46, 0, b * w * 0.46), (w * 0.16, h * 0.03, w * 0.16), foot)
    return mesh


def television_tower(kit: Kit) -> Mesh:
    """A slender shaft with pods and an aerial, over a low hall."""
    mesh = Mesh()
    h = kit.uniform(44, 60)
    r = h * kit.uniform(0.035, 0.055)
    kit.sized(h * 1.1)
    shaft = kit.wall(
        2 * np.pi * r,
        h,
        kit.pick(["concrete", "plain", "seams"]),
        kit.pick([kit.trim, kit.wall_colour, (176, 176, 174)]),
    )
    for k in range(kit.integer(0, 5)):
        shaft.rect(0, h * (0.1 + 0.17 * k), 10 * r, h * 0.03, kit.accent)
    flare = kit.uniform(1.0, 2.2)
    mesh.lathe((0, 0, 0), [(r * flare, 0), (r, h * 0.2), (r * 0.7, h)], shaft.image, sides=10)
    kinds = [
        [(0.3, 0), (1.0, 0.35), (1.0, 0.7), (0.4, 1.0)],
        [(0.2, 0), (0.75, 0.15), (1.0, 0.5), (0.75, 0.85), (0.2, 1.0)],
        [(0.5, 0), (1.0, 0.2), (1.0, 0.4), (0.7, 0.45), (0.7, 0.8), (0.3, 1.0)],
        [(0.9, 0), (1.0, 0.1), (1.0, 0.9), (0.9, 1.0), (0.3, 1.02)],
    ]
    for k in range(kit.integer(1, 3)):
        y, pod_r = h * (0.62 + 0.13 * k), r * kit.uniform(2.2, 4.4) * (1 - 0.25 * k)
        pod_h = pod_r * kit.uniform(0.7, 1.6) if k == 0 else pod_r * 0.7
        skin = kit.wall(
            2 * np.pi * pod_r,
            pod_h * 1.8,
            "seams",
            kit.pick([kit.trim, (170, 174, 178), kit.accent]),
        )
        rows = kit.integer(1, 3)
        for j in range(rows):
            y0 = skin.height * (0.3 + 0.4 * j / rows)
            skin.rect(
                0,
                y0,
                skin.width,
                skin.height * 0.24 / rows,
                kit.glass,
                GLOW if j % 2 == 0 else SOLID,
            )
        shape = kit.pick(kinds)
        mesh.lathe((0, y, 0), [(a * pod_r, b * pod_h) for a, b in shape], skin.image, sides=14)
    aerial = kit.wall(1, h * 0.3, "bands", kit.accent)
    for k in range(6):
        aerial.rect(0, h * 0.05 * k, 1, h * 0.025, (230, 228, 224))
    mesh.lathe(
        (0, h, 0),
        [(r * 0.4, 0), (r * 0.3, h * 0.14), (r * 0.12, h * kit.uniform(0.2, 0.32))],
        aerial.image,
        sides=6,
    )
    hall_r, hall_h = r * kit.uniform(3, 5.5), h * kit.uniform(0.04, 0.08)
    hall = kit.wall(2 * np.pi * hall_r, hall_h, "concrete")
    Window.random(kit, ("flat",)).grid(
        kit, hall, 0, hall_h * 0.2, hall.width, hall_h * 0.6, 24, 1, (0.7, 0.9)
    )
    if kit.chance(0.5):
        mesh.lathe(
            (0, 0, 0), [(hall_r, 0), (hall_r, hall_h), (r, hall_h * 1.3)], hall.image, sides=14
        )
    else:
        mesh.box((0, 0, 0), (hall_r * 2.2, hall_h, hall_r * 1.4), hall.image)
    return mesh
