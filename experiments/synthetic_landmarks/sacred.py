"""Families of landmarks: churches, mosques, pagodas, temples."""

from __future__ import annotations

import numpy as np

from . import ornaments, parts
from .geometry import Mesh
from .ornaments import Window
from .paint import Kit, Wall, shift


def church(kit: Kit) -> Mesh:
    """A nave behind a front with one or two towers, a rose or a great window, and its doors."""
    mesh = Mesh()
    nave_w, nave_h = kit.uniform(11, 17), kit.uniform(11, 18)
    depth, roof_h = kit.uniform(22, 36), kit.uniform(5, 11)
    tower_w, tower_h = kit.uniform(5, 8.5), nave_h * kit.uniform(1.15, 1.8)
    spire_h = kit.uniform(4, 17)
    kit.sized(max(tower_h + spire_h, nave_w + 2 * tower_w))
    window = Window.random(kit, ("round", "pointed", "pointed"))
    arch, layout = window.shape, kit.pick(["twin", "twin", "middle", "left", "right"])
    top = kit.pick(parts.SPIRES)

    front = kit.wall(nave_w, nave_h)
    middle = nave_w / 2
    _church_front(kit, front, window, arch)
    if layout != "middle" and kit.chance(0.5):
        ornaments.quoins(kit, front, nave_h / 16)
    side = kit.wall(depth, nave_h)
    bays = kit.integer(4, 8)
    window.grid(kit, side, 0, nave_h * 0.2, depth, nave_h * 0.65, bays, 1, (0.4, 0.8))
    if kit.chance(0.6):
        ornaments.pilasters(kit, side, 0, depth, nave_h * 0.1, nave_h * 0.9, bays + 1)
    ornaments.cornice(kit, side, 0, nave_h * 0.06)
    mesh.box((0, 0, -depth / 2), (nave_w, nave_h, depth), front.image, side.image)

    gable = kit.wall(nave_w, roof_h)
    if kit.chance(0.7):
        gable.ellipse(middle, roof_h * 0.6, roof_h * 0.16, roof_h * 0.16, kit.trim)
        gable.ellipse(middle, roof_h * 0.6, roof_h * 0.11, roof_h * 0.11, kit.glass)
    roof = kit.roof(depth, roof_h * 1.4)
    mesh.gable((0, nave_h, -depth / 2), (nave_w, roof_h, depth), roof.image, gable.image)

    tower = kit.wall(tower_w, tower_h)
    _tower(kit, tower, window)
    if layout == "twin":
        unequal = kit.pick([1.0, 1.0, 0.8])
        for sign, share in ((-1, 1.0), (1, unequal)):
            at = (sign * (nave_w / 2 + tower_w * 0.42), 0.0, -tower_w * 0.4)
            mesh.box(at, (tower_w, tower_h * share, tower_w), tower.image)
            parts.spire(mesh, kit, (at[0], tower_h * share, at[2]), tower_w, spire_h * share, top)
    else:
        x = {"middle": 0.0, "left": -1.0, "right": 1.0}[layout] * (nave_w + tower_w) * 0.46
        z = tower_w * 0.2 if layout == "middle" else -tower_w * 0.6
        if layout == "middle":
            ornaments.portal(kit, tower, tower_w / 2, tower_w * 0.4, tower_h * 0.2, arch)
        grown = tower_h * (1.25 if layout == "middle" else 1.0)
        mesh.box((x, 0, z), (tower_w, grown, tower_w), tower.image)
        parts.spire(mesh, kit, (x, grown, z), tower_w, spire_h, top)
    if kit.chance(0.35):  # a transept
        w, d = nave_w * 1.7, nave_w * 0.7
        wing = kit.wall(w, nave_h * 0.9)
        end = kit.wall(d, nave_h * 0.9)
        window.grid(kit, end, 0, nave_h * 0.2, d, nave_h * 0.6, 2, 1)
        at = (0.0, 0.0, -depth * 0.65)
        mesh.box(at, (w, nave_h * 0.9, d), wing.image, end.image)
        mesh.gable(
            (0, nave_h * 0.9, at[2]), (w, roof_h * 0.9, d), roof.image, gable.image, along_x=True
        )
    return mesh


