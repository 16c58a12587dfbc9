"""The table of readers: for each kind of file, sound ones made by code, and what reading means.

A new reader of files is a row in `READERS`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from converters import reader, sources
from dir_jax.commands.recipes import load_config
from dir_jax.data import (
    benchmark_sets,
    datasets,
    gldv2_truth,
    ground_truth,
    images,
    kapture,
    labelled,
    lists,
)
from dir_jax.data.download import archives, fetch, pages
from dir_jax.data.headers import read_sizes
from dir_jax.data.transforms import Identity, parse_transforms
from dir_jax.describe.feature_files import load_descriptors
from dir_jax.describe.image_lists import ImageList, Pass
from dir_jax.describe.kapture_features import GlobalFeatures
from dir_jax.describe.padded_shapes import Batch
from dir_jax.describe.resume import PartialDescriptors
from dir_jax.describe.sharded_files import open_descriptors
from dir_jax.describe.stored_rows import StoredRows
from dir_jax.errors import UserError
from dir_jax.evaluation import check_can_be_evaluated
from dir_jax.loading import load_model
from dir_jax.models.variables import split_variables
from dir_jax.runtime.reading import read_bytes
from dir_jax.search.building import change_index, changing
from dir_jax.search.index import Index
from dir_jax.test_dir import _read_results
from dir_jax.training.config import default_config, validate_config
from dir_jax.training.run_checkpoints import RunCheckpoints
from dir_jax.training.workdir import MetricsLog, claimed_workdir
from tests.data import published
from tests.fuzz import sound
from tests.fuzz.mutators import Files


class Reader(NamedTuple):
    """A kind of file, or of text.

    Attributes:
      sound: makes sets of files that are read.
      read: reads what is in a folder, and uses it as far as can go wrong.
      damage: patterns of the files to damage; all by default.
      lines: that a message may have: texts show where the mistake is.
      exact: whether what is read must be what was written, whatever was damaged.
    """

    sound: Callable[[Path], Iterable[Files]]
    read: Callable[[Path], Any]
    damage: tuple[str, ...] = ("*",)
    lines: int = 1
    exact: bool = False


def _text(folder: Path) -> str:
    return (folder / "text.txt").read_bytes().decode(errors="surrogateescape")


# Images and lists of them.


def _read_image(folder: Path) -> None:
    dataset = images.ImageDataset(["a.jpg"], str(folder))
    dataset.size(0)
    dataset.open(0)


def _use(dataset: images.ImageDataset) -> None:
    """What commands do with a list before and after they describe it."""
    queries = getattr(dataset, "queries", None)
    for each in (dataset, queries or dataset):
        "\n".join([*each.names, *getattr(each, "classes", ())]).encode()
        read_sizes(each)
    if type(dataset) is not images.ImageDataset:
        check_can_be_evaluated(dataset)


def _read_any_list(folder: Path) -> None:
    files = [name for name in sound.LISTS if os.path.lexists(folder / name)]
    _use(datasets.create_dataset(f"{folder}/{files[0] if files else 'l.txt'}"))


def _read_labels(folder: Path) -> None:
    file = "l.json" if os.path.lexists(folder / "l.json") else "l.txt"
    _use(labelled.read_labelled_list(str(folder / file), str(folder)))


def _read_gldv2(folder: Path) -> None:
    _use(gldv2_truth.read_gldv2_retrieval(f"{folder}/ground_truth/retrieval.csv"))
    _use(gldv2_truth.read_gldv2_recognition(f"{folder}/ground_truth/recognition.csv"))


def _published_folders(folder: Path) -> Iterable[Files]:
    published.write_landmarks(folder)
    published.write_metric_learning(folder)
    published.write_distractors(folder)
    published.write_sfm(folder)
    return [sound.files_in(folder)]


def _read_published(folder: Path) -> None:
    failures = []
    for name in ("SfM120k_val", "SfM30k_whiten", "GLDv2_train", "GLDv2_train_clean", "GLDv2_test",
                 "R1M", "CUB200_test", "Cars196_train", "SOP_test", "InShop_test"):  # fmt: skip
        try:
            dataset = datasets.create_dataset(name, db_root=str(folder))
            "\n".join([*dataset.names, *getattr(dataset, "classes", ())]).encode()
        except UserError as e:
            failures.append(e)
    if failures:
        raise failures[0]


# Texts.

_TRANSFORMS = (
    "Scale(1050, interpolation=BILINEAR, largest=True), Pad(800, color=(127, 127, 127))",
    "RandomScale(32, 48, ar=1.1, can_upscale=True), RandomCrop((32, 24), padding=4), RandomFlip()",
    "ColorJitter(0.2, 0.3, saturation=0.1, hue=0.05), RandomRotation(10), RandomTilting(0.3)",
    "Scale(0.5), CenterCrop(20), PadSquare(), RandomErasing(0.3), RandomBorder(0, 4), Identity()",
)


def _read_transforms(folder: Path) -> None:
    transform = parse_transforms(_text(folder))
    assert repr(parse_transforms(repr(transform))) == repr(transform)
    _, (width, height) = transform.output_size((60, 40), (60, 40))
    if width * height < 1e7:
        transform(Image.new("RGB", (60, 40)), np.random.default_rng(0))


_OVERRIDES = (
    "--config.batch_size=64\n--config.data.train=ImageListLabels('a.txt')\n--config.model.gemp=2.5",
    "--config.data.mean=(0.1,0.2,0.3)\n--config.optimizer.name=sgd\n--config.batch_norm=trained",
    "--config.model.norm_features=true\n--noconfig.model.without_fc\n--config.whitening.power=0.5",
)


def _read_overrides(folder: Path) -> None:
    config = load_config("quickstart", _text(folder).split("\n"))
    validate_config(config)


# Models and runs.


def _digest(tree: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _read_checkpoint(folder: Path) -> str:
    found = load_model(folder)
    found.recipe.transforms()
    whitenings = {name: w.to_arrays() for name, w in found.whitenings.items()}
    return _digest([*split_variables(found.model)[1:], whitenings])


def _read_run(folder: Path) -> Any:
    run = RunCheckpoints(folder, keep=2)
    try:
        step, *trees = run.restore_newest() or (None,)
    finally:
        run.close()
    if step is None:
        return "no step"
    trees[-1]["optimizer"]["count"] -= step
    return _digest(trees)


_ROWS = b"""{"step": 0, "eval": {"mAP": 0.3}}
{"step": 1, "loss": 0.5, "lr": 1e-3, "seconds": 2.0}
{"step": 2, "loss": 0.4, "eval": {"mAP": 0.4, "recall@1": 0.5}}
{"step": 3, "loss": 0.3}
"""


def _read_metrics(folder: Path) -> None:
    with MetricsLog(folder, 2) as log:
        json.dumps(log.rows[0]["eval"])
        log.evaluation(2)
        log.write({"step": 3, "loss": 0.1})


def _read_run_config(folder: Path) -> None:
    with claimed_workdir(folder, default_config()):
        pass


# Other programs' models.


def _read_other(name: str) -> Callable[[Path], Any]:
    return lambda folder: sources.recognise(reader.read_file(folder / name))


# Descriptors and what is kept beside them.


def _partial_folders(folder: Path) -> Iterable[Files]:
    _fill(folder / "out.partial")
    return [sound.files_in(folder)]


def _fill(place: Path) -> None:
    images_ = ImageList("database", images.ImageDataset([f"{i}.jpg" for i in range(5)]), _SIZES)
    batches = [Batch((8, 8), 2, np.array(places), True) for places in ([0, 1], [2, 3])]
    todo = Pass("database", images_, Identity(), batches, {4: "it is damaged"})
    store = PartialDescriptors(place, {"checkpoint": "a", "trfs": ["Scale(800)"]}, [todo])
    try:
        sink = store.sink(todo, 3)
        for batch, each in enumerate(batches):
            if not sink.is_done(batch):
                sink.write(batch, each.places, np.ones((2, 3), np.float32), {2 * batch: "damaged"})
        np.zeros(5)[list(sink.failures)] = np.nan
        "\n".join(sink.failures.values()).encode()
        assert sink.descriptors.shape == (5, 3)
    finally:
        store.close()


_SIZES = np.full((5, 2), 8)


def _read_sharded(folder: Path) -> None:
    found = open_descriptors(folder / "out")
    for part in (found, found.queries):
        if part is not None:
            assert len(list(part.names)) == len(np.asarray(part.rows)) == len(part)
            assert all(0 <= row < len(part) for row in part.failures)


def _read_index(folder: Path) -> None:
    index = Index(folder / "index")
    found = index.search(np.ones((2, index.descriptors.shape[1]), np.float32), 2)
    "\n".join(found.names[0]).encode()
    for row in range(len(index)):
        index._contents.thumbnail(row)
    with changing(folder / "index") as before:
        change_index(before, remove=[0])
    assert len(Index(folder / "index")) == len(index) - 1


def _read_kapture(folder: Path) -> None:
    names = kapture.read_images(str(folder))
    read_sizes(images.ImageDataset(names, kapture.image_folder(str(folder))))
    features = GlobalFeatures(str(folder), "gem")
    missing = features.missing(names)
    features.check(missing, 4)
    with features.writing(4) as write:
        for name in missing:
            write(name, np.ones(4, np.float32))


# Downloads and results.

_PART = {"url": "http://x/a.tgz", "source": "http://y/a.tgz", "validator": '"e"', "size": 7}
_RECORDS = {"a.tgz": {**_PART, "sha256": "0" * 64}, "gnd.pkl.partial": {"url": "u", "size": 9}}


def _read_archive(folder: Path) -> None:
    (folder / "out").mkdir()
    try:
        archives.extract_images(folder / "a.tgz", folder / "out", 1 << 20)
    except OSError as e:  # as `download_dataset` does
        raise UserError(e.strerror or str(e)) from e


_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


READERS: dict[str, Reader] = {
    "image": Reader(sound.made("a.jpg", *map(sound.image, _FORMATS)), _read_image),
    "image-list": Reader(
        sound.made("l.txt", b"a.jpg\nsub/b c.jpg\n\nd.jpg\n"),
        lambda folder: _use(lists.read_image_list(f"{folder}/l.txt", str(folder))),
    ),
    "long-list": Reader(
        sound.made("l.txt", b"a.jpg\nsub/b c.jpg # a comment\n\nd.jpg\n"),
        lambda folder: list(lists.NamesInFile(f"{folder}/l.txt", str(folder))),
    ),
    "labelled-list": Reader(
        lambda _: [{"l.txt": sound.LABELS}, {"l.json": sound.LABELS_JSON.replace(b"null", b"8")}],
        _read_labels,
    ),
    "any-list": Reader(
        lambda _: [{name: text.encode()} for name, text in sound.LISTS.items()], _read_any_list
    ),
    "list-with-queries": Reader(
        lambda _: [{"l.txt": sound.LABELS, "q.txt": b"q.jpg arch\nr.jpg 7\n"}],
        lambda folder: _use(
            labelled.read_labelled_list_with_queries(
                f"{folder}/l.txt", f"{folder}/q.txt", str(folder)
            )
        ),
    ),
    "clusters": Reader(
        sound.made("l.json", sound.LABELS_JSON),
        lambda folder: _use(labelled.read_clusters(f"{folder}/l.json", str(folder))),
    ),
    "ground-truth": Reader(
        sound.truths,
        lambda folder: _use(ground_truth.read_ground_truth(f"{folder}/gnd.pkl", str(folder))),
    ),
    "gldv2": Reader(lambda _: [sound.GLDV2], _read_gldv2),
    "ilias": Reader(
        lambda _: [sound.ILIAS], lambda folder: _use(benchmark_sets.read_ilias(str(folder)))
    ),
    "published-lists": Reader(_published_folders, _read_published),
    "transforms": Reader(sound.texts(*_TRANSFORMS), _read_transforms, lines=5),
    "dataset-text": Reader(
        sound.dataset_texts,
        lambda folder: datasets.create_dataset(_text(folder), db_root=str(folder)),
        ("text.txt",),
        lines=5,
    ),
    "overrides": Reader(sound.texts(*_OVERRIDES), _read_overrides),
    "model.json": Reader(sound.checkpoints, _read_checkpoint, ("model/model.json",), exact=True),
    "checkpoint": Reader(
        lambda folder: sound.checkpoints(folder)[:1], _read_checkpoint, exact=True
    ),
    "published-folder": Reader(sound.published_folders, _read_checkpoint, exact=True),
    "web-page": Reader(
        sound.made(
            "p.html",
            b'<!DOCTYPE html><title>Large</title><form action="/x"><input '
            b'name="confirm" value="t"></form><a href="//[a]/?confirm=t">yes</a><![x[',
        ),
        lambda folder: pages.PageError(
            "http://a/b", "http://a/b", read_bytes(folder / "p.html", most=pages.MOST_PAGE)
        ),
    ),
    "run-checkpoints": Reader(sound.runs, _read_run, exact=True),
    "metrics.jsonl": Reader(sound.made("metrics.jsonl", _ROWS), _read_metrics),
    "run-config": Reader(
        lambda _: [{"config.json": json.dumps(default_config().to_dict()).encode()}],
        _read_run_config,
    ),
    "torch-legacy": Reader(lambda _: sound.torch_files(legacy=True), _read_other("a.pt")),
    "torch-zip": Reader(lambda _: sound.torch_files(legacy=False), _read_other("a.pt")),
    "safetensors": Reader(sound.safetensors_files, _read_other("a.safetensors")),
    "descriptors": Reader(
        sound.descriptors,
        lambda folder: (
            load_descriptors(f"{folder}/f.npy", list("abcde")),
            StoredRows(f"{folder}/f.npy")[:],
        ),
    ),
    "shards": Reader(sound.sharded_folders, _read_sharded),
    "index": Reader(sound.indexes, _read_index),
    "partial": Reader(_partial_folders, lambda folder: _fill(folder / "out.partial")),
    "kapture": Reader(sound.kapture_folders, _read_kapture),
    "tfds": Reader(
        sound.tfds_folders,
        lambda folder: _use(datasets.create_dataset("tfds:tiny", db_root=str(folder))),
    ),
    "archive": Reader(sound.archives, _read_archive),
    "download-records": Reader(
        sound.made("downloads.json", json.dumps(_RECORDS, indent=1).encode()),
        lambda folder: fetch.discard(folder / "gnd.pkl.partial"),
    ),
    "results-json": Reader(
        sound.made("r.json", b'{"ROxford5K": {"mAP-easy": 0.5, "APs": [0.25, -1]}}'),
        lambda folder: json.dumps(_read_results(f"{folder}/r.json")),
    ),
}
