"""Meshes and cameras: faces look outwards, and the maps to the picture are true homographies."""

import numpy as np
import pytest
from PIL import Image

from experiments.synthetic_landmarks.families import FAMILIES, build_landmark
from experiments.synthetic_landmarks.geometry import Camera, Mesh, look_at


@pytest.fixture
def texture() -> Image.Image:
    return Image.new("RGBA", (16, 16), (90, 120, 150, 200))


def random_camera(rng: np.random.Generator) -> Camera:
    position = np.array([rng.uniform(-20, 20), rng.uniform(1, 20), rng.uniform(25, 50)])
    rotation = look_at(position, rng.uniform(-2, 2, 3), rng.uniform(-0.3, 0.3))
    return Camera(position, rotation, rng.uniform(80, 400), tuple(rng.uniform(40, 90, 2)))


@pytest.mark.parametrize("seed", range(5))
def test_homography_maps_the_plane_as_the_camera_projects_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    camera = random_camera(rng)
    frames = rng.uniform(-6, 6, (7, 3, 3))
    maps = camera.homographies(frames)
    for st in [(0, 0), (1, 0), (1, 1), (0, 1), *rng.uniform(0, 1, (4, 2))]:
        mapped = maps @ np.array([*st, 1.0])
        pixels, depth = camera.project(frames @ np.array([*st, 1.0]))
        # float64 throughout: only rounding separates the two ways.
        np.testing.assert_allclose(mapped[:, :2] / mapped[:, 2:], pixels, rtol=1e-10)
        np.testing.assert_allclose(mapped[:, 2], depth, rtol=1e-10)
    # Eight free parameters: the map from the four corners alone (by DLT) is the same.
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    images, _ = camera.project((frames[0] @ np.c_[corners, np.ones(4)].T).T)
    rows = []
    for (s, t), (x, y) in zip(corners, images, strict=True):
        rows += [[s, t, 1, 0, 0, 0, -x * s, -x * t, -x], [0, 0, 0, s, t, 1, -y * s, -y * t, -y]]
    solved = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
    np.testing.assert_allclose(solved / solved[2, 2], maps[0] / maps[0, 2, 2], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_camera_looks_at_its_target_and_finds_the_horizon(seed: int) -> None:
    rng = np.random.default_rng(seed)
    position, target = rng.uniform(2, 9, 3), rng.uniform(-1, 1, 3)
    rotation = look_at(position, target, 0.2)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    camera = Camera(position, rotation, 200.0, (64.0, 48.0))
    pixel, depth = camera.project(target)
    np.testing.assert_allclose(pixel, (64, 48), atol=1e-9)
    assert depth == pytest.approx(np.linalg.norm(target - position))
    np.testing.assert_allclose(camera.axis, (target - position) / depth)
    level = camera.axis * (1, 0, 1)
    far, _ = camera.project(position + 1e7 * level)
    assert camera.horizon(far[0]) == pytest.approx(far[1], abs=1e-6)
    assert camera.project(position + level * 1e7 + (0, 1e5, 0))[0][1] < far[1]  # up is up


def test_roll_turns_the_picture_clockwise() -> None:
    position = np.array([0.0, 1.0, 10.0])
    camera = Camera(position, look_at(position, np.array([0.0, 1.0, 0.0]), 0.3), 100.0, (0.0, 0.0))
    pixel, _ = camera.project(np.array([0.0, 5.0, 0.0]))
    assert pixel[0] > 0
    assert pixel[1] < 0


def test_solids_face_outwards(texture: Image.Image) -> None:
    solids = {name: Mesh() for name in ("box", "pyramid", "roof", "lathe", "turned")}
    solids["box"].box((1, 0, 2), (4, 5, 3), texture)
    solids["pyramid"].frustum((0, 0, 0), (4, 3), (0, 0), 6, texture)
    solids["roof"].frustum((0, 0, 0), (4, 3), (2, 0), 2, texture)
    solids["lathe"].lathe((1, 0, 0), [(0, 0), (2, 1), (2, 3), (0, 5)], texture, stretch=0.6)
    solids["turned"].add(solids["box"], at=(3, 0, 1), turn=0.7)
    for name, mesh in solids.items():
        faces = mesh.arrays()
        low, high = faces.bounds
        outwards = faces.corners.mean(1) - (low + high) / 2
        assert (np.einsum("fi,fi->f", outwards, faces.normals) > 0).all(), name


def test_gable_faces_outwards_along_either_axis(texture: Image.Image) -> None:
    for along_x in (False, True):
        mesh = Mesh()
        mesh.gable((0, 3, 0), (4, 2, 6), texture, texture, along_x=along_x)
        faces = mesh.arrays()
        assert len(faces.normals) == 4
        outwards = faces.corners.mean(1) - (0, 3.4, 0)
        assert (np.einsum("fi,fi->f", outwards, faces.normals) > 0).all()
        width, _, depth = faces.bounds[1] - faces.bounds[0]
        assert (width, depth) == (pytest.approx(4.8), pytest.approx(6.8))  # eaves of 0.4


@pytest.mark.parametrize(("name", "family"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_every_family_builds_sound_landmarks_that_differ(name: str, family) -> None:
    shapes = []
    for seed in (0, 0, 1, 2):
        mesh = build_landmark(family, np.random.default_rng(seed), 48)
        faces = mesh.arrays()
        low, high = faces.bounds
        assert low[1] > -1.0, "it stands on the ground"
        assert 5 < (high - low).max() < 90
        # Every corner lies in its face's plane and, save for rounding, on its texture.
        local = faces.corners - faces.frames[:, None, :, 2]
        st = np.einsum("fij,fcj->fci", np.linalg.pinv(faces.frames[:, :, :2]), local)
        distance = np.abs((local * faces.normals[:, None]).sum(-1))
        assert distance.max() < 1e-6
        assert st.min() > -1e-6
        assert st.max() < 1 + 1e-6
        shapes.append((faces.corners, [np.asarray(p[0]) for p in faces.textures]))
    first, again, *others = shapes
    np.testing.assert_array_equal(first[0], again[0])
    assert all((a == b).all() for a, b in zip(first[1], again[1], strict=True))
    for other in others:
        assert other[0].shape != first[0].shape or np.abs(other[0] - first[0]).max() > 0.1