def _church_front(kit: Kit, front: Wall, window: Window, arch: str) -> None:
    w, h = front.width, front.height
    doors = kit.pick([1, 1, 3])
    for k in range(doors):
        size = 1.0 if k == doors // 2 else 0.7
        ornaments.portal(
            kit,
            front,
            w * (k + 0.5) / doors if doors > 1 else w / 2,
            w * 0.2 * size,
            h * kit.uniform(0.28, 0.34) * size,
            arch,
            kit.integer(1, 3),
        )
    kind = kit.pick(["rose", "rose", "lancets", "great", "rows"])
    if kind == "rose":
        r = w * kit.uniform(0.15, 0.24)
        ornaments.rose(kit, front, w / 2, h * 0.36, r, kit.integer(5, 12))
    elif kind == "lancets":
        window.grid(
            kit, front, w * 0.18, h * 0.15, w * 0.64, h * 0.45, kit.pick([3, 5]), 1, (0.55, 0.9)
        )
    elif kind == "great":
        window.paint(kit, front, w * 0.3, h * 0.12, w * 0.4, h * 0.5)
    else:
        window.grid(kit, front, w * 0.05, h * 0.1, w * 0.9, h * 0.5, kit.integer(3, 5), 2)
    if kit.chance(0.5):
        ornaments.blind_arcade(kit, front, h * 0.02, h * 0.1, kit.integer(6, 14), arch)
    ornaments.cornice(kit, front, h * 0.63, h * 0.04)


def _tower(kit: Kit, tower: Wall, window: Window) -> None:
    w, h = tower.width, tower.height
    floors = kit.integer(2, 4)
    columns = kit.pick([1, 1, 2, 3])
    for k in range(floors):
        y = h * (0.04 + 0.72 * k / floors)
        window.grid(
            kit,
            tower,
            w * 0.1,
            y,
            w * 0.8,
            h * 0.72 / floors,
            columns if k else kit.pick([1, 2, 3]),
            1,
            (0.5, 0.72),
        )
        ornaments.cornice(kit, tower, y, h * 0.022, dentils=False)
    if kit.chance(0.35):
        ornaments.clock(kit, tower, w / 2, h * (0.04 + 0.36 / floors), w * 0.26)
    if kit.chance(0.5):
        ornaments.quoins(kit, tower, h / 22)


