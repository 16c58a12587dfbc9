"""What stands in front of a landmark: trees, people, cars, poles, fences, branches, wires."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Draw = ImageDraw.ImageDraw
Colour = tuple[int, int, int]

_CLOTHES: tuple[Colour, ...] = (
    (176, 52, 48),
    (44, 66, 110),
    (40, 42, 46),
    (206, 198, 180),
    (62, 104, 74),
    (208, 164, 62),
    (120, 84, 122),
    (148, 150, 154),
    (226, 226, 226),
    (98, 70, 50),
)
_SKINS: tuple[Colour, ...] = ((226, 184, 156), (188, 140, 104), (122, 84, 60), (240, 204, 180))
_LEAVES: tuple[Colour, ...] = (
    (74, 104, 48),
    (52, 82, 44),
    (104, 120, 58),
    (176, 116, 48),
    (150, 74, 44),
)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _tone(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(min(255, c * factor)) for c in colour)
    return r, g, b


def tree(rng: np.random.Generator, draw: Draw, x: float, y: float, h: float) -> None:
    """A broad-leaved tree, a conifer or a bare tree of height h, whose foot is at (x, y)."""
    kind = rng.choice(["leaves", "conifer", "bare", "poplar"], p=(0.5, 0.18, 0.17, 0.15))
    bark = (78, 62, 50)
    if kind == "bare":
        _branch(rng, draw, x, y, -np.pi / 2, h * 0.3, h * 0.045, bark)
        return
    draw.polygon(
        [
            (x - h * 0.03, y),
            (x - h * 0.015, y - h * 0.5),
            (x + h * 0.015, y - h * 0.5),
            (x + h * 0.03, y),
        ],
        fill=bark,
    )
    leaf = _pick(rng, _LEAVES)
    if kind == "conifer":
        for k in range(6):
            w, top = h * 0.24 * (1 - k / 7), y - h * (0.34 + 0.66 * (k + 1) / 6)
            ring = [(x - w, top + h * 0.26), (x, top), (x + w, top + h * 0.26)]
            draw.polygon(ring, fill=_tone((46, 74, 52), 0.8 + 0.06 * k))
        return
    rx, ry = (h * 0.3, h * 0.34) if kind == "leaves" else (h * 0.1, h * 0.44)
    cy = y - h + ry
    count = int(np.clip(h, 24, 160))
    for k in range(count):
        a, r = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.85))
        px, py = x + rx * r * np.cos(a), cy + ry * r * np.sin(a)
        size = (
            np.sqrt(rx * ry)
            * rng.uniform(0.5, 1.1)
            * (0.4 - 0.25 * k / count)
            * (60 / count) ** 0.25
        )
        # Painted from dark to light, lighter towards the top: a crown rather than a ball of dots.
        light = 0.6 + 0.45 * k / count - 0.22 * (py - cy) / ry + rng.uniform(-0.06, 0.06)
        draw.ellipse(
            [px - size, py - size * 0.8, px + size, py + size * 0.8], fill=_tone(leaf, light)
        )


def _branch(
    rng: np.random.Generator,
    draw: Draw,
    x: float,
    y: float,
    a: float,
    length: float,
    w: float,
    bark: Colour,
) -> None:
    ex, ey = x + length * np.cos(a), y + length * np.sin(a)
    draw.line([(x, y), (ex, ey)], fill=bark, width=max(1, round(w)))
    if length > 6 and w > 0.5:
        for turn in (-rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.6)):
            _branch(rng, draw, ex, ey, a + turn, length * rng.uniform(0.62, 0.8), w * 0.62, bark)


def person(rng: np.random.Generator, draw: Draw, x: float, y: float, h: float) -> None:
    """Somebody standing or walking, of height h."""
    skin, coat, legs = _pick(rng, _SKINS), _pick(rng, _CLOTHES), _pick(rng, _CLOTHES)
    stride = rng.uniform(0.02, 0.12) * h
    for s in (-1, 1):
        draw.line(
            [(x + s * h * 0.03, y - h * 0.48), (x + s * stride, y)],
            fill=_tone(legs, 0.8),
            width=max(1, round(h * 0.075)),
        )
    w = h * rng.uniform(0.1, 0.14)
    hem = y - h * rng.uniform(0.3, 0.48)
    draw.polygon(
        [(x - w * 0.85, y - h * 0.82), (x + w * 0.85, y - h * 0.82), (x + w, hem), (x - w, hem)],
        fill=coat,
    )
    for s in (-1, 1):
        swing = rng.uniform(0.3, 1.6) * w
        draw.line(
            [(x + s * w * 0.85, y - h * 0.8), (x + s * (w + swing * 0.5), y - h * 0.5)],
            fill=_tone(coat, 0.85),
            width=max(1, round(h * 0.055)),
        )
    r = h * 0.075
    draw.ellipse([x - r, y - h, x + r, y - h + 2.2 * r], fill=skin)
    draw.pieslice(
        [x - r * 1.1, y - h * 1.01, x + r * 1.1, y - h * 1.01 + 2.4 * r],
        170,
        370,
        fill=_tone((70, 52, 40), rng.uniform(0.4, 2)),
    )


def car(rng: np.random.Generator, draw: Draw, x: float, y: float, h: float) -> None:
    """A car or a bus seen from the side; h is the height of a car."""
    paint, flip = _pick(rng, _CLOTHES), int(rng.choice([-1, 1]))
    if rng.random() < 0.25:
        w, tall = h * 6, h * 1.9
        draw.rectangle([x - w / 2, y - tall, x + w / 2, y - h * 0.2], fill=paint)
        for k in range(7):
            left = x - w / 2 + w * (k + 0.12) / 7
            draw.rectangle(
                [left, y - tall * 0.9, left + w * 0.11, y - tall * 0.5], fill=(62, 74, 84)
            )
        wheels = (-0.32, 0.32)
    else:
        w = h * 2.9
        body = [
            (-0.5, 0.2),
            (-0.5, 0.55),
            (-0.34, 0.62),
            (-0.2, 0.98),
            (0.2, 1.0),
            (0.33, 0.62),
            (0.5, 0.54),
            (0.5, 0.2),
        ]
        draw.polygon([(x + flip * a * w, y - b * h) for a, b in body], fill=paint)
        for pane in (
            [(-0.29, 0.62), (-0.18, 0.92), (-0.02, 0.93), (-0.02, 0.62)],
            [(0.02, 0.62), (0.02, 0.93), (0.17, 0.93), (0.27, 0.62)],
        ):
            draw.polygon([(x + flip * a * w, y - b * h) for a, b in pane], fill=(56, 68, 78))
        wheels = (-0.31, 0.31)
    for a in wheels:
        r = h * 0.24
        draw.ellipse([x + a * w - r, y - 2 * r, x + a * w + r, y], fill=(28, 28, 30))
        draw.ellipse(
            [x + a * w - r / 2, y - 1.5 * r, x + a * w + r / 2, y - r / 2], fill=(150, 152, 156)
        )


def pole(rng: np.random.Generator, draw: Draw, x: float, y: float, h: float) -> None:
    """A street lamp, a flag pole, a traffic sign, or a telegraph pole of height h."""
    metal = _tone((96, 98, 100), rng.uniform(0.5, 1.3))
    w = max(1.0, h * 0.02)
    draw.rectangle([x - w, y - h, x + w, y], fill=metal)
    kind = rng.choice(["lamp", "flag", "sign", "wires"])
    if kind == "lamp":
        side = rng.choice([-1, 1])
        draw.line(
            [(x, y - h), (x + side * h * 0.16, y - h * 1.02)], fill=metal, width=max(1, round(w))
        )
        draw.ellipse(
            [x + side * h * 0.16 - 2 * w, y - h * 1.04, x + side * h * 0.16 + 2 * w, y - h * 1.0],
            fill=(250, 236, 190),
        )
    elif kind == "flag":
        draw.polygon(
            [
                (x, y - h),
                (x + h * 0.3, y - h * 0.95),
                (x + h * 0.28, y - h * 0.8),
                (x, y - h * 0.83),
            ],
            fill=_pick(rng, _CLOTHES),
        )
    elif kind == "sign":
        r = h * 0.1
        draw.ellipse([x - r, y - h - r, x + r, y - h + r], fill=(190, 40, 40))
        draw.ellipse(
            [x - r * 0.7, y - h - r * 0.7, x + r * 0.7, y - h + r * 0.7], fill=(238, 238, 238)
        )
    else:
        draw.line(
            [(x - h * 0.12, y - h * 0.93), (x + h * 0.12, y - h * 0.93)],
            fill=metal,
            width=max(1, round(w)),
        )


def fence(rng: np.random.Generator, draw: Draw, x: float, y: float, h: float) -> None:
    """A railing, a hedge or a low wall across the picture, whose foot is in row y."""
    width = draw.im.size[0]
    kind = rng.choice(["rails", "hedge", "wall"])
    if kind == "rails":
        metal = _tone((60, 62, 62), rng.uniform(0.4, 1.6))
        for at in (0.25, 0.95):
            draw.line(
                [(0, y - h * at), (width, y - h * at)], fill=metal, width=max(1, round(h * 0.07))
            )
        for px in np.arange(x % (h * 0.3), width, h * 0.3):
            draw.line([(px, y), (px, y - h)], fill=metal, width=max(1, round(h * 0.05)))
    elif kind == "hedge":
        leaf = _pick(rng, _LEAVES[:3])
        draw.rectangle([0, y - h * 0.8, width, y], fill=_tone(leaf, 0.8))
        for _ in range(int(min(250, width / h * 16))):
            px, py, r = (
                rng.uniform(0, width),
                y - h * rng.uniform(0.1, 0.95),
                h * rng.uniform(0.05, 0.14),
            )
            draw.ellipse([px - r, py - r, px + r, py + r], fill=_tone(leaf, rng.uniform(0.7, 1.25)))
    else:
        stone = _tone((158, 150, 138), rng.uniform(0.7, 1.2))
        draw.rectangle([0, y - h * 0.7, width, y], fill=stone)
        draw.rectangle([0, y - h * 0.8, width, y - h * 0.68], fill=_tone(stone, 1.15))


def branches(rng: np.random.Generator, draw: Draw) -> None:
    """Leaves that hang into the picture from an upper corner."""
    width, height = draw.im.size
    side, leaf = int(rng.integers(2)), _pick(rng, _LEAVES)
    reach, drop = width * rng.uniform(0.25, 0.6), height * rng.uniform(0.2, 0.5)
    for _ in range(130):
        a, b = rng.random(), rng.random()
        if a + b > 1:
            a, b = 1 - a, 1 - b
        x, y = a * reach, b * drop
        x = width - x if side else x
        r = width * rng.uniform(0.008, 0.028)
        draw.ellipse(
            [x - r, y - r * 0.6, x + r, y + r * 0.6], fill=_tone(leaf, rng.uniform(0.5, 1.2))
        )


def wires(rng: np.random.Generator, draw: Draw) -> None:
    """Overhead wires."""
    width, height = draw.im.size
    y, slope = rng.uniform(0.05, 0.6) * height, rng.uniform(-0.25, 0.25) * height
    for k in range(int(rng.integers(1, 4))):
        s = np.linspace(0, 1, 9)
        line = y + k * height * 0.04 + slope * s + height * 0.05 * np.sin(np.pi * s)
        draw.line(
            [(float(a) * width, float(b)) for a, b in zip(s, line, strict=True)],
            fill=(44, 44, 48),
            width=1,
        )


# What is drawn, its smallest and largest height in metres, and how often it occurs.
_KINDS: tuple[tuple[Callable[..., None], float, float, float], ...] = (
    (tree, 5.0, 13.0, 0.3),
    (person, 1.55, 1.9, 0.32),
    (car, 1.4, 1.7, 0.17),
    (pole, 4.0, 8.0, 0.14),
    (fence, 0.9, 1.6, 0.07),
)


def bystanders(
    rng: np.random.Generator,
    size: tuple[int, int],
    place: Callable[[float, float], tuple[float, float]],
    depths: tuple[float, float],
    count: int,
) -> Image.Image:
    """An RGBA picture of `count` things that stand on the ground, drawn from far to near.

    Args:
      rng: The source of everything random.
      size: The picture's (width, height) in pixels.
      place: Maps (column, depth in metres) to (row of the ground, pixels per metre) there.
      depths: The nearest and the farthest distance from the camera, in metres.
      count: The number of things, or of groups of people.
    """
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    weights = np.array([k[3] for k in _KINDS])
    for depth in np.sort(rng.uniform(*depths, count))[::-1]:
        paint, low, high, _ = _KINDS[int(rng.choice(len(_KINDS), p=weights / weights.sum()))]
        x = float(rng.uniform(-0.05, 1.05) * size[0])
        tall = rng.uniform(low, high)
        for _ in range(int(rng.integers(1, 5)) if paint is person else 1):
            y, metre = place(x, float(depth))
            paint(rng, draw, x, y, tall * metre)
            x += metre * float(rng.uniform(-2.5, 2.5))
    return layer


def overhead(rng: np.random.Generator, layer: Image.Image) -> None:
    """Sometimes draws branches or wires, close to the camera, on a layer of occluders."""
    draw = ImageDraw.Draw(layer)
    if rng.random() < 0.1:
        branches(rng, draw)
    if rng.random() < 0.08:
        wires(rng, draw)
