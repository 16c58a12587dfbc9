"""Painting the faces of a landmark: materials, and a wall that is drawn on in metres."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

# The alpha of a texture says what a place is made of. Bilinear interpolation from HOLE to SOLID,
# or from SOLID to GLOW, never passes the third.
HOLE, SOLID, GLOW = 0, 200, 255

Colour = tuple[int, int, int]
T = TypeVar("T")

# Wall, trim and roof. All families share a few schemes, so that colour says little about which
# landmark it is.
_SCHEMES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((208, 194, 164), (230, 220, 198), (96, 102, 114)),
    ((164, 92, 72), (220, 206, 184), (92, 74, 70)),
    ((150, 148, 144), (186, 184, 178), (82, 88, 98)),
    ((198, 158, 112), (222, 196, 156), (128, 82, 64)),
    ((228, 224, 214), (190, 186, 178), (164, 92, 68)),
    ((212, 178, 116), (236, 228, 210), (150, 84, 62)),
)
_ACCENTS: tuple[Colour, ...] = (
    (150, 44, 40),
    (42, 82, 122),
    (52, 98, 72),
    (206, 162, 62),
    (92, 62, 96),
    (66, 60, 56),
)


def shift(colour: Colour, amount: float) -> Colour:
    """A lighter (amount > 0) or darker colour; ±1 reaches white or black."""
    goal = 255 if amount > 0 else 0
    r, g, b = (round(c + (goal - c) * abs(amount)) for c in colour)
    return r, g, b


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells: Sequence[int] = (3, 6, 12)
) -> np.ndarray:
    """Cloudy noise (height, width), float32, about −1 … 1, with octaves of `cells` across."""
    total = np.zeros((height, width), np.float32)
    for k, n in enumerate(cells):
        rows = max(2, round(n * height / width))
        grid = rng.uniform(-1, 1, (rows + 1, n + 1)).astype(np.float32)
        octave = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(octave) * 0.6**k
    return total * (1 / (1.2 if len(cells) > 1 else 1.0))


def masonry(
    rng: np.random.Generator,
    height: int,
    width: int,
    block: tuple[float, float],
    *,
    bond: float = 0.5,
    spread: float = 0.1,
    joint: float = -0.18,
) -> np.ndarray:
    """Relative brightness (height, width), float32, of blocks in courses.

    Args:
      block: The (width, height) of a block in pixels.
      bond: How far each course is shifted against the one below, in blocks.
      spread: The standard deviation of the blocks' brightness.
      joint: The brightness of the mortar.
    """
    bw, bh = max(block[0], 3.0), max(block[1], 2.0)
    y = np.arange(height) / bh
    row = y.astype(int)
    x = np.arange(width)[None] / bw + (row * bond % 1)[:, None]
    column = x.astype(int)
    tone = rng.normal(0, spread, (row[-1] + 1, int(width / bw) + 3)).astype(np.float32)
    tones = tone[row[:, None], column]
    mortar = ((y % 1) * bh < 1)[:, None] | ((x % 1) * bw < 1)
    return np.where(mortar, np.float32(joint), tones)


@dataclasses.dataclass
class Wall:
    """A texture being painted. Lengths are in metres, from the top left; y points down."""

    image: Image.Image
    scale: tuple[float, float]  # pixels per metre, across and down

    def __post_init__(self) -> None:
        self._draw = ImageDraw.Draw(self.image)

    @property
    def width(self) -> float:
        return self.image.width / self.scale[0]

    @property
    def height(self) -> float:
        return self.image.height / self.scale[1]

    def rect(
        self, x: float, y: float, w: float, h: float, colour: Colour, alpha: int = SOLID
    ) -> None:
        """Fills a rectangle given by its top left corner and size."""
        a, b = self.scale
        x0, y0, x1, y1 = round(x * a), round(y * b), round((x + w) * a), round((y + h) * b)
        self._draw.rectangle([x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)], fill=(*colour, alpha))

    def polygon(
        self, points: Sequence[tuple[float, float]], colour: Colour, alpha: int = SOLID
    ) -> None:
        """Fills a polygon."""
        a, b = self.scale
        self._draw.polygon([(x * a, y * b) for x, y in points], fill=(*colour, alpha))

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: int = SOLID
    ) -> None:
        """Fills an ellipse given by its centre and radii."""
        a, b = self.scale
        box = [(x - rx) * a, (y - ry) * b, (x + rx) * a, (y + ry) * b]
        self._draw.ellipse(box, fill=(*colour, alpha))

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: Colour,
        width: float,
        alpha: int = SOLID,
    ) -> None:
        """Draws a polyline of a width in metres, at least one pixel."""
        a, b = self.scale
        thick = max(1, round(width * min(a, b)))
        self._draw.line([(x * a, y * b) for x, y in points], fill=(*colour, alpha), width=thick)

    def opening(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        colour: Colour,
        shape: str = "flat",
        alpha: int = SOLID,
    ) -> None:
        """Fills the outline of a window or door whose top left corner is (x, y).

        Its top is 'flat', 'round', 'pointed' or 'keel'.
        """
        self.polygon([(x + px, y + py) for px, py in arch_outline(w, h, shape)], colour, alpha)


def arch_outline(w: float, h: float, shape: str) -> list[tuple[float, float]]:
    """The outline of an opening of size w × h, as points from its bottom left, clockwise."""
    if shape == "flat":
        top = [(0.0, 0.0), (w, 0.0)]
    elif shape == "round":
        rise = min(w / 2, h * 0.6)
        angles = np.linspace(np.pi, 0, 13)
        top = [(w / 2 + w / 2 * np.cos(a), rise - rise * np.sin(a)) for a in angles]
    else:
        rise = min(w * 0.85, h * 0.7)
        s = np.linspace(0, 1, 7)
        # Half an arch: from the springing (0, rise) to the apex (w/2, 0).
        bulge = np.sin(s * np.pi / 2) if shape == "pointed" else s - 0.16 * np.sin(2 * np.pi * s)
        xs, ys = w / 2 * (1 - np.cos(s * np.pi / 2)) ** 0.9, rise * (1 - bulge)
        left = list(zip(xs.tolist(), ys.tolist(), strict=True))
        top = left + [(w - px, py) for px, py in reversed(left[:-1])]
    return [(0.0, h), *top, (w, h)]


class Kit:
    """One landmark's paint box: its random numbers, colours, materials and texture resolution.

    Args:
      rng: The landmark's generator; the code that builds the landmark draws from it, too.
      resolution: The number of texture pixels along the landmark's larger side.
    """

    def __init__(self, rng: np.random.Generator, resolution: int) -> None:
        self.rng = rng
        self.resolution = resolution
        self.ppm = 8.0
        wall, trim, roof = _SCHEMES[int(rng.integers(len(_SCHEMES)))]
        self.wall_colour, self.trim = self._near(wall), self._near(trim)
        self.roof_colour = self._near(roof)
        self.accent = _ACCENTS[int(rng.integers(len(_ACCENTS)))]
        self.glass: Colour = self._near(self.pick([(58, 66, 78), (44, 44, 46), (84, 98, 110)]))
        self.door: Colour = self._near(self.pick([(82, 56, 40), (54, 46, 42), self.accent]))
        self.material = self.pick(["brick", "ashlar", "rubble", "plaster", "bands"])
        self.roofing = self.pick(["tiles", "slate", "seams"])
        self.block = self.uniform(0.7, 1.5)  # height of a typical block; see sized()

    def _near(self, colour: Colour) -> Colour:
        r, g, b = (int(c) for c in np.clip(np.array(colour) + self.rng.normal(0, 5, 3), 0, 255))
        return r, g, b

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """A whole number, low ≤ n ≤ high."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def sized(self, extent: float) -> None:
        """Sets the landmark's larger side in metres, which fixes resolution and block size."""
        self.ppm = self.resolution / extent
        self.block *= extent / 34

    def wall(
        self,
        width: float,
        height: float,
        material: str | None = None,
        colour: Colour | None = None,
    ) -> Wall:
        """A new wall, its sides in metres.

        Its material (by default the landmark's own) is brick, ashlar, rubble, plaster, bands,
        tiles, slate, seams, concrete, planks or plain.
        """
        w, h = max(4, round(width * self.ppm)), max(4, round(height * self.ppm))
        rgb = self._surface(material or self.material, colour or self.wall_colour, h, w)
        pixels = np.dstack([rgb, np.full((h, w), SOLID, np.uint8)])
        return Wall(Image.fromarray(pixels), (w / width, h / height))

    def roof(self, width: float, height: float) -> Wall:
        return self.wall(width, height, self.roofing, self.roof_colour)

    def sheer(self, width: float, height: float) -> Wall:
        """A wall that is one hole, to draw lattices, railings and silhouettes on."""
        w, h = max(4, round(width * self.ppm)), max(4, round(height * self.ppm))
        # Dark rather than black, because the colour bleeds into what is drawn on it.
        return Wall(Image.new("RGBA", (w, h), (90, 88, 86, HOLE)), (w / width, h / height))

    def _surface(self, material: str, colour: Colour, h: int, w: int) -> np.ndarray:
        rng, b = self.rng, self.block * self.ppm
        tone = smooth_noise(rng, h, w, (4, 9)) * 0.05  # stains
        if material == "brick":
            tone += masonry(rng, h, w, (b * 0.8, b * 0.34), spread=0.09)
        elif material == "ashlar":
            tone += masonry(rng, h, w, (b * 1.9, b * 0.85), spread=0.06, joint=-0.2)
        elif material == "rubble":
            tone += masonry(rng, h, w, (b * 0.9, b * 0.6), bond=0.37, spread=0.14, joint=-0.22)
        elif material == "bands":
            tone += masonry(rng, h, w, (b * 2, b * 0.8), spread=0.03, joint=-0.06)
            tone -= 0.24 * (np.arange(h) / (b * 1.6) % 2 < 1)[:, None]
        elif material in ("tiles", "slate"):
            size = (b * 0.6, b * 0.5) if material == "tiles" else (b * 0.9, b * 0.4)
            tone += masonry(rng, h, w, size, spread=0.08, joint=-0.2)
        elif material == "seams":
            tone -= 0.2 * (np.arange(w) % max(4, round(b)) < 1.5)
        elif material == "concrete":
            tone += masonry(rng, h, w, (b * 3, b * 2), bond=0, spread=0.03, joint=-0.16)
        elif material == "planks":
            tone += masonry(rng, h, w, (b * 9, b * 0.35), bond=0.31, spread=0.09, joint=-0.25)
        elif material == "plaster":
            tone += smooth_noise(rng, h, w, (5, 14, 40)) * 0.04
        elif material != "plain":
            raise ValueError(f"no material {material!r}")
        tone += rng.normal(0, 0.025, (h, w)).astype(np.float32)
        # Dirt at the foot, shade under the eaves.
        down = np.linspace(0, 1, h, dtype=np.float32)[:, None]
        tone -= 0.1 * np.clip(down * 8 - 7, 0, 1) + 0.12 * np.clip(1 - down * h / (b + 1), 0, 1)
        return np.clip(np.array(colour, np.float32) * (1 + tone)[..., None], 0, 255).astype(
            np.uint8
        )