def mosque(kit: Kit) -> Mesh:
    """A cube with a great dome on a drum, smaller domes, an arched porch and minarets."""
    mesh = Mesh()
    w, h, d = kit.uniform(20, 30), kit.uniform(9, 15), kit.uniform(18, 26)
    tall = h * kit.uniform(1.9, 3.0)
    kit.sized(max(w * 1.35, tall))
    window = Window.random(kit, ("keel", "round", "keel"))
    pointed = kit.chance(0.6)
    front = kit.wall(w, h)
    bays = kit.pick([3, 5, 5, 7])
    kind = kit.pick(["iwan", "arcade", "rows"])
    if kind == "arcade":
        for k in range(bays):
            ornaments.portal(
                kit, front, w * (k + 0.5) / bays, w / bays * 0.55, h * 0.6, window.shape, 1
            )
        window.grid(kit, front, 0, h * 0.06, w, h * 0.22, bays, 1, (0.2, 0.7))
    else:
        window.grid(kit, front, 0, h * 0.15, w, h * 0.75, bays, 1 if kind == "iwan" else 2)
        ornaments.portal(kit, front, w / 2, w * 0.16, h * 0.6, window.shape, 2)
    if kit.chance(0.5):
        for k in range(24):
            tile = kit.accent if k % 2 else shift(kit.accent, 0.4)
            front.rect(w * k / 24, h * 0.03, w / 24, h * 0.05, tile)
    ornaments.cornice(kit, front, 0, h * 0.03)
    mesh.box((0, 0, 0), (w, h, d), front.image, front.image, kit.wall(w, d, "concrete").image)
    if kind == "iwan":
        gate = kit.wall(w * 0.34, h * 1.25)
        ornaments.portal(kit, gate, w * 0.17, w * 0.2, h * 1.0, "keel", 2)
        mesh.box((0, 0, d / 2), (w * 0.34, h * 1.25, 2.0), gate.image, kit.wall(2, h).image)
    if kit.chance(0.4):
        parts.parapet(mesh, kit, (0, h, 0), (w, d), h * 0.1, kit.integer(9, 16))

    r = w * kit.uniform(0.24, 0.34)
    neck = h * kit.uniform(0.12, 0.5)
    parts.drum(mesh, kit, (0, h, 0), r * 0.95, neck, window)
    parts.dome(mesh, kit, (0, h + neck, 0), r, r * kit.uniform(0.7, 1.2), pointed)
    if kit.chance(0.65):
        small = w * kit.uniform(0.09, 0.14)
        for a in (-1, 1):
            for b in (-1, 1):
                at = (a * (w / 2 - small * 1.1), h, b * (d / 2 - small * 1.1))
                parts.dome(mesh, kit, at, small, small * 1.1, pointed)

    count = kit.pick([1, 2, 2, 4])
    stem = kit.uniform(0.9, 1.5)
    skin = kit.wall(2 * np.pi * stem, tall)
    galleries = kit.integer(1, 3)
    for k in range(6):
        skin.rect(0, tall * (k + 0.5) / 6, 10 * stem, tall * 0.012, kit.accent)
    for x, z in [(-1, 1), (1, 1), (-1, -1), (1, -1)][:count]:
        at = (x * (w / 2 + stem * 1.3), 0.0, z * (d / 2 - stem))
        profile: list[tuple[float, float]] = [(stem * 1.3, 0), (stem, tall * 0.2)]
        for k in range(galleries):
            y = tall * (0.5 + 0.4 * k / galleries)
            profile += [
                (stem * 0.9, y),
                (stem * 1.7, y + 0.8),
                (stem * 1.7, y + 1.5),
                (stem * 0.85, y + 1.6),
            ]
        profile += [(stem * 0.8, tall)]
        mesh.lathe(at, profile, skin.image, sides=8)
        cap = kit.roof(2 * np.pi * stem, stem * 4)
        mesh.lathe(
            (at[0], tall, at[2]),
            [(stem * 1.1, 0), (stem * 0.7, stem), (0, stem * 4)],
            cap.image,
            sides=8,
        )
    return mesh


