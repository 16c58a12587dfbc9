"""Global features that the kapture package reads back."""

import io
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
from dir_jax.errors import UserError
from dir_jax.models import create_model

ALONE = 2e-6  # what a batch of another size may change: the order of sums
NAMES = ["a/0.png", "a/1.png", "b c/ü.png", "3.png"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The folder of a model; its name is 'net'."""
    folder = tmp_path_factory.mktemp("model") / "net"
    save_model(folder, create_model("resnet18_rmac", out_dim=8))
    return folder


@pytest.fixture
def dataset(tmp_path):
    """A kapture dataset with four images of two sizes."""
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
    return root


@pytest.fixture
def run(dataset, network, monkeypatch, capsys):
    """Runs the command: `run(*flags) -> (exit code, standard output, standard error)`."""

    def call(*flags):
        argv = ["extract_kapture", "--kapture-root", str(dataset),
                "--checkpoint", str(network), *flags]  # fmt: skip
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


def expected(root, network):
    paths = [root / "sensors" / "records_data" / name for name in NAMES]
    return dict(zip(NAMES, dir_jax.load(network).extract(paths), strict=True))


def snapshot(root):
    """Path -> time and contents of everything in a folder."""
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in sorted(root.rglob("*"))}  # fmt: skip


def picture(size=(56, 40)):
    """The bytes of a PNG of noise."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_kapture_reads_them_back(dataset, network, run):
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 4 images")
    features, vectors = read_back(dataset, "net")  # the checkpoint's base name
    assert (features.dsize, features.metric_type) == (8, "L2")
    assert vectors.keys() == set(NAMES)
    for name, vector in expected(dataset, network).items():
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


@pytest.mark.parametrize(
    ("row", "there"),
    [
        ("dir_jax, float32, 16, L2", "16 float32"),
        ("dir_jax, float64, 8, L2", "8 float64"),
        ("netvlad, float32, 8, L2", "8 float32 by 'netvlad'"),
        ("dir_jax, float32, 8, cosine", "8 float32 compared by 'cosine'"),
    ],
)
def test_features_of_another_kind_are_refused(dataset, run, row, there):
    folder = dataset / "reconstruction" / "global_features" / "net"
    folder.mkdir(parents=True)
    (folder / "global_features.txt").write_text(f"# kapture format: 1.1\n{row}\n")
    before = snapshot(dataset)
    code, _, err = run()
    assert code == 2
    assert f"are {there}; these would be 8 float32: give another --global-features-type" in err
    assert snapshot(dataset) == before


def test_an_image_that_cannot_be_used(dataset, run):
    image = dataset / "sensors/records_data/3.png"
    good = image.read_bytes()
    image.write_text("no image")
    code, _, err = run()
    assert code == 2
    assert "3.png is not an image" in err
    assert not (dataset / "reconstruction").exists()
    code, out, err = run("--on-error", "skip")
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 3 images")
    assert "3.png is not an image" in err
    assert set(read_back(dataset, "net")[1]) == set(NAMES[:3])
    before = snapshot(dataset)
    code, out, err = run("--on-error", "skip")
    done = "All global features are already extracted, but for the images left out"
    assert (code, out.splitlines()[-1]) == (0, done)
    assert "left out: " in err
    assert run()[0] == 2
    assert snapshot(dataset) == before
    image.write_bytes(good)
    code, out, _ = run("--on-error", "skip")
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 1 images")
    assert set(read_back(dataset, "net")[1]) == set(NAMES)


def test_images_of_which_only_the_headers_can_be_read(dataset, run):
    images = [dataset / "sensors/records_data" / name for name in NAMES]
    good = [image.read_bytes() for image in images]
    for image, content in zip(images, good, strict=True):
        image.write_bytes(content[: len(content) // 2])
    before = snapshot(dataset)
    for flags in ([], ["--on-error", "skip"]):
        code, _, err = run(*flags)
        assert code == 2
        assert "0.png" in err
        assert snapshot(dataset) == before  # no folder of unfinished work
    for image, content in zip(images, good, strict=True):
        image.write_bytes(content)
    code, out, _ = run("--on-error", "skip")
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 4 images")


@pytest.fixture
def broken_off(dataset, run, monkeypatch):
    """A run that was stopped after it had described the images, before it wrote features."""

    def stop(*args):
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("dir_jax.describe.feature_files.save_kapture", stop)
        assert run()[0] == 2
    assert (dataset / ".dir_jax-net.partial" / "describe.batches").stat().st_size > 0


@pytest.mark.usefixtures("broken_off")
def test_a_run_resumes(dataset, run, monkeypatch):
    monkeypatch.delattr("dir_jax.describe.padded_loader.PaddedLoader.__call__")
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 4 images")
    assert not list(dataset.glob(".dir_jax*"))


@pytest.mark.usefixtures("broken_off")
@pytest.mark.parametrize("size", [(90, 70), (56, 40)])  # it had the latter
def test_the_same_command_goes_on_after_an_image_was_replaced(dataset, network, run, size):
    (dataset / "sensors/records_data/3.png").write_bytes(picture(size))
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 4 images")
    _, vectors = read_back(dataset, "net")
    for name, vector in expected(dataset, network).items():
        np.testing.assert_allclose(vectors[name], vector, rtol=0, atol=ALONE)


@pytest.mark.usefixtures("broken_off")
def test_other_flags_do_not_go_on(dataset, run):
    before = snapshot(dataset)
    code, _, err = run("--trfs", "Scale(32)")
    assert code == 2
    assert "differs in batches, transforms; finish it" in err
    assert snapshot(dataset).keys() == before.keys()


def rewrite(name, old, new):
    def change(root):
        file = root / "sensors" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rewrite("sensors.txt", "# kapture format: 1.1\n", ""), "does not say its format"),
        (rewrite("sensors.txt", "1.1", "1.0"), "is of kapture format 1.0"),
        (rewrite("sensors.txt", "UNKNOWN_CAMERA", "GOPRO"), "has the unknown model 'GOPRO'"),
        (rewrite("sensors.txt", ", 56, 40", ""), "has 0 parameters; UNKNOWN_CAMERA has 2"),
        (rewrite("sensors.txt", ", UNKNOWN_CAMERA, 56, 40", ""), "has no model"),
        (lambda root: (root / "sensors/sensors.txt").unlink(), "it has no sensors/sensors.txt"),
        (lambda root: (root / "sensors/records_camera.txt").unlink(), "has no images"),
        (rewrite("records_camera.txt", "3.png", "../../../3.png"), "is not a name inside"),
        (rewrite("records_camera.txt", "3.png", "/tmp/3.png"), "is not a name inside"),
    ],
)
@pytest.mark.parametrize("extracted", [False, True])
def test_damaged_datasets_are_one_line_and_nothing_changes(
    dataset, run, damage, message, extracted
):
    folder = dataset / "reconstruction" / "global_features" / "net"
    if extracted:
        folder.mkdir(parents=True)
        (folder / "global_features.txt").write_text(
            "# kapture format: 1.1\ndirtorch, float32, 2048, L2\n"
        )
    damage(dataset)
    (dataset.parent / "3.png").write_bytes(picture())
    before = snapshot(dataset.parent)
    code, _, err = run()
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert snapshot(dataset.parent) == before


