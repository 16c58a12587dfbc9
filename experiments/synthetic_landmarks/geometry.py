"""Meshes of planar, textured faces, and the pinhole camera that looks at them.

In the world, x points right, y up and z towards the viewer of the main front, in metres; the ground
is y = 0. For the camera, x points right, y down and z forwards; the first pixel's centre is at 0.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

Vector = Sequence[float] | np.ndarray


class Mesh:
    """Planar faces with three or four corners, each with a place on a texture.

    A face lies in the plane {O + s·U + t·V}: (s, t) in [0, 1]² is the texture, s to the right and t
    down as seen from outside, so V × U points outwards.
    """

    def __init__(self) -> None:
        self.textures: list[Image.Image] = []
        self._texture_of: dict[int, int] = {}
        self._corners: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._texture: list[int] = []
        self._two_sided: list[bool] = []

    def face(
        self,
        corners: Sequence[Vector] | np.ndarray,
        frame: tuple[Vector, Vector, Vector],
        texture: Image.Image,
        two_sided: bool = False,
    ) -> None:
        """Adds one face.

        Args:
          corners: 3 or 4 points (3,), in order around the face.
          frame: U, V and O, each (3,).
          texture: An RGBA picture whose alpha is paint.HOLE, SOLID or GLOW.
          two_sided: Whether the face can be seen from behind, too.
        """
        points = np.asarray(corners, float)
        if len(points) == 3:
            points = np.concatenate([points, points[2:]])
        index = self._texture_of.setdefault(id(texture), len(self.textures))
        if index == len(self.textures):
            self.textures.append(texture)
        self._corners.append(points)
        self._frames.append(np.asarray(frame, float).T)
        self._texture.append(index)
        self._two_sided.append(two_sided)

    def quad(
        self, origin: Vector, u: Vector, v: Vector, texture: Image.Image, two_sided: bool = False
    ) -> None:
        """Adds the parallelogram of a whole texture, its top left corner at `origin`."""
        o, u, v = (np.asarray(a, float) for a in (origin, u, v))
        self.face([o, o + u, o + u + v, o + v], (u, v, o), texture, two_sided)

    def polygon(
        self,
        corners: Sequence[Vector],
        u: Vector,
        texture: Image.Image,
        two_sided: bool = False,
    ) -> None:
        """Adds a polygon that its texture just covers; `u` is the texture's direction of s.

        The corners go clockwise as seen from outside.
        """
        points = np.asarray(corners, float)
        normal = np.cross(points[2] - points[0], points[1] - points[0])
        right = np.asarray(u, float) / np.linalg.norm(u)
        down = np.cross(right, normal / np.linalg.norm(normal))
        s, t = (points - points[0]) @ right, (points - points[0]) @ down
        origin = points[0] + right * s.min() + down * t.min()
        self.face(points, (right * np.ptp(s), down * np.ptp(t), origin), texture, two_sided)

    def box(
        self,
        base: tuple[float, float, float],
        size: tuple[float, float, float],
        front: Image.Image,
        side: Image.Image | None = None,
        top: Image.Image | None = None,
    ) -> None:
        """Adds a box of size (width, height, depth) on `base`, the centre of its underside."""
        x, y, z = base
        w, h, d = size
        side = front if side is None else side
        down = (0, -h, 0)
        self.quad((x - w / 2, y + h, z + d / 2), (w, 0, 0), down, front)
        self.quad((x + w / 2, y + h, z - d / 2), (-w, 0, 0), down, front)
        self.quad((x + w / 2, y + h, z + d / 2), (0, 0, -d), down, side)
        self.quad((x - w / 2, y + h, z - d / 2), (0, 0, d), down, side)
        self.quad((x - w / 2, y + h, z - d / 2), (w, 0, 0), (0, 0, d), side if top is None else top)

    def frustum(
        self,
        base: tuple[float, float, float],
        bottom: tuple[float, float],
        top: tuple[float, float],
        height: float,
        texture: Image.Image,
        two_sided: bool = False,
    ) -> None:
        """Adds a hipped roof or a pyramid; `bottom`, `top`: the (width, depth) of its ends."""
        x, y, z = base
        rings = []
        for (w, d), level in ((bottom, y), (top, y + height)):
            xs, zs = (-w / 2, w / 2, w / 2, -w / 2), (d / 2, d / 2, -d / 2, -d / 2)
            rings.append([(x + a, level, z + b) for a, b in zip(xs, zs, strict=True)])
        low, high = rings
        for i, u in enumerate(((1, 0, 0), (0, 0, -1), (-1, 0, 0), (0, 0, 1))):
            j = (i + 1) % 4
            ring = [high[i], high[j], low[j], low[i]]
            if high[i] == high[j]:
                ring = [high[i], low[j], low[i]]
            self.polygon(ring, u, texture, two_sided)
        if min(top) > 0:
            self.quad(high[3], (top[0], 0, 0), (0, 0, top[1]), texture, two_sided)

    def gable(
        self,
        base: tuple[float, float, float],
        size: tuple[float, float, float],
        roof: Image.Image,
        wall: Image.Image,
        *,
        along_x: bool = False,
        eaves: float = 0.4,
    ) -> None:
        """Adds a pitched roof over the top of a box, with its ridge along z (or x).

        `base` is the centre of its underside, `size` the (width, height, depth) of the whole.
        """
        x, y, z = base
        w, h, d = size
        turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]) if along_x else np.eye(3)
        if along_x:
            w, d = d, w

        def at(a: float, b: float, c: float) -> np.ndarray:
            return turn @ (a, b, c) + (x, y, z)

        drop = eaves * h / (w / 2)
        out = w / 2 + eaves
        end = d / 2 + eaves
        for sign in (1, -1):
            self.polygon(
                [
                    at(-w / 2 * sign, 0, d / 2 * sign),
                    at(0, h, d / 2 * sign),
                    at(w / 2 * sign, 0, d / 2 * sign),
                ],
                turn @ (sign, 0, 0),
                wall,
            )
            slope = (out * sign, -(h + drop), 0)
            self.quad(
                at(0, h, end * sign), turn @ (0, 0, -2 * end * sign), turn @ slope, roof, True
            )

    def lathe(
        self,
        base: tuple[float, float, float],
        profile: Sequence[tuple[float, float]],
        texture: Image.Image,
        *,
        sides: int = 14,
        stretch: float = 1.0,
        turn: float = 0.0,
    ) -> None:
        """Adds a surface of revolution about a vertical axis.

        Args:
          base: The centre of its foot.
          profile: (radius, height) from its foot to its top; the texture's t follows its length.
          texture: Wrapped once around, with its middle towards the viewer.
          sides: The number of faces around it.
          stretch: The depth of its outline over the width.
          turn: The rotation about its axis in radians.
        """
        rings = np.asarray(profile, float)
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(rings, axis=0).T))])
        level = 1 - length / length[-1]
        angle = (np.arange(sides + 1) / sides - 0.5) * 2 * np.pi + turn
        circle = np.stack([np.sin(angle), 0 * angle, np.cos(angle) * stretch], 1)
        centre = np.asarray(base, float)
        for k in range(len(rings) - 1):
            (r0, y0), (r1, y1) = rings[k], rings[k + 1]
            low, high = centre + circle * r0 + (0, y0, 0), centre + circle * r1 + (0, y1, 0)
            for i in range(sides):
                corners = [high[i], high[i + 1], low[i + 1], low[i]]
                if r1 == 0:
                    corners = [high[i], low[i + 1], low[i]]
                if r0 == 0:
                    corners = [high[i], high[i + 1], low[i]]
                wide = (low if r0 >= r1 else high)[i : i + 2]
                u = (wide[1] - wide[0]) * sides
                middle_low, middle_high = low[i : i + 2].mean(0), high[i : i + 2].mean(0)
                v = (middle_low - middle_high) / (level[k] - level[k + 1])
                origin = middle_high - u * (i + 0.5) / sides - v * level[k + 1]
                self.face(corners, (u, v, origin), texture)

    def add(self, other: Mesh, at: Vector = (0, 0, 0), turn: float = 0.0) -> None:
        """Adds a copy of another mesh, turned about the vertical axis (radians), then moved."""
        c, s = np.cos(turn), np.sin(turn)
        rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        move = np.asarray(at, float)
        for corners, frame, texture, two_sided in zip(
            other._corners, other._frames, other._texture, other._two_sided, strict=True
        ):
            u, v, o = (rotation @ frame).T
            self.face(
                corners @ rotation.T + move, (u, v, o + move), other.textures[texture], two_sided
            )

    def arrays(self) -> Faces:
        """All faces as arrays, ready to be rendered."""
        frames = np.stack(self._frames)
        corners, texture = np.stack(self._corners), np.array(self._texture)
        normals = np.cross(frames[:, :, 1], frames[:, :, 0])
        whole = np.linalg.norm(normals, axis=1)
        diagonals = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
        covered = np.linalg.norm(np.cross(*diagonals), axis=1) / 2
        sizes = np.array([t.width * t.height for t in self.textures])
        return Faces(
            corners=corners,
            frames=frames,
            normals=normals / whole[:, None],
            texture=texture,
            texels=sizes[texture] * covered / whole,
            two_sided=np.array(self._two_sided),
            textures=[_pyramid(t) for t in self.textures],
        )


@dataclasses.dataclass(frozen=True)
class Faces:
    """A mesh of F faces as arrays.

    Attributes:
      corners: (F, 4, 3); the last corner of a triangle is repeated.
      frames: (F, 3, 3), with the columns U, V, O.
      normals: (F, 3) outward unit normals.
      texture: (F,) indices into `textures`.
      two_sided: (F,) bool, whether each face can be seen from behind.
      texels: (F,) the number of texture pixels on each face.
      textures: For each texture, its pictures at 1, 1/2, 1/4, … of its size, their colours
        multiplied by alpha.
    """

    corners: np.ndarray
    frames: np.ndarray
    normals: np.ndarray
    texture: np.ndarray
    two_sided: np.ndarray
    texels: np.ndarray
    textures: list[list[Image.Image]]

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and highest corner of the box that holds all faces, each (3,)."""
        points = self.corners.reshape(-1, 3)
        return points.min(0), points.max(0)


