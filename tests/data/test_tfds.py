"""TFDS data sets without TensorFlow: built by TFDS itself in the test, then read as `tfds:NAME`."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.headers import check_dataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.loader import BatchLoader
from dir_jax.data.samplers import Listed
from dir_jax.errors import UserError

SIZES = {"train": 12, "test": 5}


def picture(split: str, i: int) -> np.ndarray:
    rng = np.random.default_rng((len(split), i))
    return rng.integers(256, size=(10 + i, 20, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    """A folder with the data sets `tiny_landmarks` and `no_pictures`, prepared by TFDS."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyLandmarks(tfds.core.GeneratorBasedBuilder):
        code_path = None  # finding it takes importlib_resources, which TFDS does not require
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["arch", "bridge", "castle", "dome"]),
                "id": np.int64,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in SIZES}

        def _generate_examples(self, split):
            for i in range(SIZES[split]):
                yield i, {"image": png(picture(split, i)), "label": i % 3, "id": i}

    class NoPictures(tfds.core.GeneratorBasedBuilder):
        code_path = None
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"text": "hello"}

    folder = str(tmp_path_factory.mktemp("tfds"))
    for builder in (TinyLandmarks, NoPictures):
        builder(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


@pytest.mark.parametrize(
    ("suffix", "split"), [("", "train"), (":train", "train"), (":test", "test")]
)
def test_round_trip(data_dir, suffix, split):
    dataset = create_dataset(f"tfds:tiny_landmarks{suffix}", db_root=data_dir)
    assert isinstance(dataset, LabelledDataset)
    assert len(dataset) == SIZES[split]
    assert dataset.classes == ["arch", "bridge", "castle", "dome"]  # one has no images
    assert dataset.labels.dtype == np.int32
    # TFDS shuffles as it writes: each picture must be there once, with its own label and size.
    found = {}
    for j in range(len(dataset)):
        pixels = np.asarray(dataset.open(j))
        assert dataset.size(j) == (pixels.shape[1], pixels.shape[0])
        found[len(pixels) - 10] = (pixels, dataset.labels[j])
    assert sorted(found) == list(range(SIZES[split]))
    for i, (pixels, label) in found.items():
        np.testing.assert_array_equal(pixels, picture(split, i))
        assert label == i % 3
    assert check_dataset(dataset).shape == (SIZES[split], 2)


def test_pictures_are_in_the_formats_of_every_picture(data_dir, monkeypatch):
    """PostScript, for which Pillow would start another program, is refused here, too."""
    dataset = create_dataset("tfds:tiny_landmarks", db_root=data_dir)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshow\n"
    monkeypatch.setattr(dataset, "_source", [{"image": postscript}])
    for call in (dataset.open, dataset.size):
        with pytest.raises(UserError, match=r"train#0 is not an image in a supported format"):
            call(0)


def test_version_and_part_of_a_split(data_dir):
    assert len(create_dataset("tfds:tiny_landmarks:1.2.0", db_root=data_dir)) == 12
    part = create_dataset("tfds:tiny_landmarks:1.2.0:train[:50%]", db_root=data_dir)
    assert len(part) == 6
    assert len(create_dataset("tfds:tiny_landmarks:train[:25%]+test", db_root=data_dir)) == 8


def test_folder_of_the_environment(data_dir):
    """TFDS_DATA_DIR is where TFDS looks by default; it reads it as it is imported."""
    code = "from dir_jax.data.datasets import *; print(len(create_dataset('tfds:tiny_landmarks')))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"TFDS_DATA_DIR": data_dir, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "12\n", run.stderr


def test_pickled_copy_opens_the_files_again(data_dir):
    dataset = create_dataset("tfds:tiny_landmarks", db_root=data_dir)
    content = pickle.dumps(dataset)
    assert len(content) < 5000  # no pictures, no readers
    again = pickle.loads(content)
    np.testing.assert_array_equal(np.asarray(again.open(3)), np.asarray(dataset.open(3)))
    np.testing.assert_array_equal(again.labels, dataset.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_in_the_loader(data_dir, workers):
    dataset = create_dataset("tfds:tiny_landmarks", db_root=data_dir)
    order = np.array([7, 0, 11, 3])
    with BatchLoader(
        dataset,
        lambda image, rng: image.crop((0, 0, 8, 8)),
        Listed(order, 4),
        seed=0,
        rows=np.arange(4),
        unit=2,
        start_step=0,
        stop_step=1,
        num_workers=workers,
        prefetch=2,
    ) as loader:
        images = np.concatenate(list(loader))
    np.testing.assert_array_equal(
        images, [np.asarray(dataset.open(i))[:8, :8] for i in order.tolist()]
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:tiny_landmark", "TFDS does not know the data set 'tiny_landmark'"),
        ("tfds:oxford_flower102", "did you mean oxford_flowers102"),
        ("tfds:tiny_landmarks:valid", "no split 'valid'; it has train, test"),
        ("tfds:../tiny_landmarks", "does not name a data set"),
        ("tfds:huggingface:x", "TFDS does not know the data set 'huggingface'"),
        ("tfds:tiny_landmarks/a=1,b=2", "does not name a data set"),
        ("tfds:tiny_landmarks:9.9.9", "tiny_landmarks:9.9.9"),
        (
            "tfds:no_pictures",
            "has the features text; expected an 'image' that is a picture and a 'label'",
        ),
        ("tfds:mnist", r"is not prepared in .*builder\('mnist', .*download_and_prepare\(\)"),
        ("tfds:", "expected tfds:NAME"),
        ("tfds:tiny_landmarks:train[5:5]", "tfds:tiny_landmarks"),
        ("tfds:tiny_landmarks:train[5:2]", "tfds:tiny_landmarks:train.5:2. cannot be read"),
        ("tfds:tiny_landmarks:train[", "tiny_landmarks has no split 'train.'; it has"),
        ("tfds:tiny_landmarks:train[:1e9%]", "no split"),
        (f"tfds:tiny_landmarks:train[:{'9' * 50}%]", "tiny_landmarks"),
        (f"tfds:tiny_landmarks:train[{'9' * 50}:]", "tiny_landmarks"),
        (f"tfds:tiny_landmarks:{'train+' * 30}", "does not name a data set"),
        ("tfds:" + "a" * 9000, "does not name a data set"),
    ],
)
def test_bad_names(data_dir, spec, message):
    with pytest.raises(UserError, match=message):
        create_dataset(spec, db_root=data_dir)


def test_no_tensorflow_is_needed(data_dir):
    create_dataset("tfds:tiny_landmarks", db_root=data_dir)
    assert "tensorflow" not in sys.modules


@pytest.fixture
def features(data_dir, tmp_path) -> Path:
    """The features.json of a copy of `tiny_landmarks`, which lies in tmp_path / 'tfds'."""
    shutil.copytree(Path(data_dir) / "tiny_landmarks", tmp_path / "tfds" / "tiny_landmarks")
    (file,) = tmp_path.glob("tfds/*/*/features.json")
    return file


@pytest.mark.parametrize(
    "bad",
    [
        {"pythonClassName": "planted.Feature"},
        {"python_class_name": "planted.Feature"},
        {"type": "planted.Feature", "content": "{}"},  # as older versions wrote it
        {"jsonFeature": {"json": json.dumps({"type": "planted.Feature"})}},
        {"features": [{"pythonClassName": "planted.Feature"}]},
    ],
    ids=str,
)
def test_a_class_that_a_file_names_is_not_imported(features, tmp_path, monkeypatch, bad):
    """TFDS would import `planted`, which lies in the working directory."""
    (tmp_path / "planted.py").write_text("open('it_ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    features.write_text(json.dumps({**json.loads(features.read_text()), **bad}))
    with pytest.raises(UserError, match=r"features\.json names the class 'planted\.Feature'"):
        create_dataset("tfds:tiny_landmarks", db_root=str(tmp_path / "tfds"))
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"jsonFeature": {"json": "{"}}', "\x00"])
def test_damaged_features(features, tmp_path, text):
    features.write_text(text)
    with pytest.raises(UserError, match=r"features\.json") as caught:
        create_dataset("tfds:tiny_landmarks", db_root=str(tmp_path / "tfds"))
    assert len(str(caught.value)) < 600
