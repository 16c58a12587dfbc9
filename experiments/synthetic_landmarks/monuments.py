"""Families of landmarks: monuments, Ferris wheels, stadiums, step pyramids."""

from __future__ import annotations

import numpy as np

from . import ornaments, parts
from .geometry import Mesh
from .ornaments import Window
from .paint import GLOW, HOLE, Kit, shift


def monument(kit: Kit) -> Mesh:
    """A pedestal on steps that bears an obelisk, a column, a statue, or a ball."""
    mesh = Mesh()
    kind = kit.pick(["obelisk", "column", "statue", "pylon"])
    tall = {"obelisk": 18.0, "column": 20.0, "statue": 8.0, "pylon": 14.0}[kind] * kit.uniform(
        0.8, 1.25
    )
    base_w = tall * kit.uniform(0.18, 0.28) if kind != "statue" else tall * kit.uniform(0.5, 0.75)
    base_h = base_w * kit.uniform(0.7, 1.5)
    kit.sized((tall + base_h) * 1.1)
    stairs = base_w * kit.uniform(0.15, 0.4)
    parts.steps(
        mesh, kit, (base_w * 1.5,) * 2, stairs, kit.integer(2, 5), base_w * kit.uniform(0.08, 0.2)
    )
    die = kit.wall(base_w, base_h)
    ornaments.cornice(kit, die, 0, base_h * 0.12)
    ornaments.cornice(kit, die, base_h * 0.84, base_h * 0.16, dentils=False)
    ornament = kit.pick(["letters", "relief", "panel", "wreath"])
    if ornament == "letters":
        for k in range(kit.integer(1, 3)):
            ornaments.sign(
                kit, die, base_w * 0.15, base_h * (0.2 + 0.2 * k), base_w * 0.7, base_h * 0.16, 6
            )
    elif ornament == "relief":
        ornaments.blind_arcade(kit, die, base_h * 0.25, base_h * 0.5, kit.integer(3, 5), "round")
    elif ornament == "panel":
        die.rect(
            base_w * 0.15, base_h * 0.25, base_w * 0.7, base_h * 0.5, shift(kit.wall_colour, -0.35)
        )
    else:
        die.ellipse(base_w / 2, base_h / 2, base_w * 0.3, base_w * 0.3, kit.accent)
        die.ellipse(base_w / 2, base_h / 2, base_w * 0.2, base_w * 0.2, kit.wall_colour)
    mesh.box((0, stairs, 0), (base_w, base_h, base_w), die.image)
    y = stairs + base_h
    if kind == "obelisk":
        w = base_w * kit.uniform(0.5, 0.75)
        shaft = kit.wall(w, tall, "plain", kit.pick([kit.wall_colour, kit.trim]))
        for k in range(14):
            ornaments.sign(kit, shaft, w * 0.3, tall * (0.04 + 0.065 * k), w * 0.4, tall * 0.05, 2)
        mesh.frustum((0, y, 0), (w, w), (w * 0.62,) * 2, tall * 0.92, shaft.image)
        tip = kit.wall(w, w, "plain", kit.pick([(198, 160, 70), kit.trim])).image
        mesh.frustum((0, y + tall * 0.92, 0), (w * 0.62,) * 2, (0, 0), tall * 0.08, tip)
    elif kind == "column":
        r = base_w * kit.uniform(0.22, 0.32)
        shaft = parts.fluted(kit, r, tall, kit.pick([0, 10, 14]))
        if kit.chance(0.5):  # a frieze that winds upwards
            around = 2 * np.pi * r
            for k in range(-1, 8):
                y0 = tall * k / 8
                band = [
                    (0, y0 + tall / 8),
                    (around, y0),
                    (around, y0 + tall / 24),
                    (0, y0 + tall / 6),
                ]
                shaft.polygon(band, shift(kit.trim, -0.45))
        parts.column(mesh, kit, (0, y, 0), r, tall * 0.78, shaft)
        parts.figure(mesh, kit, (0, y + tall * 0.78, 0), tall * 0.22)
    elif kind == "statue":
        if kit.chance(0.5):
            _rider(mesh, kit, (0, y, 0), tall)
        else:
            parts.figure(mesh, kit, (0, y, 0), tall)
        if kit.chance(0.4):
            for sign in (-1, 1):
                parts.figure(mesh, kit, (sign * base_w * 0.62, stairs, 0), tall * 0.5)
    else:
        w = base_w * kit.uniform(0.25, 0.4)
        fin = kit.wall(w, tall, "concrete")
        for x in (-base_w * 0.28, base_w * 0.28):
            mesh.frustum((x, y, 0), (w, base_w * 0.7), (w * 0.6, base_w * 0.3), tall, fin.image)
        a = np.linspace(-1, 1, 7) * np.pi / 2
        r = base_w * 0.32
        ball = [(r * float(np.cos(t)), r * float(np.sin(t))) for t in a]
        ball[0], ball[-1] = (0.0, -r), (0.0, r)
        brass = kit.wall(6 * r, 3 * r, "slate", kit.pick([(188, 150, 70), kit.accent])).image
        mesh.lathe((0, y + tall * kit.uniform(0.6, 1.0), 0), ball, brass, sides=12)
    if kit.chance(0.4):
        for x in (-1, 1):
            for z in (-1, 1):
                at = (x * base_w * 1.25, 0.0, z * base_w * 1.25)
                post = kit.wall(0.5, 2.0, "plain", kit.trim).image
                mesh.frustum(at, (base_w * 0.2,) * 2, (base_w * 0.1,) * 2, base_w * 0.5, post)
    return mesh


