"""The Python interface, as the README shows it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

import dir_jax
from dir_jax.checkpoint import save_model
from dir_jax.data.datasets import create_dataset
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.retrieval.whitening import learn_whitening


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of a few sizes, a labelled list of them, and a model with a whitening."""
    path = tmp_path_factory.mktemp("api")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        size = (40 + 8 * (i % 3), 56 - 8 * (i % 2), 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path / f"{i}.png")
        rows.append(f"{i}.png {i % 4}\n")
    (path / "list.txt").write_text("".join(rows))
    model = create_model("resnet18_rmac", out_dim=16)
    whitening = learn_whitening(rng.standard_normal((50, 16)))
    save_model(path / "model", model, whitenings={"set": whitening})
    return path


@pytest.fixture(scope="module")
def model(folder):
    return dir_jax.load(folder / "model")


def test_paths_pictures_and_arrays_are_the_same(folder, model):
    paths = [folder / f"{i}.png" for i in range(5)]
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    from_paths, from_pictures, from_arrays = map(model.extract, (paths, pictures, arrays))
    assert from_paths.shape == (5, 16)
    assert from_paths.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(from_paths, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(from_paths, from_pictures)
    np.testing.assert_array_equal(from_paths, from_arrays)
    alone = np.concatenate([model.extract([path]) for path in paths])
    np.testing.assert_allclose(from_paths, alone, rtol=0, atol=2e-6)


def test_one_picture_and_any_iterable(folder, model):
    paths = [folder / f"{i}.png" for i in range(3)]
    expected = model.extract(paths)
    picture = Image.open(paths[0])
    for one in (paths[0], str(paths[0]), picture, np.asarray(picture)):
        found = model.extract(one)
        assert found.shape == (1, 16)
        np.testing.assert_allclose(found, expected[:1], rtol=0, atol=2e-6)
    several = (str(p) for p in paths), dict.fromkeys(paths), np.array(paths, object), iter(paths)
    for images in several:
        np.testing.assert_array_equal(model.extract(images), expected)
    stack = np.zeros((2, 40, 40, 3), np.uint8)
    np.testing.assert_array_equal(model.extract(stack), model.extract(list(stack)))


def test_home_is_known(folder, model, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    expected = model.extract([folder / "0.png"])
    for images in ("~/0.png", ["~/0.png"]):
        np.testing.assert_array_equal(dir_jax.load("~/model").extract(images), expected)


def test_options_in_place_of_the_models_own(folder, model):
    half = dir_jax.load(folder / "model", dtype="bfloat16")
    paths = [folder / f"{i}.png" for i in range(4)]
    exact, rough = model.extract(paths), half.extract(paths)
    assert rough.dtype == np.float32
    cosines = np.sum(exact * rough, axis=1)
    # Eight bits of mantissa, through eighteen layers; but bits were lost.
    assert 0.99 < cosines.min() < 1 - 1e-6
    with pytest.raises(UserError, match="'float32' or 'bfloat16'"):
        dir_jax.load(folder / "model", dtype="float16")
    with pytest.raises(UserError, match="no model option 'half'"):
        dir_jax.load(folder / "model", half=True)


def test_data_sets_by_words_and_as_objects(folder, model):
    words = f'ImageList("{folder}/names.txt", "{folder}")'
    (folder / "names.txt").write_text("3.png\n0.png\n")
    expected = model.extract([folder / "3.png", folder / "0.png"])
    np.testing.assert_array_equal(model.extract(words), expected)
    np.testing.assert_array_equal(model.extract(create_dataset(words)), expected)


def test_whitening_and_scales(folder, model):
    assert model.whitenings == ["set"]
    paths = [folder / f"{i}.png" for i in range(5)]
    whitened = model.extract(paths, whiten="set", whitenv=4, whitenp=0.25)
    assert whitened.shape == (5, 4)
    pooled = model.extract(paths, trfs=["", "Scale(0.5)"], pooling="mean")
    one, half = model.extract(paths), model.extract(paths, trfs="Scale(0.5)")
    mean = (one + half) / np.linalg.norm(one + half, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled, mean, rtol=0, atol=1e-6)


def test_evaluate(folder, model):
    words = f'ImageListLabels("{folder}/list.txt", "{folder}")'
    found = dir_jax.evaluate(words, model)
    recall = {f"recall@{k}" for k in (1, 2, 4, 5, 8, 10)}  # k below 12
    assert found.keys() == {"mAP", "MAP@R", "R-precision"} | recall
    assert found == dir_jax.evaluate(words, folder / "model")
    expanded = dir_jax.evaluate(words, model, aqe=(2, 3), adba=(1, 1))
    assert expanded["mAP"] != found["mAP"]
    assert dir_jax.evaluate(folder / "list.txt", model) == found


def test_an_image_that_cannot_be_used(folder, model):
    (folder / "text.jpg").write_text("no image")
    images = [folder / "0.png", folder / "text.jpg"]
    with pytest.raises(UserError, match=r"text\.jpg is not an image"):
        model.extract(images)
    found = model.extract(images, on_error="skip")
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([3], {}, "found int"),
        (3, {}, "found int"),
        (np.zeros((4, 4), np.uint8), {}, r"found uint8 \(4, 4\)"),
        ([np.zeros((4, 4, 3))], {}, "found float64"),
        ([np.zeros((4, 4), np.uint8)], {}, r"found uint8 \(4, 4\)"),
        ([], {}, "no images"),
        (["there-is-none.jpg"], {}, r"no image file there-is-none\.jpg"),
        ([np.zeros((4, 4, 3), np.uint8)], {"whiten": "other"}, "it has set"),
        ([np.zeros((4, 4, 3), np.uint8)], {"whitem": 3}, "whitenm"),
        ([np.zeros((4, 4, 3), np.uint8)], {"on_error": "ignore"}, "'skip'"),
        ([np.zeros((4, 4, 3), np.uint8)], {"trfs": "Scale(-1)"}, "Scale"),
        ([np.zeros((4, 4, 3), np.uint8)], {"pooling": "max"}, "expected gem, mean or cirtorch"),
    ],
)
def test_bad_arguments(model, images, options, message):
    with pytest.raises(UserError, match=message):
        model.extract(images, **options)


def test_a_list_cannot_be_evaluated(folder, model):
    with pytest.raises(UserError, match="nothing to evaluate"):
        dir_jax.evaluate(f'ImageList("{folder}/names.txt", "{folder}")', model)


def test_importing_the_package_does_not_import_jax():
    code = "import dir_jax, sys; assert 'jax' not in sys.modules; dir_jax.load"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nonsense"):
        _ = dir_jax.nonsense


def test_exif_turns_files_and_pictures(folder, model, tmp_path):
    upright = Image.open(folder / "0.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.png", exif=exif)
    turned = [tmp_path / "turned.png", Image.open(tmp_path / "turned.png")]
    as_seen, as_stored = model.extract([upright, stored])
    found = model.extract(turned, exif=True)
    np.testing.assert_allclose(found, [as_seen, as_seen], rtol=0, atol=2e-6)
    np.testing.assert_allclose(model.extract(turned), [as_stored, as_stored], rtol=0, atol=2e-6)
    assert np.dot(as_seen, as_stored) < 0.999
