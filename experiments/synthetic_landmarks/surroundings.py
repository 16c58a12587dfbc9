"""What stands behind and under a landmark: sky, clouds, hills, a town, and the ground.

None of it belongs to the landmark: every picture has its own.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .geometry import Camera, Faces
from .light import Light
from .paint import masonry, smooth_noise

_GROUNDS = {
    "grass": (96, 118, 62),
    "paving": (164, 156, 144),
    "asphalt": (104, 104, 106),
    "gravel": (176, 160, 132),
    "sand": (206, 188, 150),
    "water": (70, 98, 116),
}


def horizon_line(camera: Camera, width: int) -> np.ndarray:
    """The horizon's row in each column, (width,)."""
    left, right = camera.horizon(0.0), camera.horizon(float(width))
    return np.linspace(left, right, width)


def sky(
    rng: np.random.Generator, light: Light, width: int, height: int, horizon: float
) -> Image.Image:
    """A sky with its own clouds, down to the row `horizon`."""
    rows = np.linspace(0, height, 48)[:, None]
    low = min(max(horizon, height * 0.25), height * 1.5)
    blend = np.clip(rows / low, 0, 1) ** rng.uniform(0.8, 2.2)
    colour = light.zenith + (light.horizon - light.zenith) * blend[..., None]
    colour = np.repeat(colour, 64, 1)
    if rng.random() < (0.75 if light.weather == "clear" else 0.9):
        cover = rng.uniform(-0.35, 0.45)
        puff = smooth_noise(rng, 48, 64, (2, 5, 11, 23)) * rng.uniform(1.0, 2.2) + cover
        alpha = np.clip(puff, 0, 1)[..., None] * rng.uniform(0.4, 0.95)
        bright = {"day": 245, "overcast": 150, "golden": 225, "dusk": 110, "night": 34}[light.time]
        cloud = np.array([bright] * 3) * (0.5 + 0.5 * light.horizon / max(light.horizon.max(), 1.0))
        colour = colour * (1 - alpha) + cloud * alpha
    picture = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if light.time == "night" and light.weather == "clear":
        draw = ImageDraw.Draw(picture)
        for x, y in rng.random((int(rng.integers(10, 60)), 2)) * (width, height):
            draw.point((x, y), fill=(200, 200, 210))
    return picture


def backdrop(
    rng: np.random.Generator, picture: Image.Image, light: Light, horizon: np.ndarray, unit: float
) -> None:
    """Draws hills, woods or towns along the horizon; `unit` is pixels per metre at the landmark."""
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    kinds = [
        str(k) for k in rng.choice(["hills", "wood", "town", "none"], 2, p=(0.3, 0.3, 0.3, 0.1))
    ]
    haze = light.horizon
    for depth, kind in zip((0.55, 0.25), kinds, strict=True):
        own = {
            "hills": (88, 104, 92),
            "wood": (62, 84, 48),
            "town": (132, 122, 116),
            "none": (0, 0, 0),
        }[kind]
        tone = np.array(own) * light.flat
        if kind == "wood" and rng.random() < 0.3:
            tone = np.array((150, 104, 56)) * light.flat
        colour = tuple(int(c) for c in np.clip(tone * (1 - depth) + haze * depth, 0, 255))
        if kind == "hills":
            top = smooth_noise(rng, 2, width, (2, 4, 9))[0] * 0.5 + 0.5
            rise = rng.uniform(0.05, 0.3) * height
            line = [(x, horizon[x] - max(0.0, float(top[x])) * rise) for x in range(0, width, 4)]
            draw.polygon([(0, height), *line, (width, horizon[-1]), (width, height)], fill=colour)
        elif kind == "wood":
            rise = rng.uniform(4, 10) * unit * 0.6
            for _ in range(int(width / max(rise, 4) * 5)):
                x = rng.uniform(0, width)
                r = rise * rng.uniform(0.3, 0.7)
                y = horizon[min(int(x), width - 1)] - rise * rng.uniform(0.2, 0.7)
                shade = rng.uniform(0.85, 1.15)
                draw.ellipse(
                    [x - r, y - r, x + r, y + rise],
                    fill=tuple(min(255, int(c * shade)) for c in colour),
                )
        elif kind == "town":
            _town(rng, draw, light, horizon, colour, rng.uniform(7, 16) * unit * 0.6)