def _rider(mesh: Mesh, kit: Kit, at: parts.Point, tall: float) -> None:
    """A horseman: a bronze silhouette, thick enough to be seen from the side."""
    colour = kit.pick([(84, 104, 90), (74, 62, 48), (60, 58, 56)])
    rear = kit.chance(0.5)
    w = h = tall
    shape = kit.sheer(w, h)
    trunk = [(0.2, 0.5), (0.72, 0.42), (0.76, 0.62), (0.25, 0.68)]
    neck = [(0.62, 0.48), (0.78, 0.22), (0.9, 0.3), (0.93, 0.37), (0.85, 0.37), (0.76, 0.6)]
    legs = [
        [(0.22, 0.6), (0.3, 0.6), (0.26, 1.0), (0.19, 1.0)],
        [(0.3, 0.6), (0.37, 0.62), (0.36, 1.0), (0.3, 1.0)],
    ]
    legs += (
        [
            [(0.66, 0.5), (0.74, 0.5), (0.98, 0.6), (0.9, 0.68)],
            [(0.68, 0.55), (0.76, 0.55), (0.95, 0.78), (0.88, 0.82)],
        ]
        if rear
        else [
            [(0.64, 0.55), (0.74, 0.55), (0.7, 1.0), (0.64, 1.0)],
            [(0.7, 0.5), (0.76, 0.5), (0.86, 0.78), (0.78, 0.8)],
        ]
    )
    rider = [
        (0.44, 0.5),
        (0.42, 0.2),
        (0.5, 0.14),
        (0.56, 0.2),
        (0.56, 0.5),
        (0.62, 0.72),
        (0.54, 0.72),
    ]
    tail = [(0.22, 0.5), (0.1, 0.6), (0.08, 0.8), (0.16, 0.75), (0.25, 0.58)]
    for part in (trunk, neck, tail, *legs):
        shape.polygon([(x * w, y * h) for x, y in part], colour)
    shape.polygon([(x * w, y * h) for x, y in rider], shift(colour, -0.2))
    shape.ellipse(0.49 * w, 0.09 * h, 0.055 * w, 0.07 * h, shift(colour, 0.1))
    shape.line([(0.52 * w, 0.26 * h), (0.72 * w, 0.12 * h)], shift(colour, 0.1), 0.05 * w)
    flip = kit.pick([-1, 1])
    for z in np.linspace(-0.06, 0.06, 5) * w:
        mesh.quad(
            (at[0] - flip * w / 2, at[1] + h, at[2] + float(z)),
            (flip * w, 0, 0),
            (0, -h, 0),
            shape.image,
            True,
        )


