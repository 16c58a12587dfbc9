"""Families of landmarks: arched and hung bridges."""

from __future__ import annotations

import itertools

import numpy as np

from . import ornaments, parts
from .geometry import Mesh
from .ornaments import Window
from .paint import HOLE, Kit, arch_outline, shift


def bridge(kit: Kit) -> Mesh:
    """An arched bridge or aqueduct of one to three tiers, or towers with a hung deck."""
    return _aqueduct(kit) if kit.chance(0.6) else _suspension_bridge(kit)


def _aqueduct(kit: Kit) -> Mesh:
    mesh = Mesh()
    w = kit.uniform(40, 54)
    tiers = kit.integer(1, 3)
    h = kit.uniform(8, 11) * (1 + 0.6 * (tiers - 1))
    d = kit.uniform(4, 6)
    kit.sized(w)
    shape = kit.pick(["round", "round", "pointed"])
    y = 0.0
    bays = kit.integer(3, 6)
    tower = kit.chance(0.45)
    for k in range(tiers):
        tall = h * ([1.0], [0.6, 0.4], [0.42, 0.36, 0.22])[tiers - 1][k]
        count = bays * (1 if k == 0 else kit.pick([1, 2]) if k < 2 else 3)
        wall = kit.wall(w, tall)
        cell = w / count
        span, rise = cell * kit.uniform(0.66, 0.8), tall * 0.82
        for i in range(count):
            x = cell * (i + 0.5) - span / 2
            ring = cell * 0.06
            wall.opening(
                x - ring, tall - rise - ring, span + 2 * ring, rise + ring, kit.trim, shape
            )
            wall.opening(x, tall - rise, span, rise, shift(kit.wall_colour, -0.5), shape, HOLE)
        ornaments.cornice(kit, wall, 0, tall * 0.06, dentils=False)
        deep = d * (1 - 0.15 * k)
        mesh.box((0, y, 0), (w, tall, deep), wall.image, kit.wall(deep, tall).image)
        lining = kit.wall(deep, tall, None, shift(kit.wall_colour, -0.35)).image
        for i in range(count):
            left = cell * (i + 0.5) - span / 2 - w / 2
            outline = arch_outline(span, rise, shape)[:: 2 if shape == "round" else 1]
            for (x0, y0), (x1, y1) in itertools.pairwise(outline):
                start = (left + x0, y + rise - y0, deep / 2)
                mesh.quad(start, (0, 0, -deep), (x1 - x0, y0 - y1, 0), lining, True)
        y += tall
    if kit.chance(0.6):
        rail = ornaments.balustrade(kit, w, 1.2).image
        mesh.quad((-w / 2, y + 1.2, d * 0.4), (w, 0, 0), (0, -1.2, 0), rail, True)
        mesh.quad((-w / 2, y + 1.2, -d * 0.4), (w, 0, 0), (0, -1.2, 0), rail, True)
    if tower:
        tw, th = d * 1.25, y + kit.uniform(6, 12)
        wall = kit.wall(tw, th)
        Window.random(kit).grid(kit, wall, 0, th * 0.05, tw, th * 0.4, 2, 2)
        for x in kit.pick([(-0.5,), (0.5,), (-0.5, 0.5)]):
            mesh.box((x * w, 0, 0), (tw, th, tw), wall.image)
            parts.spire(
                mesh, kit, (x * w, th, 0), tw, tw, kit.pick(["pyramid", "crenels", "octagon"])
            )
    return mesh


def _suspension_bridge(kit: Kit) -> Mesh:
    mesh = Mesh()
    w, h = kit.uniform(50, 64), kit.uniform(20, 28)
    kit.sized(w)
    y, gap = h * kit.uniform(0.28, 0.4), w * kit.uniform(0.22, 0.3)
    d = kit.uniform(5, 7)
    colour = kit.pick([kit.accent, kit.trim, (104, 108, 112)])
    stone = kit.chance(0.5)
    tw = kit.uniform(3.0, 5.0)
    tower = kit.wall(d * 1.2, h, None if stone else "plain", None if stone else colour)
    for k in range(kit.integer(1, 3)):
        top = h * (0.06 + 0.3 * k)
        tower.opening(
            d * 0.3, top, d * 0.6, h * 0.24, kit.trim, "pointed" if stone else "flat", HOLE
        )
    narrow = kit.wall(tw, h, None if stone else "plain", None if stone else colour).image
    for x in (-gap, gap):
        mesh.box((x, 0, 0), (tw, h, d * 1.2), narrow, tower.image)
        if stone and kit.chance(0.7):
            parts.spire(mesh, kit, (x, h, 0), tw, tw, kit.pick(["pyramid", "needles", "crenels"]))
    deck = ornaments.trusses(kit, w, 1.8, 1, colour, 0.25)
    deck.rect(0, 0.9, w, 0.9, shift(colour, -0.25))
    for k in range(30):
        deck.line(
            [(w * k / 30, 1.8), (w * (k + 0.5) / 30, 0), (w * (k + 1) / 30, 1.8)], colour, 0.2
        )
    cables = kit.sheer(w, h - y)
    sag = (h - y) * kit.uniform(0.75, 0.95)
    stays = kit.chance(0.4)
    ends = (w / 2 - gap, w / 2 + gap)
    if stays:
        for x in ends:
            for k in range(-8, 9):
                cables.line([(x, 0.05 * abs(k)), (x + k * gap * 0.115, h - y)], colour, 0.18)
    else:
        xs = np.linspace(0, w, 49)
        t = np.abs(xs - w / 2) / gap
        drop = np.where(
            t <= 1, sag * (1 - t**2), np.minimum((t - 1) * gap / ends[0], 1) * (h - y) * 0.97
        )
        cables.line(list(zip(xs.tolist(), drop.tolist(), strict=True)), colour, 0.5)
        for x, top in zip(xs.tolist(), drop.tolist(), strict=True):
            cables.line([(x, top), (x, h - y)], colour, 0.12)
    for z in (d * 0.5, -d * 0.5):
        mesh.quad((-w / 2, y + 1.4, z), (w, 0, 0), (0, -1.8, 0), deck.image, True)
        mesh.quad((-w / 2, h, z), (w, 0, 0), (0, y - h, 0), cables.image, True)
    road = kit.wall(w, d, "plain", (92, 92, 92)).image
    mesh.box((0, y - 0.4, 0), (w, 0.6, d), road)
    return mesh
