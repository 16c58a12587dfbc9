"""The table of readers: for each kind of file, sound ones made by code, and what reading means.

A new reader of files is a row in `READERS`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
import tensorflow_datasets as tfds
import torch
from PIL import Image

from converters import reader, sources
from dir_jax import checkpoint
from dir_jax.commands.recipes import load_config
from dir_jax.data import datasets, ground_truth, images, kapture, labelled
from dir_jax.data.download import archives, fetch
from dir_jax.data.headers import read_sizes
from dir_jax.data.transforms import parse_transforms
from dir_jax.describe.feature_files import load_descriptors
from dir_jax.describe.kapture_features import GlobalFeatures
from dir_jax.describe.resume import PartialDescriptors
from dir_jax.errors import UserError
from dir_jax.evaluation import check_can_be_evaluated
from dir_jax.models import RetrievalNetwork, architectures, create_model
from dir_jax.models.layers import Linear
from dir_jax.models.pooling import create_pooling
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.whitening import learn_whitening
from dir_jax.test_dir import _read_results
from dir_jax.training.config import default_config, validate_config
from dir_jax.training.run_checkpoints import RunCheckpoints
from dir_jax.training.workdir import MetricsLog, claimed_workdir
from tests.fuzz.mutators import Files
from tests.torch_reference.checkpoint_files import small_tree


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


def files_in(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _texts(*texts: str) -> Callable[[Path], list[Files]]:
    return lambda folder: [{"text.txt": text.encode()} for text in texts]


def _text(folder: Path) -> str:
    return (folder / "text.txt").read_bytes().decode(errors="surrogateescape")


def _image(kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    picture.save(stream, kind, **({"exif": picture.getexif()} if kind == "JPEG" else {}))
    return stream.getvalue()


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


_LABELS = b"a.jpg arch\nsub/b c.jpg arch\nd.jpg 7\ne.jpg 7\n"
_LABELS_JSON = json.dumps({"a.jpg": "arch", "b c.jpg": "arch", "d.jpg": 7, "e.jpg": None}).encode()


def _read_clusters(folder: Path) -> None:
    _use(labelled.read_clusters(str(folder / "l.json"), str(folder)))


def _read_labels(folder: Path) -> None:
    file = "l.json" if os.path.lexists(folder / "l.json") else "l.txt"
    _use(labelled.read_labelled_list(str(folder / file), str(folder)))


def _read_queries(folder: Path) -> None:
    files = (str(folder / name) for name in ("l.txt", "q.txt"))
    _use(labelled.read_labelled_list_with_queries(*files, str(folder)))


def _truths(folder: Path) -> list[Files]:
    def truth(*grades: str, make: Callable[[list[int]], Any]) -> dict[str, Any]:
        return {
            "imlist": ["a", "b.jpg", "c", "d", "e"],
            "qimlist": ["q", "r"],
            "gnd": [
                {"bbx": [1.5, 2, 30, 40.0], **{g: make([i + j]) for i, g in enumerate(grades)}}
                for j in (0, 1)
            ],
        }

    array = truth("easy", "hard", "junk", make=np.array)
    array["imlist"] = np.array(array["imlist"])
    array["gnd"] = np.array(array["gnd"], object)
    found = [truth("ok", "junk", make=list), array]
    return [{"gnd.pkl": pickle.dumps(x, protocol)} for x in found for protocol in (0, 2, 4)]


def _read_truth(folder: Path) -> None:
    _use(ground_truth.read_ground_truth(str(folder / "gnd.pkl"), str(folder)))


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


_DATASETS = (
    'ImageList("l.txt", "photos")', 'ImageListLabels("l.txt")', "ROxford5K", "Landmarks_clean",
    'ImageListLabelsQ("l.txt", queries="l.txt", root="photos")', 'ImageClusters("l.json")',
    'ImageListRelevants("gnd.pkl", img_dir="jpg", ext=".png")', "tfds:tiny:train[:50%]",
)  # fmt: skip


def _dataset_texts(folder: Path) -> Iterable[Files]:
    truth = _truths(folder)[0]["gnd.pkl"]
    beside = {"l.txt": _LABELS, "l.json": _LABELS_JSON, "gnd.pkl": truth,
              "oxford5k/gnd_roxford5k.pkl": truth,
              "landmarks/annotations/annotation_clean_train.txt": _LABELS}  # fmt: skip
    for text in _DATASETS:
        tiny = {} if "tfds" not in text else next(iter(_tfds_folders(folder)))
        yield {"text.txt": text.encode(), **beside, **tiny}


def _read_dataset_text(folder: Path) -> None:
    datasets.create_dataset(_text(folder), db_root=str(folder))


_OVERRIDES = (
    "--config.batch_size=64\n--config.data.train=ImageListLabels('a.txt')\n--config.model.gemp=2.5",
    "--config.data.mean=(0.1,0.2,0.3)\n--config.optimizer.name=sgd\n--config.batch_norm=trained",
    "--config.model.norm_features=true\n--noconfig.model.without_fc\n--config.whitening.power=0.5",
)


def _read_overrides(folder: Path) -> None:
    config = load_config("quickstart", _text(folder).split("\n"))
    validate_config(config)


# Models and runs.


class Tiny(RetrievalNetwork):
    """A network that is read in milliseconds."""

    def __init__(self, config: Any, backbone: Any, *, rng: np.random.Generator):
        self.config, self.features = config, 8
        self.adpool = create_pooling(config.pooling, config.gemp)
        self.fc = Linear(8, config.out_dim, precision=config.precision, rng=rng)


architectures.ARCHITECTURES["tiny_rmac"] = architectures.Architecture("resnet18", Tiny)


def _checkpoints(folder: Path) -> Iterable[Files]:
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((20, 6)))
    model = create_model("tiny_rmac", out_dim=6)
    checkpoint.save_model(folder / "model", model, whitenings={"Landmarks_clean": whitening})
    files = files_in(folder / "model")
    old = json.loads(files["model/model.json"])
    del old["digests"]  # as dir_jax 0.1.0 wrote it
    return [files, files | {"model/model.json": json.dumps(old).encode()}]


def _digest(tree: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    content = [(jax.tree_util.keystr(path), np.asarray(x).tobytes()) for path, x in leaves]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _read_checkpoint(folder: Path) -> str:
    found = checkpoint.read_model(folder)
    whitenings = {name: w.to_arrays() for name, w in found.whitenings.items()}
    return _digest([*split_variables(found.model)[1:], whitenings])


def _runs(folder: Path) -> Iterable[Files]:
    model, run = create_model("tiny_rmac", out_dim=6), RunCheckpoints(folder / "run", keep=2)
    for step in (3, 6):
        train = {"optimizer": {"count": np.int32(step), "mu": np.arange(20.0)}}
        run.save(step, model, train, preprocessing=checkpoint.Preprocessing())
    run.close()
    return [files_in(folder / "run")]


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


_ROWS = [
    {"step": 0, "eval": {"mAP": 0.3}},
    {"step": 1, "loss": 0.5, "lr": 1e-3, "seconds": 2.0},
    {"step": 2, "loss": 0.4, "eval": {"mAP": 0.4, "top1": 0.5}},
    {"step": 3, "loss": 0.3},
]


def _read_metrics(folder: Path) -> None:
    with MetricsLog(folder, 2) as log:
        json.dumps(log.rows[0]["eval"] if log.rows else 0)
        log.evaluation(2)
        log.write({"step": 3, "loss": 0.1})


def _run_configs(folder: Path) -> Iterable[Files]:
    return [{"config.json": json.dumps(default_config().to_dict(), indent=2).encode()}]


def _read_run_config(folder: Path) -> None:
    with claimed_workdir(folder, default_config()):
        pass


# Other programs' models.


def _torch_files(folder: Path, legacy: bool) -> Iterable[Files]:
    tree, stream = small_tree(), io.BytesIO()
    del tree["model_options"]["x"]
    torch.save(tree, stream, _use_new_zipfile_serialization=not legacy)
    yield {"a.pt": stream.getvalue()}


def _safetensors_files(folder: Path) -> Iterable[Files]:
    state = {"fc.weight": np.ones((6, 8), np.float32), "conv1.weight": np.ones(3, np.float16)}
    metadata = {"model_options": '{"arch": "resnet18_rmac", "out_dim": 6}', "preprocess": "{}"}
    yield {"a.safetensors": safetensors.numpy.save(state, metadata)}


def _read_other(name: str) -> Callable[[Path], Any]:
    return lambda folder: sources.recognise(reader.read_file(folder / name))


# Descriptors and what is kept beside them.


def _descriptor_files(folder: Path) -> Iterable[Files]:
    for array in (np.ones((5, 4), np.float32), np.asfortranarray(np.ones((5, 4), ">f2"))):
        stream = io.BytesIO()
        np.save(stream, array)
        yield {"feats.npy": stream.getvalue()}


_IDENTITY = {"checkpoint": "a", "trfs": ["Scale(800)"], "images": 5, "batch": [[1, 2], [3]]}


def _partial_folders(folder: Path) -> Iterable[Files]:
    _fill(folder / "out.partial")
    return [files_in(folder)]


def _fill(place: Path) -> None:
    store = PartialDescriptors(place, _IDENTITY, may_change=("images",))
    sink = store.sink("describe", 5, 3)
    for batch in (0, 1):
        if not sink.is_done(batch):
            rows = np.array([2 * batch, 2 * batch + 1])
            sink.write(batch, rows, np.ones((2, 3), np.float32), {2 * batch: "it is damaged"})
    assert all(0 <= place < 5 for place in sink.failures), f"failures of {list(sink.failures)}"
    "\n".join(f"{i}\t{reason}" for i, reason in sorted(sink.failures.items())).encode()
    assert sink.descriptors.shape == (5, 3)
    store.close()


_SENSORS = """# kapture format: 1.1
# sensor_id, name, sensor_type, [sensor_params]+
cam0, , camera, UNKNOWN_CAMERA, 640, 480
cam1, Hero7, camera, SIMPLE_RADIAL, 640, 480, 600.5, 320, 240, -0.035
lidar0, , lidar
"""
_IMAGES = """# kapture format: 1.1
# timestamp, device_id, image_path
0, cam0, a.jpg
1, cam1, sub/b.jpg
2, lidar0, c.pcd
"""
_KIND = "# kapture format: 1.1\n# name, dtype, dsize, metric_type\ndir_jax, float32, 4, L2\n"


def _kapture_folders(folder: Path) -> Iterable[Files]:
    files = {
        "sensors/sensors.txt": _SENSORS.encode(),
        "sensors/records_camera.txt": _IMAGES.encode(),
    }
    where, row = "reconstruction/global_features/gem/", bytes(16)
    files[f"{where}global_features.txt"] = _KIND.encode()
    yield files | {f"{where}a.jpg.gfeat": row}
    stream = io.BytesIO()
    with tarfile.TarFile(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("sub/b.jpg.gfeat")
        member.size = 16
        tar.addfile(member, io.BytesIO(row))
    yield files | {f"{where}global_features.tar": stream.getvalue()}


def _read_kapture(folder: Path) -> None:
    names = kapture.read_images(str(folder))
    read_sizes(images.ImageDataset(names, kapture.image_folder(str(folder))))
    features = GlobalFeatures(str(folder), "gem")
    missing = features.missing(names)
    features.check(missing, 4)
    with features.writing(4) as write:
        for name in missing:
            write(name, np.ones(4, np.float32))


def _tfds_folders(folder: Path) -> Iterable[Files]:
    class Tiny(tfds.core.GeneratorBasedBuilder):
        code_path = None
        VERSION = tfds.core.Version("1.2.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"image": tfds.features.Image(encoding_format="png"),
                        "label": tfds.features.ClassLabel(names=["arch", "bridge"])}  # fmt: skip
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for i in range(4):
                yield i, {"image": io.BytesIO(_image()), "label": i % 2}

    Tiny(data_dir=folder / "tfds").download_and_prepare(file_format="array_record")
    return [files_in(folder / "tfds")]


def _read_tfds(folder: Path) -> None:
    _use(datasets.create_dataset("tfds:tiny", db_root=str(folder)))


# Downloads and results.

_PART = {"url": "http://x/a.tgz", "source": "http://y/a.tgz", "validator": '"e"', "size": 7}
_RECORDS = {"a.tgz": {**_PART, "sha256": "0" * 64}, "gnd.pkl.partial": {"url": "u", "size": 9}}


def _archives(folder: Path) -> Iterable[Files]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in ("jpg/a.jpg", "ü" * 60 + ".jpg", "readme.txt"):
            member, content = tarfile.TarInfo(name), _image("JPEG")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    yield {"a.tgz": stream.getvalue()}


def _read_archive(folder: Path) -> None:
    (folder / "out").mkdir()
    try:
        archives.extract_images(folder / "a.tgz", folder / "out", 1 << 20, progress=False)
    except OSError as e:  # as `download_dataset` does
        raise UserError(e.strerror or str(e)) from e


def _read_records(folder: Path) -> None:
    fetch.discard(folder / "gnd.pkl.partial")
    fetch.read_records(folder)


_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_ARRAYS = ("arrays/*", "train/*", "[0-9]*/arrays/*", "[0-9]*/train/*", "_*", "[0-9]*/_*")

READERS: dict[str, Reader] = {
    "image": Reader(lambda folder: [{"a.jpg": _image(kind)} for kind in _FORMATS], _read_image),
    "image-list": Reader(
        lambda folder: [{"l.txt": b"a.jpg\nsub/b c.jpg\n\nd.jpg\n"}],
        lambda folder: _use(images.read_image_list(str(folder / "l.txt"), str(folder))),
    ),
    "labelled-list": Reader(
        lambda folder: [{"l.txt": _LABELS}, {"l.json": _LABELS_JSON.replace(b"null", b"8")}],
        _read_labels,
    ),
    "list-with-queries": Reader(
        lambda folder: [{"l.txt": _LABELS, "q.txt": b"q.jpg arch\nr.jpg 7\n"}], _read_queries
    ),
    "clusters": Reader(lambda folder: [{"l.json": _LABELS_JSON}], _read_clusters),
    "ground-truth": Reader(_truths, _read_truth),
    "transforms": Reader(_texts(*_TRANSFORMS), _read_transforms, lines=5),
    "dataset-text": Reader(_dataset_texts, _read_dataset_text, ("text.txt",), lines=5),
    "overrides": Reader(_texts(*_OVERRIDES), _read_overrides),
    "model.json": Reader(_checkpoints, _read_checkpoint, ("model/model.json",), exact=True),
    "checkpoint": Reader(_checkpoints, _read_checkpoint, exact=True),
    "run-checkpoints": Reader(_runs, _read_run, exact=True),
    "metrics.jsonl": Reader(
        lambda f: [{"metrics.jsonl": "".join(json.dumps(r) + "\n" for r in _ROWS).encode()}],
        _read_metrics,
    ),
    "run-config": Reader(_run_configs, _read_run_config),
    "torch-legacy": Reader(lambda folder: _torch_files(folder, True), _read_other("a.pt")),
    "torch-zip": Reader(lambda folder: _torch_files(folder, False), _read_other("a.pt")),
    "safetensors": Reader(_safetensors_files, _read_other("a.safetensors")),
    "descriptors": Reader(
        _descriptor_files, lambda folder: load_descriptors(str(folder / "feats.npy"), 5, 4)
    ),
    "partial": Reader(_partial_folders, lambda folder: _fill(folder / "out.partial")),
    "kapture": Reader(_kapture_folders, _read_kapture),
    "tfds": Reader(_tfds_folders, _read_tfds),
    "archive": Reader(_archives, _read_archive),
    "download-records": Reader(
        lambda folder: [{"downloads.json": json.dumps(_RECORDS, indent=1).encode()}], _read_records
    ),
    "results-json": Reader(
        lambda folder: [{"r.json": b'{"ROxford5K": {"mAP-easy": 0.5, "APs": [0.25, -1]}}'}],
        lambda folder: json.dumps(_read_results(str(folder / "r.json"))),
    ),
}
