"""Ornaments painted on walls: windows, doors, roses, clocks, cornices, signs, and the like."""

from __future__ import annotations

import dataclasses

import numpy as np

from .paint import GLOW, HOLE, SOLID, Colour, Kit, Wall, shift


@dataclasses.dataclass(frozen=True)
class Window:
    """A kind of window, the same all over a landmark.

    Attributes:
      shape: The shape of the opening, see Wall.opening.
      panes: The number of columns and rows of panes.
      frame: The frame's colour.
      glass: The glass's colour.
      shutter: The shutters' colour; None for no shutters.
      border: The width of the surround over that of the window.
      hood: What is above it: 'none', 'ledge', 'gable' or 'arch'.
      lit: The share of windows that are lit in the evening.
    """

    shape: str
    panes: tuple[int, int]
    frame: Colour
    glass: Colour
    shutter: Colour | None
    border: float
    hood: str
    lit: float

    @classmethod
    def random(cls, kit: Kit, shapes: tuple[str, ...] = ("flat", "round", "pointed")) -> Window:
        return cls(
            shape=kit.pick(shapes),
            panes=kit.pick([(2, 3), (2, 2), (3, 4), (1, 3), (2, 5), (1, 1)]),
            frame=kit.pick([kit.trim, kit.trim, shift(kit.wall_colour, -0.35), (236, 234, 228)]),
            glass=kit.glass,
            shutter=kit.accent if kit.chance(0.2) else None,
            border=kit.uniform(0.08, 0.28),
            hood=kit.pick(["none", "ledge", "gable", "arch"]),
            lit=kit.uniform(0.3, 0.9),
        )

    def paint(self, kit: Kit, wall: Wall, x: float, y: float, w: float, h: float) -> None:
        """Paints one window; (x, y) is the top left corner of the glass, w × h its size."""
        b = self.border * w
        wall.opening(x - b, y - b, w + 2 * b, h + b, self.frame, self.shape)
        if self.hood == "ledge":
            wall.rect(x - 1.8 * b, y - 2.6 * b, w + 3.6 * b, b, self.frame)
            wall.rect(x - 1.8 * b, y - 1.6 * b, w + 3.6 * b, 0.6 * b, shift(self.frame, -0.5))
        elif self.hood == "gable" and self.shape == "flat":
            top = [(x - 2 * b, y - 1.6 * b), (x + w / 2, y - 1.6 * b - w * 0.35)]
            wall.polygon([*top, (x + w + 2 * b, y - 1.6 * b)], self.frame)
        elif self.hood == "arch" and self.shape == "flat":
            wall.opening(x - b, y - b - w * 0.4, w + 2 * b, w * 0.5, self.frame, "round")
        # By day a lit window is as dark as the others; only alpha tells them apart.
        alpha = GLOW if kit.chance(self.lit) else SOLID
        wall.opening(x, y, w, h, self.glass, self.shape, alpha)
        wall.opening(x, y, w, h * 0.14, shift(self.glass, -0.4), self.shape)
        bar = max(0.06 * w, 0.8 / wall.scale[0])
        for i in range(1, self.panes[0]):
            wall.rect(x + w * i / self.panes[0] - bar / 2, y + 0.02 * h, bar, h * 0.98, self.frame)
        for j in range(1, self.panes[1]):
            wall.rect(x, y + h * j / self.panes[1] - bar / 2, w, bar, self.frame)
        wall.rect(x - 1.3 * b, y + h, w + 2.6 * b, max(0.5 * b, 0.05 * h), shift(self.frame, 0.15))
        if self.shutter is not None:
            for left in (x - b - w * 0.5, x + w + b):
                wall.rect(left, y, w * 0.5, h, self.shutter)
                for k in range(1, 6):
                    wall.rect(left, y + h * k / 6, w * 0.5, h * 0.03, shift(self.shutter, -0.35))

    def grid(
        self,
        kit: Kit,
        wall: Wall,
        x: float,
        y: float,
        w: float,
        h: float,
        columns: int,
        rows: int,
        fill: tuple[float, float] = (0.45, 0.6),
    ) -> None:
        """Paints columns × rows windows over a box; `fill` is their share of a cell."""
        cw, ch = w / columns, h / rows
        for j in range(rows):
            for i in range(columns):
                left, top = x + (i + (1 - fill[0]) / 2) * cw, y + (j + (1 - fill[1]) / 2) * ch
                self.paint(kit, wall, left, top, cw * fill[0], ch * fill[1])