def _pyramid(texture: Image.Image) -> list[Image.Image]:
    levels = [texture]
    while min(levels[-1].size) > 2 and len(levels) < 6:
        levels.append(levels[-1].reduce(2))
    # Pillow interpolates premultiplied colours, and would convert them at every use.
    return [level.convert("RGBa") for level in levels]


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
      position: (3,) in metres.
      rotation: (3, 3), from world to camera; its last row is the optical axis.
      focal: The focal length in pixels.
      centre: The principal point (x, y) in pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    centre: tuple[float, float]

    @property
    def axis(self) -> np.ndarray:
        """The optical axis, a unit vector (3,)."""
        return self.rotation[2]

    @property
    def intrinsics(self) -> np.ndarray:
        """The matrix K, (3, 3)."""
        x, y = self.centre
        return np.array([[self.focal, 0, x], [0, self.focal, y], [0, 0, 1.0]])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions (…, 2) and depths (…,) in metres of points (…, 3)."""
        local = (np.asarray(points, float) - self.position) @ self.rotation.T
        depth = local[..., 2]
        return local[..., :2] / depth[..., None] * self.focal + self.centre, depth

    def homographies(self, frames: np.ndarray) -> np.ndarray:
        """The projective maps (…, 3, 3) from (s, t, 1) in a plane to the picture.

        Args:
          frames: (…, 3, 3), the columns U, V, O of planes {O + s·U + t·V}.
        """
        moved = np.array(frames, float)
        moved[..., 2] -= self.position
        return self.intrinsics @ self.rotation @ moved

    def horizon(self, x: float) -> float:
        """The horizon's y in the picture's column x."""
        # A level direction d has d · up = 0; pixel (x, y) looks along Rᵀ K⁻¹ (x, y, 1).
        up = self.rotation[:, 1]
        return self.centre[1] - (up[0] * (x - self.centre[0]) + up[2] * self.focal) / up[1]


def look_at(position: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """World-to-camera rotation (3, 3) of a camera at `position` that looks at `target`.

    Args:
      position: (3,) where the camera is.
      target: (3,) the point that it looks at.
      roll: The angle in radians by which the picture's content turns clockwise.
    """
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.stack([right, down, forward])