def ferris_wheel(kit: Kit) -> Mesh:
    """A wheel of spokes and cabins between two A-shaped supports."""
    mesh = Mesh()
    r = kit.uniform(16, 24)
    kit.sized(r * 2.4)
    frame = kit.pick([(226, 226, 222), kit.accent, (110, 114, 118)])
    spokes = kit.pick([8, 10, 12, 16, 20])
    size = 2.3 * r
    wheel = kit.sheer(size, size)
    c = size / 2
    hub_height = r * kit.uniform(1.12, 1.3)
    for ring in [
        1.0,
        kit.uniform(0.8, 0.92),
        *([kit.uniform(0.3, 0.6)] if kit.chance(0.6) else []),
    ]:
        wheel.ellipse(c, c, r * ring + 0.25, r * ring + 0.25, frame)
        wheel.ellipse(c, c, r * ring - 0.25, r * ring - 0.25, (110, 110, 112), HOLE)
    for k in range(spokes):
        a = 2 * np.pi * k / spokes
        out = (c + r * float(np.cos(a)), c + r * float(np.sin(a)))
        wheel.line([(c, c), out], frame, 0.35)
        if spokes <= 12:
            b = a + np.pi / spokes
            wheel.line(
                [(c + 0.86 * r * float(np.cos(b)), c + 0.86 * r * float(np.sin(b))), out],
                frame,
                0.25,
            )
    hub = kit.pick([0.08, 0.14, 0.2])
    wheel.ellipse(c, c, r * hub, r * hub, kit.accent, GLOW)
    wheel.ellipse(c, c, r * hub * 0.6, r * hub * 0.6, frame)
    for z in (-1.2, 1.2):
        mesh.quad((-c, hub_height + c, z), (size, 0, 0), (0, -size, 0), wheel.image, True)
    tones = kit.pick(
        [[kit.accent], [kit.accent, (236, 232, 226)], [kit.accent, kit.roof_colour, kit.trim]]
    )
    cabin_w = r * kit.uniform(0.09, 0.13)
    cabins = []
    for tone in tones:
        cabin = kit.wall(cabin_w, cabin_w * 1.1, "plain", tone)
        cabin.rect(cabin_w * 0.15, cabin_w * 0.25, cabin_w * 0.7, cabin_w * 0.4, kit.glass, GLOW)
        cabins.append(cabin.image)
    count = spokes if spokes > 12 else spokes * 2
    for k in range(count):
        a = 2 * np.pi * k / count
        x, y = r * float(np.cos(a)), hub_height + r * float(np.sin(a)) - cabin_w * 1.1
        mesh.box((x, y, 0), (cabin_w, cabin_w * 1.1, cabin_w), cabins[k % len(cabins)])
    legs = kit.pick([2, 2, 3])
    spread = r * kit.uniform(0.45, 0.8)
    support = kit.sheer(2 * spread + 2, hub_height + 1)
    for k in range(legs):
        x = 1 + spread * (2 * k / (legs - 1))
        support.line([(spread + 1, 1), (x, hub_height + 1)], shift(frame, -0.25), 0.9)
    if kit.chance(0.6):
        y = hub_height * 0.6
        support.line([(1 + spread * 0.5, y), (1 + spread * 1.5, y)], shift(frame, -0.25), 0.6)
    for z in (-2.4, 2.4):
        mesh.quad(
            (-spread - 1, hub_height + 1, z),
            (2 * spread + 2, 0, 0),
            (0, -hub_height - 1, 0),
            support.image,
            True,
        )
    low = hub_height - r
    house = kit.wall(r, low * 0.9)
    Window.random(kit).grid(kit, house, 0, low * 0.15, r, low * 0.6, kit.integer(3, 6), 1)
    mesh.box((0, 0, 5.5), (r, low * 0.9, 4), house.image)
    return mesh