def portal(kit: Kit, wall: Wall, x: float, w: float, h: float, shape: str, orders: int = 2) -> None:
    """A door at the foot of the wall, centred at x, within `orders` receding arches."""
    for k in range(orders, 0, -1):
        grow = 1 + 0.16 * k
        tone = kit.trim if k % 2 else shift(kit.wall_colour, -0.4)
        wall.opening(
            x - w * grow / 2,
            wall.height - h * (1 + 0.1 * k),
            w * grow,
            h * (1 + 0.1 * k),
            tone,
            shape,
        )
    wall.opening(x - w / 2, wall.height - h, w, h, kit.door, shape)
    wall.rect(x - w * 0.03, wall.height - h, w * 0.06, h, shift(kit.door, -0.5))
    wall.opening(x - w / 2, wall.height - h, w, h * 0.3, shift(kit.door, -0.55), shape)


def rose(kit: Kit, wall: Wall, x: float, y: float, r: float, petals: int) -> None:
    """A rose window of radius r: stone rings, spokes and petals over dark glass."""
    stone = kit.trim
    wall.ellipse(x, y, r * 1.22, r * 1.22, shift(stone, -0.3))
    wall.ellipse(x, y, r * 1.14, r * 1.14, stone)
    wall.ellipse(x, y, r, r, shift(kit.glass, -0.3), GLOW)
    for k in range(petals):
        a = 2 * np.pi * k / petals
        c, s = float(np.cos(a)), float(np.sin(a))
        wall.line([(x, y), (x + r * c, y + r * s)], stone, r * 0.09)
        a += np.pi / petals
        c, s = float(np.cos(a)), float(np.sin(a))
        size = 0.8 * r * np.pi / petals
        wall.ellipse(x + 0.78 * r * c, y + 0.78 * r * s, size, size, stone)
        wall.ellipse(x + 0.78 * r * c, y + 0.78 * r * s, size * 0.65, size * 0.65, kit.accent, GLOW)
    wall.ellipse(x, y, r * 0.3, r * 0.3, stone)
    wall.ellipse(x, y, r * 0.19, r * 0.19, kit.accent, GLOW)


def clock(kit: Kit, wall: Wall, x: float, y: float, r: float, square: bool = False) -> None:
    """A clock face of radius r; its hands show the landmark's own hour."""
    if square:
        wall.rect(x - 1.25 * r, y - 1.25 * r, 2.5 * r, 2.5 * r, kit.accent)
    wall.ellipse(x, y, r * 1.15, r * 1.15, shift(kit.accent, -0.3))
    wall.ellipse(x, y, r, r, (238, 234, 220), GLOW)
    for k in range(12):
        a = np.pi * k / 6
        c, s = float(np.cos(a)), float(np.sin(a))
        inner = 0.72 if k % 3 == 0 else 0.84
        wall.line(
            [(x + inner * r * c, y + inner * r * s), (x + 0.94 * r * c, y + 0.94 * r * s)],
            (30, 28, 30),
            r * 0.1,
        )
    for length in (0.55, 0.82):
        a = kit.uniform(0, 2 * np.pi)
        wall.line(
            [(x, y), (x + length * r * float(np.cos(a)), y + length * r * float(np.sin(a)))],
            (30, 28, 30),
            r * 0.12,
        )


def cornice(kit: Kit, wall: Wall, y: float, depth: float, dentils: bool = True) -> None:
    """A horizontal band at y with its shadow and, below it, a row of dentils."""
    wall.rect(0, y, wall.width, depth * 0.55, shift(kit.trim, 0.1))
    wall.rect(0, y + depth * 0.55, wall.width, depth * 0.45, shift(kit.trim, -0.45))
    if dentils:
        step = depth * 0.9
        for k in range(int(wall.width / step)):
            wall.rect(k * step, y + depth * 0.55, step * 0.5, depth * 0.45, kit.trim)


def quoins(kit: Kit, wall: Wall, size: float) -> None:
    """Dressed stones up both corners."""
    for k in range(int(wall.height / size)):
        w = size * (1.5 if k % 2 else 0.9)
        for x in (0.0, wall.width - w):
            wall.rect(x, k * size, w, size * 0.86, kit.trim)


def pilasters(kit: Kit, wall: Wall, x: float, w: float, y: float, h: float, count: int) -> None:
    """Flat columns with bases and capitals, spaced evenly over x … x + w, from y to y + h."""
    thick = min(w / count * 0.3, h * 0.12)
    for k in range(count):
        left = x + (w - thick) * k / max(count - 1, 1)
        wall.rect(left, y, thick, h, kit.trim)
        wall.rect(left + thick * 0.7, y, thick * 0.3, h, shift(kit.trim, -0.3))
        for top in (y, y + h - thick * 0.6):
            wall.rect(left - thick * 0.25, top, thick * 1.5, thick * 0.6, shift(kit.trim, 0.2))