def pagoda(kit: Kit) -> Mesh:
    """Storeys that shrink upwards, each under a wide roof with upturned corners."""
    mesh = Mesh()
    tiers = kit.integer(3, 7)
    w, storey = kit.uniform(9, 15), kit.uniform(3.2, 5.0)
    shrink = kit.uniform(0.8, 0.92)
    kit.sized(max(tiers * storey * 1.4, w * 1.6))
    window = Window.random(kit, ("flat", "round"))
    out, rise = kit.uniform(0.22, 0.42), kit.uniform(0.3, 0.5)
    octagonal = kit.chance(0.35)
    timber = kit.pick([kit.accent, (136, 58, 44), kit.door])
    parts.steps(mesh, kit, (w * 1.5, w * 1.5), w * 0.09, 2, w * 0.08)
    y = w * 0.09
    columns = kit.pick([3, 4, 5])
    for k in range(tiers):
        body = kit.wall(w if not octagonal else np.pi * w, storey)
        cells = columns if not octagonal else 8
        ornaments.pilasters(kit, body, 0, body.width, 0, storey, cells + 1)
        window.grid(kit, body, 0, storey * 0.2, body.width, storey * 0.65, cells, 1, (0.4, 0.8))
        if k == 0 and not octagonal:
            ornaments.portal(kit, body, w / 2, w * 0.2, storey * 0.75, window.shape, 1)
        body.rect(0, storey * 0.86, body.width, storey * 0.14, timber)
        eaves, roof_h = w * (1 + 2 * out), storey * rise
        tiles = kit.roof(eaves * 1.2, roof_h * 2)
        tiles.rect(0, tiles.height * 0.9, tiles.width, tiles.height * 0.1, timber)
        if octagonal:
            mesh.lathe(
                (0, y, 0), [(w / 2, 0), (w / 2, storey)], body.image, sides=8, turn=np.pi / 8
            )
            slope = [(eaves / 2, 0.0), (w * 0.53, roof_h * 0.6), (w * 0.4, roof_h)]
            mesh.lathe((0, y + storey, 0), slope, tiles.image, sides=8, turn=np.pi / 8)
        else:
            mesh.box((0, y, 0), (w, storey, w), body.image)
            mesh.frustum(
                (0, y + storey, 0), (eaves,) * 2, (w * 1.12,) * 2, roof_h * 0.45, tiles.image
            )
            mesh.frustum(
                (0, y + storey + roof_h * 0.45, 0),
                (w * 1.12,) * 2,
                (w * 0.8,) * 2,
                roof_h * 0.75,
                tiles.image,
            )
            horn = kit.wall(1, 1, "plain", timber).image
            for a in (-1, 1):
                for b in (-1, 1):
                    at = (a * eaves * 0.485, y + storey - roof_h * 0.05, b * eaves * 0.485)
                    mesh.frustum(at, (w * 0.05,) * 2, (0, 0), roof_h * 0.5, horn)
        y += storey + roof_h * 0.75
        w *= shrink
        storey *= kit.pick([shrink, shrink, 1.0])
    top = kit.roof(w * 2, w)
    mesh.frustum((0, y, 0), (w * 0.95,) * 2, (0, 0), w * kit.uniform(0.35, 0.7), top.image)
    rings = [(0.05, 0.0), (0.1, 0.3), (0.03, 0.5), (0.09, 0.7), (0.03, 0.9), (0.0, 1.4)]
    brass = kit.wall(w, w, "plain", (150, 120, 60)).image
    mesh.lathe((0, y + w * 0.2, 0), [(a * w, b * w) for a, b in rings], brass, sides=6)
    return mesh


