"""What a camera sees of a mesh: every face through its own homography, nearest surface first."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from .geometry import Camera, Faces
from .paint import SOLID

_OPAQUE = SOLID // 2  # alpha of an edge
_BILINEAR = Image.Resampling.BILINEAR


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A mesh as seen by a camera, on a canvas of height H and width W.

    Attributes:
      pixels: (H, W, 4) uint8, the texture's colours times their alpha, unlit; and the alpha.
      face: (H, W) int32, the index of the face that is seen; −1 where none is.
    """

    pixels: np.ndarray
    face: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: where the mesh is."""
        return self.face >= 0

    def crop(self, x: int, y: int, width: int, height: int) -> Rendering:
        """The part of a size whose top left pixel is (x, y)."""
        part = (slice(y, y + height), slice(x, x + width))
        return Rendering(self.pixels[part], self.face[part])

    def colours(self) -> tuple[np.ndarray, np.ndarray]:
        """Unlit RGB (H, W, 3) in 0 … 255 and glow (H, W, 1) in 0 … 1, both float32."""
        alpha = self.pixels[..., 3:].astype(np.float32)
        rgb = self.pixels[..., :3] * (255 / np.maximum(alpha, _OPAQUE))
        return rgb, np.maximum(alpha - SOLID, 0) / (255 - SOLID)


def render(faces: Faces, camera: Camera, width: int, height: int) -> Rendering:
    """Renders all faces with a depth buffer.

    The inverse of a plane's depth is affine in the picture, so that a face's depth at every pixel
    costs one multiply-add.
    """
    pixels = np.zeros((height, width, 4), np.uint8)
    nearest = np.zeros((height, width), np.float32)  # 1 / depth; 0 is infinitely far
    seen = np.full((height, width), -1, np.int32)

    corners, _ = camera.project(faces.corners)
    low = np.maximum(np.floor(corners.min(1)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(1)).astype(int), (width, height))
    offset = np.einsum("fi,fi->f", faces.normals, faces.frames[:, :, 2] - camera.position)
    facing = (offset < -1e-6) | (faces.two_sided & (np.abs(offset) > 1e-6))
    x, y = np.moveaxis(corners, 2, 0)
    area = np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1)) / 2
    drawn = np.flatnonzero(facing & (high > low).all(1) & (area > 0.3))

    # Depth of the point that pixel p sees on the plane n·X = n·O: (n·(O − C)) / (n·ray(p)).
    rays = np.linalg.inv(camera.intrinsics @ camera.rotation)
    affine = ((faces.normals[drawn] @ rays) / offset[drawn, None]).astype(np.float32)
    # From a pixel of a face's box to its texture: shift, then undo the homography, then scale.
    shift = np.tile(np.eye(3), (len(drawn), 1, 1))
    shift[:, :2, 2] = low[drawn]
    to_texture = np.linalg.inv(camera.homographies(faces.frames[drawn])) @ shift
    # Texels a pixel, by area, choose the level of detail.
    detail = 0.5 * np.log2(np.maximum(faces.texels[drawn] / np.maximum(area[drawn], 1.0), 1.0))
    xs, ys = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5

    for k, f in enumerate(drawn.tolist()):
        (x0, y0), (x1, y1) = low[f].tolist(), high[f].tolist()
        size = (x1 - x0, y1 - y0)
        levels = faces.textures[faces.texture[f]]
        patch = _warp(levels[min(round(detail[k]), len(levels) - 1)], to_texture[k], size)
        outline = Image.new("1", size)
        polygon = (corners[f] - (x0 + 0.5, y0 + 0.5)).ravel().tolist()
        ImageDraw.Draw(outline).polygon(polygon, fill=1)
        a, b, c = affine[k]
        inverse = (a * xs[x0:x1] + c) + (b * ys[y0:y1])[:, None]
        here = (slice(y0, y1), slice(x0, x1))
        win = np.asarray(outline) & (patch[..., 3] > _OPAQUE) & (inverse > nearest[here])
        pixels[here][win] = patch[win]
        nearest[here][win] = inverse[win]
        seen[here][win] = f
    return Rendering(pixels, seen)


def _warp(texture: Image.Image, to_texture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 4) uint8: at pixel (x, y) the texture at (s, t) = to_texture · (x, y, 1)."""
    matrix = to_texture * np.array([[texture.width], [texture.height], [1]])
    # Pillow wants the last coefficient to be 1: zero only if the first pixel's ray is parallel to
    # the face.
    scale = matrix[2, 2] if abs(matrix[2, 2]) > 1e-12 else 1e-12
    data = (matrix / scale).ravel()[:8].tolist()
    return np.asarray(texture.transform(size, Image.Transform.PERSPECTIVE, data, _BILINEAR))