def _town(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    light: Light,
    horizon: np.ndarray,
    colour: tuple[int, ...],
    rise: float,
) -> None:
    x = -rise * rng.random()
    while x < len(horizon):
        w, h = rise * rng.uniform(0.4, 1.2), rise * rng.uniform(0.35, 1.1)
        base = float(horizon[min(max(int(x), 0), len(horizon) - 1)])
        tone = np.array(colour) * rng.uniform(0.82, 1.18) * rng.normal(1, 0.04, 3)
        wall = tuple(int(c) for c in np.clip(tone, 0, 255))
        draw.rectangle([x, base - h, x + w, base + rise], fill=wall)
        if rng.random() < 0.5:
            roof = tuple(int(c) for c in np.clip(tone * (0.8, 0.66, 0.62), 0, 255))
            draw.polygon(
                [(x - 1, base - h), (x + w / 2, base - h * 1.35), (x + w + 1, base - h)], fill=roof
            )
        pane = tuple(int(c) for c in np.clip(tone * 0.7, 0, 255))
        lit = (236, 196, 120)
        step = max(3.0, rise * 0.16)
        for i in range(int(w / step) - 1):
            for j in range(int(h / step / 1.3)):
                px, py = x + (i + 0.6) * step, base - h + (j + 0.4) * step * 1.3
                fill = lit if rng.random() < light.glow * 0.5 else pane
                draw.rectangle([px, py, px + step * 0.45, py + step * 0.6], fill=fill)
        x += w * rng.uniform(0.9, 1.3)


def ground(
    rng: np.random.Generator,
    camera: Camera,
    light: Light,
    picture: Image.Image,
    horizon: np.ndarray,
    faces: Faces,
    water: bool,
) -> None:
    """Paints the ground below the horizon, with the landmark's shadow if the sun shines."""
    width, height = picture.size
    low, high = faces.bounds
    extent = float(np.linalg.norm(high - low))
    names = ["water", "water", "sand", "grass"] if water else list(_GROUNDS)[:-1]
    kind = names[int(rng.integers(len(names)))]
    base = np.array(_GROUNDS[kind], float) * rng.normal(1, 0.06, 3)
    if light.weather == "snow":
        base = base * 0.15 + np.array((226, 230, 236)) * 0.85
    tone = smooth_noise(rng, 256, 256, (5, 14, 40, 90)) * 0.16
    if kind == "paving":
        tone += masonry(rng, 256, 256, (rng.uniform(6, 14), rng.uniform(6, 14)), spread=0.06)
    elif kind == "water":
        tone = smooth_noise(rng, 256, 256, (4, 20, 90)) * 0.14
        base = base * 0.5 + light.horizon * 0.5 / np.maximum(light.flat, 0.2)
    tile = Image.fromarray(np.clip(base * (1 + tone[..., None]), 0, 255).astype(np.uint8))

    size = extent * 5
    frame = np.array([[size, 0, -size / 2], [0, 0, 0], [0, size, -size / 2]])
    inverse = np.linalg.inv(camera.homographies(frame))
    inverse[:2] *= 256
    inverse /= inverse[2, 2] if abs(inverse[2, 2]) > 1e-12 else 1e-12
    spread = tile.transform(
        (width, height),
        Image.Transform.PERSPECTIVE,
        inverse.ravel()[:8].tolist(),
        Image.Resampling.BILINEAR,
        fillcolor=tuple(int(c) for c in np.clip(base, 0, 255)),
    )
    below = (np.arange(height)[:, None] - horizon).astype(np.float32)
    far = ((1 - below / (0.22 * height)).clip(0, 1) ** 2 * np.float32(0.6))[..., None]
    air = light.horizon.astype(np.float32)
    lit = np.array(spread, np.float32)
    lit *= (light.ambient + light.sun * light.to_sun[1]).astype(np.float32)
    if light.flood.any():
        lit += (light.flood * 40).astype(np.float32) * (1 - below / height).clip(0, 1)[..., None]
    if light.sun.max() > 0.3:
        lit *= 1 - np.float32(0.55) * _shadow(faces, camera, light, width, height)[..., None]
    lit += (air - lit) * far
    earth = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    picture.paste(earth, (0, 0), Image.fromarray((below > 0).astype(np.uint8) * 255))


def _shadow(faces: Faces, camera: Camera, light: Light, width: int, height: int) -> np.ndarray:
    """The shadow that the faces cast on the ground, (height, width), float32 in 0 … 1."""
    points = faces.corners - light.to_sun * (faces.corners[..., 1:2] / light.to_sun[1])
    pixels, depth = camera.project(points)
    mask = Image.new("L", (width // 2, height // 2))
    draw = ImageDraw.Draw(mask)
    for polygon, near in zip(pixels / 2, depth.min(1), strict=True):
        if near > 0.5:
            draw.polygon([tuple(p) for p in polygon.tolist()], fill=255)
    soft = mask.filter(ImageFilter.GaussianBlur(1.2)).resize((width, height))
    return np.asarray(soft, np.float32) / 255