def temple(kit: Kit) -> Mesh:
    """A colonnade under a pediment on a stepped base; sometimes with a dome behind it."""
    mesh = Mesh()
    count = kit.pick([4, 5, 6, 6, 8])
    spacing, height = kit.uniform(3.2, 4.6), kit.uniform(8, 12)
    w = count * spacing
    d = w * kit.uniform(0.7, 1.3)
    pediment = w * kit.uniform(0.11, 0.2)
    domed = kit.chance(0.35)
    kit.sized(max(w * 1.2, height * 2))
    plinth = kit.uniform(1.2, 4.0)
    parts.steps(mesh, kit, (w, d), plinth, kit.integer(3, 5), kit.uniform(0.5, 0.9))
    radius = spacing * kit.uniform(0.14, 0.22)
    shaft = parts.fluted(kit, radius, height, kit.pick([0, 8, 12]))
    window = Window.random(kit)
    xs = (np.arange(count) + 0.5) * spacing - w / 2
    for x in xs:
        parts.column(mesh, kit, (float(x), plinth, d / 2 - radius * 1.5), radius, height, shaft)
    peripteral = kit.chance(0.55)
    if peripteral:
        for z in np.linspace(d / 2 - spacing, -d / 2 + radius * 2, 5):
            for x in (xs[0], xs[-1]):
                parts.column(mesh, kit, (float(x), plinth, float(z)), radius, height, shaft)

    inner = (w - 2 * spacing * (0.9 if peripteral else 0.2), height, d - spacing * 1.6)
    cella = kit.wall(inner[0], height)
    ornaments.portal(
        kit, cella, inner[0] / 2, spacing * 0.7, height * 0.65, kit.pick(["flat", "round"]), 2
    )
    flank = kit.wall(inner[2], height)
    if not peripteral:
        window.grid(kit, flank, 0, height * 0.15, inner[2], height * 0.7, 4, kit.pick([1, 2]))
    mesh.box((0, plinth, -spacing * 0.8), inner, cella.image, flank.image)

    beam_h = height * kit.uniform(0.16, 0.26)
    beams = []
    for length in (w, d):
        beam = kit.wall(length, beam_h, "plain", kit.trim)
        _frieze(kit, beam)
        beams.append(beam.image)
    mesh.box((0, plinth + height, 0), (w, beam_h, d), beams[0], beams[1])
    gable = kit.wall(w, pediment, "plain", shift(kit.trim, -0.25))
    _tympanum(kit, gable)
    roof = kit.roof(d, w * 0.55)
    y = plinth + height + beam_h
    mesh.gable((0, y, 0), (w, pediment, d), roof.image, gable.image, eaves=0.6)
    if domed:
        r = w * kit.uniform(0.22, 0.32)
        parts.drum(mesh, kit, (0, y, -d * 0.2), r, pediment * 1.1 + 2, window)
        parts.dome(mesh, kit, (0, y + pediment * 1.1 + 2, -d * 0.2), r, r * kit.uniform(0.6, 1.0))
    if kit.chance(0.4):
        for x in (-w / 2 + 0.5, 0.0, w / 2 - 0.5):
            foot = y + (pediment if x == 0 else 0.2)
            parts.figure(mesh, kit, (x, foot, d / 2), height * 0.22)
    return mesh


def _frieze(kit: Kit, beam: Wall) -> None:
    w, h = beam.width, beam.height
    beam.rect(0, h * 0.32, w, h * 0.06, shift(kit.trim, -0.4))
    ornaments.cornice(kit, beam, h * 0.0, h * 0.2)
    kind = kit.pick(["triglyphs", "discs", "letters"])
    if kind == "letters":
        ornaments.sign(kit, beam, w * 0.15, h * 0.42, w * 0.7, h * 0.5, 14)
        return
    cells = round(w / h / 1.2)
    for k in range(cells):
        x = w * (k + 0.5) / cells
        if kind == "triglyphs":
            for i in range(3):
                beam.rect(
                    x - h * 0.25 + i * h * 0.19, h * 0.42, h * 0.1, h * 0.55, shift(kit.trim, -0.5)
                )
        else:
            beam.ellipse(x, h * 0.68, h * 0.22, h * 0.22, shift(kit.trim, -0.4))


def _tympanum(kit: Kit, gable: Wall) -> None:
    w, h = gable.width, gable.height
    edge = [(0.0, h), (w / 2, h * 0.06), (w, h)]
    kind = kit.pick(["figures", "disc", "rays"])
    light = shift(kit.trim, 0.2)
    if kind == "figures":
        for k in range(-4, 5):
            tall = h * (0.62 - 0.12 * abs(k))
            x = w / 2 + k * w * 0.085
            gable.rect(x - w * 0.014, h - tall, w * 0.028, tall, light)
            gable.ellipse(x, h - tall, w * 0.018, w * 0.018, light)
    elif kind == "disc":
        gable.ellipse(w / 2, h * 0.66, h * 0.24, h * 0.24, light)
        gable.ellipse(w / 2, h * 0.66, h * 0.16, h * 0.16, kit.accent)
    else:
        for k in range(1, 8):
            gable.line([(w / 2, h), (w * k / 8, h * 0.2)], light, h * 0.05)
    gable.line(edge, light, h * 0.14)
    gable.rect(0, h * 0.9, w, h * 0.1, light)
