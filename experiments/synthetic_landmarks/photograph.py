"""One photograph of a landmark: camera, light, crop, what stands in the way, film."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from . import passers_by, surroundings
from .geometry import Camera, Faces, look_at
from .light import Light
from .raster import Rendering, render

MIN_VISIBILITY = 0.12  # of a landmark in any picture that carries its name
_SUPERSAMPLING = 2
# The landmark's extent over the frame's: all of it, small in its surroundings, a part of it, or
# half out of the picture.
_SHOTS = {"whole": (0.78, 1.06), "far": (0.5, 0.75), "close": (1.1, 2.4), "cut": (0.8, 1.5)}
_MAX_CANVAS = 3.0  # of the frame's sides; a landmark that reaches farther is seen less closely


@dataclasses.dataclass(frozen=True)
class View:
    """What is known about one photograph.

    Attributes:
      size: Width and height in pixels.
      box: The box of the landmark's visible part: x1, y1, x2, y2 in pixels.
      visibility: The landmark's visible pixels over those of the whole landmark, neither cropped
        nor covered.
      axis: The optical axis in the landmark's own coordinates, a unit vector.
      scale: Pixels per metre at the landmark's centre, over the picture's longer side.
      time: One of `light.TIMES`.
      weather: One of `light.WEATHERS`.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    visibility: float
    axis: tuple[float, float, float]
    scale: float
    time: str
    weather: str


