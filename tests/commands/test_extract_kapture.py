"""Global features that the kapture package reads back."""

import sys

import kapture
import numpy as np
import pytest
from kapture.io.csv import get_all_tar_handlers, kapture_from_dir, kapture_to_dir
from kapture.io.features import get_global_features_fullpath, image_global_features_from_file
from PIL import Image

import dir_jax
from dir_jax import extract_kapture
from dir_jax.checkpoint import save_model
from dir_jax.commands.running import run_parsed
from dir_jax.models import create_model

ALONE = 2e-6  # what a batch of another size may change: the order of sums
NAMES = ["a/0.png", "a/1.png", "b c/ü.png", "3.png"]


@pytest.fixture
def dataset(tmp_path):
    """A kapture dataset with four images of two sizes, and a model beside it."""
    root = tmp_path / "dataset"
    rng = np.random.default_rng(0)
    records = kapture.RecordsCamera()
    for i, name in enumerate(NAMES):
        path = root / "sensors" / "records_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 48 + 8 * (i % 2), 3), np.uint8)
        Image.fromarray(pixels).save(path)
        records[i, "camera"] = name
    sensors = kapture.Sensors()
    sensors["camera"] = kapture.Camera(kapture.CameraType.UNKNOWN_CAMERA, [56, 40])
    kapture_to_dir(str(root), kapture.Kapture(sensors=sensors, records_camera=records))
    save_model(tmp_path / "net", create_model("resnet18_rmac", out_dim=8))
    return root


@pytest.fixture
def run(dataset, monkeypatch, capsys):
    """Runs the command: `run(*flags) -> (exit code, standard output, standard error)`."""

    def call(*flags):
        argv = ["extract_kapture", "--kapture-root", str(dataset),
                "--checkpoint", str(dataset.parent / "net"), *flags]  # fmt: skip
        monkeypatch.setattr(sys, "argv", argv)
        code = run_parsed(extract_kapture._parser(), extract_kapture._main)
        return code, *capsys.readouterr()

    return call


def read_back(root, kind):
    """(features' description, name -> vector), by the kapture package alone."""
    with get_all_tar_handlers(str(root)) as tars:
        data = kapture_from_dir(str(root), tar_handlers=tars)
        features = data.global_features[kind]
        vectors = {
            name: image_global_features_from_file(
                get_global_features_fullpath(kind, str(root), name, tars),
                features.dtype,
                features.dsize,
            ).ravel()
            for name in features
        }
    return features, vectors


def expected(root):
    paths = [root / "sensors" / "records_data" / name for name in NAMES]
    return dict(zip(NAMES, dir_jax.load(root.parent / "net").extract(paths), strict=True))


def test_kapture_reads_them_back(dataset, run):
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 4 images")
    features, vectors = read_back(dataset, "net")  # the checkpoint's base name
    assert (features.dsize, features.metric_type) == (8, "L2")
    assert vectors.keys() == set(NAMES)
    for name, vector in expected(dataset).items():
        np.testing.assert_allclose(vectors[name], vector, rtol=0, atol=ALONE)
    assert not list(dataset.glob(".dir_jax*"))
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "All global features are already extracted")


def test_only_what_is_missing(dataset, run):
    run("--global-features-type", "mine")
    folder = dataset / "reconstruction" / "global_features" / "mine"
    files = sorted(folder.rglob("*.gfeat"))
    assert len(files) == 4
    _, before = read_back(dataset, "mine")
    kept = files[1].stat().st_mtime_ns
    files[0].unlink()
    _, out, _ = run("--global-features-type", "mine")
    assert out.splitlines()[-1] == "Features extracted: 1 images"
    _, after = read_back(dataset, "mine")
    assert after.keys() == before.keys()
    for name, vector in before.items():
        np.testing.assert_allclose(after[name], vector, rtol=0, atol=ALONE)
    assert files[1].stat().st_mtime_ns == kept


def test_a_run_that_was_killed_while_writing_is_not_complete(dataset, run):
    run()
    folder = dataset / "reconstruction" / "global_features" / "net"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (folder / "global_features.txt").unlink()  # written last
    next(iter(folder.rglob("*.gfeat"))).unlink()
    run()
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_into_a_tar_file(dataset, run):
    run()
    folder = dataset / "reconstruction" / "global_features" / "net"
    _, before = read_back(dataset, "net")
    import tarfile

    missing = folder / "3.png.gfeat"
    missing.unlink()
    files = sorted(folder.rglob("*.gfeat"))
    with tarfile.open(folder / "global_features.tar", "w") as tar:
        for file in files:
            tar.add(file, file.relative_to(folder))
    for file in files:
        file.unlink()
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 1 images")
    _, after = read_back(dataset, "net")
    assert after.keys() == before.keys()
    for name, vector in before.items():
        np.testing.assert_allclose(after[name], vector, rtol=0, atol=ALONE)


def test_features_of_another_size_are_refused(dataset, run):
    run()
    save_model(dataset.parent / "wide" / "net", create_model("resnet18_rmac", out_dim=16))
    (dataset / "reconstruction/global_features/net/3.png.gfeat").unlink()
    wide = str(dataset.parent / "wide" / "net")
    code, _, err = run("--global-features-type", "net", "--checkpoint", wide)
    assert code == 2
    assert "are 8 float32; these would be 16 float32" in err


def test_an_image_that_cannot_be_used(dataset, run):
    (dataset / "sensors/records_data/3.png").write_text("no image")
    code, _, err = run()
    assert code == 2
    assert "3.png is not an image" in err
    assert not (dataset / "reconstruction").exists()
    code, out, err = run("--on-error", "skip")
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 3 images")
    assert "3.png is not an image" in err
    assert set(read_back(dataset, "net")[1]) == set(NAMES[:3])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kapture-root", "/nowhere"], "not a kapture dataset"),
        (["--global-features-type", "a/b"], "not a valid folder name"),
        (["--checkpoint", "/nowhere"], "no checkpoint"),
        (["--whiten", "Landmarks_clean"], "it has none"),
        (["--trfs", "Scale(12"], "--trfs"),
    ],
)
def test_bad_input(run, dataset, flags, message):
    code, _, err = run(*flags)
    assert code == 2
    assert message in err
    assert not (dataset / "reconstruction").exists()


def test_without_the_package(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "kapture", None)
    code, _, err = run()
    assert code == 2
    assert "pip install kapture" in err