def stadium(kit: Kit) -> Mesh:
    """An oval bowl: arcades or panels outside, seats inside, and masts or floodlights."""
    mesh = Mesh()
    r, h = kit.uniform(22, 28), kit.uniform(9, 18)
    kit.sized(2 * r * 1.1)
    stretch = kit.uniform(0.65, 0.9)
    around = 2 * np.pi * r
    wall = kit.wall(around, h)
    kind = kit.pick(["arcades", "fins", "mesh", "arcades"])
    bays = kit.pick([20, 26, 32])
    if kind == "arcades":
        tiers = kit.integer(2, 4)
        shape = kit.pick(["round", "round", "flat"])
        for k in range(tiers):
            ornaments.blind_arcade(
                kit, wall, h * (k + 0.18) / tiers, h * 0.78 / tiers, bays, shape, -0.75
            )
            ornaments.cornice(kit, wall, h * k / tiers, h * 0.05, dentils=False)
    elif kind == "fins":
        for k in range(bays * 2):
            wall.rect(
                around * k / bays / 2,
                h * 0.15,
                around * 0.22 / bays,
                h * 0.7,
                shift(kit.wall_colour, -0.5),
            )
        wall.rect(0, h * 0.84, around, h * 0.16, kit.glass, GLOW)
    else:
        for k in range(-bays, bays):
            x = around * k / bays
            wall.line([(x, h), (x + h, 0)], kit.accent, h * 0.05)
            wall.line([(x, 0), (x + h, h)], kit.accent, h * 0.05)
    lean = kit.uniform(0.92, 1.12)
    ruined = kit.chance(0.4)
    rim = r * lean
    mesh.lathe((0, 0, 0), [(r, 0), (rim, h)], wall.image, sides=22, stretch=stretch)
    stands = kit.wall(around, h, "seams", kit.pick([kit.accent, shift(kit.wall_colour, -0.2)]))
    for k in range(6):
        stands.rect(0, h * k / 6, around, h * 0.04, shift(kit.wall_colour, 0.3))
    mesh.lathe((0, 0, 0), [(rim, h), (r * 0.55, h * 0.15)], stands.image, sides=22, stretch=stretch)
    field = kit.wall(
        around, r * 0.6, "seams", kit.pick([(88, 124, 62), (88, 124, 62), (196, 172, 128)])
    )
    mesh.lathe(
        (0, 0, 0), [(r * 0.55, h * 0.16), (0, h * 0.15)], field.image, sides=22, stretch=stretch
    )
    if ruined:  # an outer ring that is higher on one side
        high = h * kit.uniform(1.25, 1.5)
        part = kit.wall(around * 0.4, high - h)
        ornaments.blind_arcade(kit, part, (high - h) * 0.2, (high - h) * 0.7, 9, "flat", -0.7)
        start = kit.uniform(-2.4, 0.6)
        angles = np.linspace(start, start + 1.8, 9)
        for k in range(8):
            a, b = angles[k], angles[k + 1]
            p = [np.array([rim * np.sin(t), high, rim * stretch * np.cos(t)]) for t in (a, b)]
            mesh.quad(p[0], p[1] - p[0], (0, h - high, 0), part.image, True)
    else:
        masts = kit.pick([0, 4, 6, 8])
        pole = kit.wall(1, h, "plain", (214, 214, 212)).image
        lamp = kit.wall(3, 2, "plain", (70, 72, 76))
        lamp.rect(0.2, 0.2, 2.6, 1.6, (240, 238, 220), GLOW)
        for k in range(masts):
            a = 2 * np.pi * (k + 0.5) / masts
            at = (rim * float(np.sin(a)), h * 0.6, rim * stretch * float(np.cos(a)))
            tall = h * kit.pick([0.9, 1.2])
            mesh.frustum(at, (1.1, 1.1), (0.6, 0.6), tall, pole)
            mesh.box((at[0], at[1] + tall, at[2]), (4, 2.4, 0.6), lamp.image)
        if kit.chance(0.55):
            roof = kit.wall(around, r * 0.3, "seams", kit.trim).image
            canopy = [(rim * 1.04, h * 1.02), (r * 0.68, h * kit.uniform(1.05, 1.3))]
            mesh.lathe((0, 0, 0), canopy, roof, sides=22, stretch=stretch)
    return mesh