@pytest.mark.parametrize("checkpoint", [[], ["--checkpoint", "/nowhere"]])
def test_nothing_in_a_dataset_runs(dataset, run, monkeypatch, checkpoint):
    monkeypatch.chdir(dataset.parent)
    for kind in ("global_features", "keypoints", "descriptors"):
        folder = dataset / "reconstruction" / kind / "net"
        folder.mkdir(parents=True)
        code = "__import__('pathlib').Path('canary').touch() or float32"
        (folder / f"{kind}.txt").write_text(f"# kapture format: 1.1\nx, {code}, 8, L2, L2\n")
    code, _, err = run("--global-features-type", "net", *checkpoint)
    assert code == 2
    assert "global_features.txt, line 2: " in err
    assert run("--global-features-type", "mine", *checkpoint)[0] == (2 if checkpoint else 0)
    assert not (dataset.parent / "canary").exists()


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


def test_the_package_is_not_needed(dataset, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "kapture", None)
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "Features extracted: 4 images")


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [("timm/resnet50.tv2_in1k", "resnet50.tv2_in1k"), ("hf://a/net-v1.5", "net-v1.5"),
     ("models/ap.pt", "ap")],
)  # fmt: skip
def test_models_that_differ_after_a_dot_are_not_one_type(run, tmp_path, checkpoint, name):
    code, out, _ = run("--kapture-root", str(tmp_path / "none"), "--checkpoint", checkpoint)
    assert (code, out) == (2, f"global_features_type set to {name}\n")