def photograph(
    faces: Faces, rng: np.random.Generator, image_size: int, *, water: bool, raised: bool
) -> tuple[bytes, View]:
    """Takes one photograph.

    Args:
      faces: The landmark.
      rng: The source of everything random in the picture.
      image_size: The picture's longer side in pixels.
      water: Whether the landmark stands by the water.
      raised: Whether it is best seen from above.

    Returns:
      The bytes of the JPEG file, and what is known about the picture.
    """
    aspect = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    width = image_size if aspect >= 1 else round(image_size * aspect)
    height = image_size if aspect <= 1 else round(image_size / aspect)
    light = Light.random(rng)
    w, h = width * _SUPERSAMPLING, height * _SUPERSAMPLING
    while True:
        camera, canvas, corner = _point_camera(rng, faces, w, h, raised)
        whole = render(faces, camera, *canvas)
        seen = whole.crop(*corner, w, h)
        total = max(int(whole.mask.sum()), 1)
        camera = dataclasses.replace(
            camera, centre=(camera.centre[0] - corner[0], camera.centre[1] - corner[1])
        )
        front = _bystanders(rng, camera, faces, w, h, behind=False)
        visible = seen.mask & (np.asarray(front)[..., 3] < 128)
        visibility = float(visible.sum() / total)
        if visibility >= MIN_VISIBILITY:
            break

    picture = _compose(rng, faces, camera, light, seen, front, water)
    small = picture.reduce(_SUPERSAMPLING)
    data = _develop(rng, small, light)
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    s = _SUPERSAMPLING
    box = (
        int(columns[0] // s),
        int(rows[0] // s),
        min(int(columns[-1] // s) + 1, width),
        min(int(rows[-1] // s) + 1, height),
    )
    low, high = faces.bounds
    _, depth = camera.project((low + high) / 2)
    x, y, z = (round(float(a), 6) for a in camera.axis)
    view = View(
        size=(width, height),
        box=box,
        visibility=round(visibility, 4),
        axis=(x, y, z),
        scale=round(float(camera.focal / depth / (image_size * s)), 6),
        time=light.time,
        weather=light.weather,
    )
    return data, view


def _point_camera(
    rng: np.random.Generator, faces: Faces, w: int, h: int, raised: bool
) -> tuple[Camera, tuple[int, int], tuple[int, int]]:
    """A camera, the size of a canvas that holds frame and landmark, the frame's corner on it."""
    low, high = faces.bounds
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    around = np.radians(np.clip(rng.normal(0, 24), -60, 60))
    distance = radius * rng.uniform(1.9, 4.5)
    if raised or rng.random() < 0.2:
        up = np.radians(rng.uniform(12, 32))
    else:
        eye = rng.uniform(1.6, max(1.7, 0.3 * high[1]))
        up = np.arcsin(np.clip((eye - centre[1]) / distance, -0.6, 0.6))
    direction = np.array([np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)])
    position = centre + distance * direction
    position[1] = max(position[1], 1.6)
    aim = centre + radius * rng.normal(0, 0.06, 3)
    rotation = look_at(position, aim, np.radians(rng.normal(0, 2.5)))

    shot = str(rng.choice(list(_SHOTS), p=(0.68, 0.08, 0.18, 0.06)))
    fill = _SHOTS[shot]
    plain = Camera(position, rotation, 1.0, (0.0, 0.0))
    points, _ = plain.project(faces.corners.reshape(-1, 3))
    first, last = points.min(0), points.max(0)
    extent = last - first
    focal = float(rng.uniform(*fill) * min(np.array([w, h]) / extent))
    focal = min(focal, float(min(_MAX_CANVAS * np.array([w, h]) / extent)))
    # Where the landmark's box goes: anywhere inside the frame, or with the frame inside it.
    slack = np.array([w, h]) - focal * extent
    at = slack * rng.uniform(0.1, 0.9, 2)
    if shot != "close":
        at[1] = slack[1] * rng.uniform(0.3, 0.75)
    if shot == "cut":
        outside = rng.uniform(0.4, 0.8) * focal * extent[0]
        at[0] = -outside if rng.random() < 0.5 else w - focal * extent[0] + outside
    offset = at - focal * first
    low_corner = np.floor(np.minimum(at, 0)).astype(int)
    high_corner = np.ceil(np.maximum(at + focal * extent, (w, h))).astype(int)
    size = high_corner - low_corner
    camera = Camera(position, rotation, focal, tuple((offset - low_corner).tolist()))
    return camera, (int(size[0]), int(size[1])), (int(-low_corner[0]), int(-low_corner[1]))


def _bystanders(
    rng: np.random.Generator, camera: Camera, faces: Faces, w: int, h: int, behind: bool
) -> Image.Image:
    """The RGBA layer of what stands behind the landmark, or between it and the camera."""
    depth = camera.project(faces.corners)[1]
    first, last = float(depth.min()), float(depth.max())
    eye = float(camera.position[1])

    def place(x: float, far: float) -> tuple[float, float]:
        metre = camera.focal / far
        return camera.horizon(x) + eye * metre, metre

    if behind:
        count = int(rng.poisson(5))
        return passers_by.bystanders(rng, (w, h), place, (last * 1.05, last * 2.5), count)
    crowded = rng.random() < 0.09
    near = (first + last) / 2 * rng.choice([0.2, 0.4, 0.6], p=(0.15, 0.35, 0.5))
    depths = (near, max(first * 0.97, near * 1.05))
    count = int(rng.poisson(11 if crowded else 2.4))
    layer = passers_by.bystanders(rng, (w, h), place, depths, count)
    passers_by.overhead(rng, layer)
    return layer


def _compose(
    rng: np.random.Generator,
    faces: Faces,
    camera: Camera,
    light: Light,
    seen: Rendering,
    front: Image.Image,
    water: bool,
) -> Image.Image:
    """Background, ground, landmark and what is in front of it, lit, before the film."""
    h, w = seen.face.shape
    horizon = surroundings.horizon_line(camera, w)
    low, high = faces.bounds
    _, depth = camera.project((low + high) / 2)
    back = surroundings.sky(rng, light, w, h, float(horizon.mean()))
    surroundings.backdrop(rng, back, light, horizon, camera.focal / float(depth))
    surroundings.ground(rng, camera, light, back, horizon, faces, water)
    picture = np.array(back, np.float32)
    _paste(picture, _bystanders(rng, camera, faces, w, h, behind=True), light)

    own, lamp = seen.colours()
    face = seen.face.clip(0)
    if light.weather == "snow":
        white = ((faces.normals[:, 1] - 0.25) * 1.1).clip(0, 0.9).astype(np.float32)
        own += (235 - own) * white[face][..., None]
    lit = own * light.shade(faces.normals).astype(np.float32)[face]
    if light.glow > 0:
        lit += (np.array([255, 214, 140], np.float32) - lit) * (lamp * np.float32(light.glow))
    if light.weather == "fog":
        thick, air = rng.uniform(0.15, 0.6), light.horizon.astype(np.float32)
        lit += (air - lit) * np.float32(thick)
        picture += (air - picture) * np.float32(min(thick + 0.2, 1.0))
    np.copyto(picture, lit, where=seen.mask[..., None])
    _paste(picture, front, light)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _paste(picture: np.ndarray, layer: Image.Image, light: Light) -> None:
    """Pastes an RGBA layer of flat, unlit things on a float32 picture, in place."""
    rgba = np.asarray(layer)
    there = rgba[..., 3] >= 128
    picture[there] = rgba[there][:, :3] * light.flat


def _develop(rng: np.random.Generator, picture: Image.Image, light: Light) -> bytes:
    """From the scene to the bytes of a JPEG: falling rain or snow, lens, film, compression."""
    if light.weather in ("rain", "snow"):
        picture = _falling(rng, picture, light)
    blur = abs(rng.normal(0, 0.4)) * (max(picture.size) / 128) ** 0.7
    if blur > 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    rgb = np.asarray(picture, np.float32) / 255
    # Automatic exposure corrects half of the difference; the photographer adds an error.
    rgb *= (0.44 / max(float(rgb.mean()), 0.05)) ** 0.5 * 2 ** rng.normal(0, 0.2)
    # A wrong white balance errs from blue to yellow more than from green to magenta.
    warm, green = rng.normal(0, 0.075), rng.normal(0, 0.025)
    rgb *= np.exp([warm - green, green, -warm - green])
    grey = rgb @ np.array([0.3, 0.59, 0.11])
    saturation = 0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.3)
    rgb = grey[..., None] + (rgb - grey[..., None]) * saturation
    if saturation == 0 and rng.random() < 0.5:
        rgb *= (1.1, 0.96, 0.76)
    rgb = np.clip(rgb, 0, None) ** np.exp(rng.normal(0, 0.14))
    rgb = 0.5 + (rgb - 0.5) * rng.uniform(0.82, 1.18)
    h, w = grey.shape
    if rng.random() < 0.3:
        y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        rgb *= 1 - rng.uniform(0.1, 0.4) * (x**2 + y**2)[..., None] / 2
    grain = rng.uniform(0.0, 0.012) * (2.0 if light.time == "night" else 1.0)
    rgb += rng.normal(0, 1, (h, w, 1)) * grain + rng.normal(0, 1, (h, w, 3)) * grain * 0.6
    out = Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
    file = io.BytesIO()
    out.save(file, "JPEG", quality=int(rng.integers(45, 93)))
    return file.getvalue()


def _falling(rng: np.random.Generator, picture: Image.Image, light: Light) -> Image.Image:
    w, h = picture.size
    unit = max(w, h) / 128
    flakes = Image.new("L", (w, h))
    draw = ImageDraw.Draw(flakes)
    slant = rng.normal(0, 0.25)
    if light.weather == "rain":
        for x, y in rng.random((int(rng.integers(60, 180)), 2)) * (w, h):
            length = rng.uniform(4, 11) * unit
            draw.line([(x, y), (x + slant * length, y + length)], fill=int(rng.integers(50, 130)))
    else:
        for x, y in rng.random((int(rng.integers(80, 260)), 2)) * (w, h):
            r = unit * rng.uniform(0.25, 1.1)
            draw.ellipse([x - r, y - r, x + r, y + r], fill=int(rng.integers(120, 240)))
    flakes = flakes.filter(ImageFilter.GaussianBlur(0.4 * unit))
    tone = tuple(int(c) for c in np.clip(235 * np.clip(light.flat * 1.2, 0.25, 1), 0, 255))
    return Image.composite(Image.new("RGB", (w, h), tone), picture, flakes)
