"""The rasteriser puts each texel where the homography says, the nearest face in front."""

import numpy as np
import pytest
from PIL import Image

from experiments.synthetic_landmarks.geometry import Camera, Mesh, look_at
from experiments.synthetic_landmarks.paint import GLOW, HOLE, SOLID
from experiments.synthetic_landmarks.raster import render

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 40), (40, 50, 210), (240, 240, 240)


def plain(colour: tuple[int, int, int], alpha: int = SOLID) -> Image.Image:
    return Image.new("RGBA", (32, 32), (*colour, alpha))


def camera_at(*position: float, size: int = 96) -> Camera:
    p = np.array(position)
    return Camera(p, look_at(p, np.array([0.0, 2.0, 0.0]), 0.1), 1.4 * size, (size / 2, size / 2))


@pytest.mark.parametrize("position", [(0, 2, 12), (7, 3, 9), (-8, 1, 7), (2, 9, 8)])
def test_texture_lands_where_the_homography_says(position: tuple[float, float, float]) -> None:
    texture = plain(RED)
    for colour, corner in ((GREEN, (16, 0)), (BLUE, (0, 16)), (WHITE, (16, 16))):
        texture.paste((*colour, SOLID), (*corner, corner[0] + 16, corner[1] + 16))
    mesh = Mesh()
    mesh.quad((-2, 4, 0), (4, 0, 0), (0, -4, 0), texture)
    camera = camera_at(*position)
    out = render(mesh.arrays(), camera, 96, 96)
    rgb, glow = out.colours()
    assert glow.max() == 0
    for s, t, colour in (
        (0.25, 0.25, RED),
        (0.75, 0.25, GREEN),
        (0.25, 0.75, BLUE),
        (0.75, 0.75, WHITE),
    ):
        (x, y), _ = camera.project(np.array([-2 + 4 * s, 4 - 4 * t, 0]))
        # Colours times alpha are kept in eight bits: ±1.3 of 255, and rounding once more.
        np.testing.assert_allclose(rgb[int(y), int(x)], colour, atol=3)
    # The mask is the projected square: its area is the polygon's, but for half-pixel edges.
    ring, _ = camera.project(np.array([(-2, 4, 0), (2, 4, 0), (2, 0, 0), (-2, 0, 0)], float))
    x, y = ring.T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    edge = np.linalg.norm(ring - np.roll(ring, -1, 0), axis=1).sum()
    assert abs(out.mask.sum() - area) < 0.6 * edge


def test_back_faces_are_seen_only_if_two_sided() -> None:
    for two_sided in (False, True):
        mesh = Mesh()
        mesh.quad((-2, 4, 0), (4, 0, 0), (0, -4, 0), plain(RED), two_sided)
        assert render(mesh.arrays(), camera_at(1, 2, 12), 96, 96).mask.any()
        assert render(mesh.arrays(), camera_at(1, 2, -12), 96, 96).mask.any() == two_sided


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nearer_faces_hide_farther_ones_and_holes_do_not(order: tuple[int, int]) -> None:
    near = plain(RED)
    near.paste((*RED, HOLE), (0, 0, 16, 32))
    quads = [((-2, 4, 1), near), ((-2, 4, -1), plain(BLUE, GLOW))]
    mesh = Mesh()
    for k in order:
        corner, texture = quads[k]
        mesh.quad(corner, (4, 0, 0), (0, -4, 0), texture)
    camera = camera_at(0, 2, 12)
    out = render(mesh.arrays(), camera, 96, 96)
    rgb, glow = out.colours()
    for x, colour, light in ((-1, BLUE, 1), (1, RED, 0)):
        (px, py), _ = camera.project(np.array([x, 2, 1.0]))
        np.testing.assert_allclose(rgb[int(py), int(px)], colour, atol=3)
        assert glow[int(py), int(px), 0] == light


def test_crop_is_a_part() -> None:
    mesh = Mesh()
    mesh.box((0, 0, 0), (3, 3, 3), plain(GREEN))
    out = render(mesh.arrays(), camera_at(5, 3, 9), 96, 96)
    part = out.crop(10, 20, 50, 40)
    np.testing.assert_array_equal(part.mask, out.mask[20:60, 10:60])
    np.testing.assert_array_equal(part.pixels, out.pixels[20:60, 10:60])