def blind_arcade(
    kit: Kit, wall: Wall, y: float, h: float, count: int, shape: str, dark: float = -0.45
) -> None:
    """A row of niches across the wall."""
    cell = wall.width / count
    for k in range(count):
        wall.opening(k * cell + 0.1 * cell, y, cell * 0.8, h, kit.trim, shape)
        wall.opening(
            k * cell + 0.2 * cell,
            y + 0.1 * cell,
            cell * 0.6,
            h - 0.1 * cell,
            shift(kit.wall_colour, dark),
            shape,
        )


def balustrade(kit: Kit, width: float, height: float) -> Wall:
    """A railing of stone posts with holes between them."""
    rail = kit.sheer(width, height)
    rail.rect(0, 0, width, height * 0.22, kit.trim)
    rail.rect(0, height * 0.84, width, height * 0.16, kit.trim)
    step = height * 0.5
    for k in range(max(1, int(width / step)) + 1):
        thick = step * (0.8 if k % 6 == 0 else 0.4)
        rail.rect(k * step - thick / 2, 0, thick, height, shift(kit.trim, -0.1))
    return rail


def crenels(kit: Kit, width: float, height: float, count: int, swallow: bool = False) -> Wall:
    """A parapet of `count` merlons, flat or swallow-tailed, with holes between them."""
    parapet = kit.wall(width, height)
    cell = width / count
    for k in range(count):
        parapet.rect((k + 0.62) * cell, 0, cell * 0.38, height * 0.6, kit.wall_colour, HOLE)
        if swallow:
            notch = [(k + 0.1, -0.1), (k + 0.31, 0.35), (k + 0.52, -0.1)]
            parapet.polygon([(a * cell, b * height) for a, b in notch], kit.wall_colour, HOLE)
    parapet.rect(0, height * 0.86, width, height * 0.14, shift(kit.trim, -0.15))
    return parapet


def sign(kit: Kit, wall: Wall, x: float, y: float, w: float, h: float, letters: int) -> None:
    """A board of made-up letters: strokes on a 2 × 3 grid."""
    board, ink = kit.pick([(kit.accent, (240, 236, 224)), ((234, 230, 218), kit.accent)])
    wall.rect(x, y, w, h, board)
    cell = w / (letters + 0.5)
    grid = [(a, b) for a in (0.0, 0.55) for b in (0.0, 0.5, 1.0)]
    for k in range(letters):
        left = x + (k + 0.4) * cell
        for _ in range(kit.integer(3, 4)):
            ends = [grid[i] for i in kit.rng.choice(len(grid), 2, replace=False)]
            points = [(left + a * cell, y + h * (0.2 + 0.6 * b)) for a, b in ends]
            wall.line(points, ink, h * 0.13, GLOW)


def flag(kit: Kit, width: float, height: float) -> Wall:
    """A flag that waves from its pole, which is the left edge."""
    cloth = kit.sheer(width, height)
    colours = [kit.accent, (236, 232, 226), kit.pick([(206, 162, 62), (42, 82, 122), kit.accent])]
    upright = kit.chance(0.5)
    for k, colour in enumerate(colours):
        x0, x1 = (k / 3, (k + 1) / 3) if upright else (0, 1)
        y0, y1 = (0, 1) if upright else (k / 3, (k + 1) / 3)
        s = np.linspace(x0, x1, 7)
        wave = 0.05 + 0.05 * np.sin(s * 7)
        up = [(a, b + y0 * 0.4) for a, b in zip(s, wave, strict=True)]
        low = [(a, b + y1 * 0.4) for a, b in zip(s[::-1], wave[::-1], strict=True)]
        cloth.polygon([(float(a) * width, float(b) * height) for a, b in up + low], colour)
    cloth.rect(0, 0, max(0.05 * width, 1.5 / cloth.scale[0]), height, (70, 66, 62))
    return cloth


def trusses(kit: Kit, width: float, height: float, bays: int, colour: Colour, bar: float) -> Wall:
    """A lattice of `bays` crossed bays with holes between the bars."""
    wall = kit.sheer(width, height)
    step = height / bays
    for k in range(bays):
        y0, y1 = k * step, (k + 1) * step
        wall.line([(0, y0), (width, y1)], colour, bar)
        wall.line([(width, y0), (0, y1)], colour, bar)
        wall.line([(0, y0), (width, y0)], shift(colour, -0.15), bar)
    for x in (bar / 2, width - bar / 2):
        wall.line([(x, 0), (x, height)], colour, bar * 1.5)
    wall.line([(0, height), (width, height)], colour, bar * 1.5)
    return wall