def step_pyramid(kit: Kit) -> Mesh:
    """Terraces that shrink upwards, a stair up the front, a shrine on top."""
    mesh = Mesh()
    w, h = kit.uniform(30, 44), kit.uniform(16, 26)
    kit.sized(w * 1.05)
    tiers = kit.integer(3, 8)
    top = w * kit.uniform(0.2, 0.36)
    batter = kit.uniform(0.0, 0.35)
    material = kit.pick(["rubble", "ashlar", "bands", "brick"])
    style = kit.pick(["plain", "niches", "cornice", "panels"])
    for k in range(tiers):
        size = w + (top - w) * k / max(tiers - 1, 1)
        tall = h / tiers
        wall = kit.wall(size, tall, material)
        if style == "niches":
            ornaments.blind_arcade(
                kit, wall, tall * 0.25, tall * 0.6, max(4, round(size / 3)), "flat"
            )
        elif style == "panels":
            for i in range(max(2, round(size / 6))):
                wall.rect(i * 6 + 1, tall * 0.3, 4, tall * 0.4, kit.accent)
        if style != "plain":
            ornaments.cornice(kit, wall, 0, tall * 0.2, dentils=False)
        shrunk = size - batter * tall * 2
        mesh.frustum((0, k * tall, 0), (size, size), (shrunk, shrunk), tall, wall.image)
    stair_w = w * kit.uniform(0.12, 0.22)
    run = (w - top) / 2
    stair = kit.wall(stair_w, float(np.hypot(run, h)), "plain", kit.trim)
    for k in range(40):
        stair.rect(0, stair.height * k / 40, stair_w, stair.height * 0.011, shift(kit.trim, -0.5))
    for x in (0.0, stair_w * 0.88):
        stair.rect(x, 0, stair_w * 0.12, stair.height, shift(kit.wall_colour, -0.15))
    for turn in kit.pick([(0.0,), (0.0, np.pi / 2, np.pi, -np.pi / 2)]):
        flight = Mesh()
        foot = w / 2 + w * 0.06
        flight.quad(
            (-stair_w / 2, h, top / 2 + 0.6), (stair_w, 0, 0), (0, -h, foot - top / 2), stair.image
        )
        cheek = kit.wall(run, h, material).image
        for sign in (1, -1):
            ring = [
                (sign * stair_w / 2, h, top / 2),
                (sign * stair_w / 2, 0, top / 2),
                (sign * stair_w / 2, 0, foot),
            ]
            flight.polygon(ring if sign > 0 else ring[::-1], (0, 0, -sign), cheek)
        mesh.add(flight, turn=turn)
    shrine_h = h * kit.uniform(0.18, 0.36)
    shrine = kit.wall(top * 0.7, shrine_h)
    doors = kit.pick([1, 3])
    for k in range(doors):
        ornaments.portal(
            kit, shrine, top * 0.7 * (k + 0.5) / doors, top * 0.12, shrine_h * 0.6, "flat", 1
        )
    mesh.box((0, h, 0), (top * 0.7, shrine_h, top * 0.6), shrine.image)
    crown = kit.pick(["comb", "flat", "hip"])
    if crown == "comb":
        comb = ornaments.crenels(kit, top * 0.6, shrine_h * 0.8, 6).image
        mesh.quad(
            (-top * 0.3, h + shrine_h * 1.8, 0),
            (top * 0.6, 0, 0),
            (0, -shrine_h * 0.8, 0),
            comb,
            True,
        )
    elif crown == "hip":
        mesh.frustum(
            (0, h + shrine_h, 0),
            (top * 0.78,) * 2,
            (top * 0.3, 0),
            shrine_h * 0.6,
            kit.roof(top, top).image,
        )
    return mesh
