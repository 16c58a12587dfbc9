"""Files that are read, made by code: what the harness damages."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow_datasets as tfds
import torch
from PIL import Image

from converters.shared_folder import write_shared
from dir_jax import checkpoint
from dir_jax.describe.npy import npy_header
from dir_jax.model_recipe import Recipe
from dir_jax.models import RetrievalNetwork, architectures, create_model
from dir_jax.models.layers import Linear
from dir_jax.models.pooling import create_pooling
from dir_jax.retrieval.whitening import learn_whitening
from dir_jax.search.building import NewImages, create_index
from dir_jax.training.run_checkpoints import RunCheckpoints
from tests.fuzz.mutators import Files
from tests.torch_reference.checkpoint_files import small_tree

LABELS = b"a.jpg arch\nsub/b c.jpg arch\nd.jpg 7\ne.jpg 7\n"
GLDV2 = {
    "metadata/index.csv": b"id\naaa1\naab2\n",
    "metadata/train_clean.csv": b"landmark_id,images\n7,aaa1 aab2\n",
    "ground_truth/retrieval.csv": b"id,images,Usage\nqqq2,aab2,Private\nqqq0,None,Ignored\n",
    "ground_truth/recognition.csv": b"id,landmarks,Usage\nqqq2,7,Public\nqqq3,,Private\n",
}
ILIAS = {
    "image_ids/image_query_ids.txt": b"a_0/query/Q0_0.jpg,0.3\n",
    "image_ids/positive_ids.txt": b"a_0/pos/P0_0.jpg,0.2,4\na_0/pos/P0_1.jpg,0.1,9\n",
}
LISTS = {
    "l.csv": 'path,label\na.jpg,arch\n"b c.jpg",arch\nd.jpg,7\n',
    "l.tsv": "a.jpg\tnew york\nb.jpg\tnew york\nd.jpg\t7\n",
    "l.txt": "# places\na.jpg new york\nb c.jpg new york  # seven\nd.jpg 7\n",
    "l.json": '[{"path": "a.jpg", "label": 7}, {"path": "b.jpg", "label": 7}]',
}
LABELS_JSON = json.dumps({"a.jpg": "arch", "b c.jpg": "arch", "d.jpg": 7, "e.jpg": None}).encode()


def files_in(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sharded_folders(folder: Path) -> list[Files]:
    """What extract_features --shards 2 writes of three images and a query."""
    manifest = {
        "shards": 2,
        "width": 4,
        "lists": {"database": {"images": 3, "names": "0"}, "queries": {"images": 1, "names": "0"}},
        "recipe": Recipe().to_json(),
        "shapes": [[16, 8, 2, True]],
    }
    files = {"out/manifest.json": json.dumps(manifest, indent=1).encode()}
    for stem, names in (
        ("00000/database", ["a"]), ("00001/database", ["b", "c"]), ("00001/queries", ["q"])
    ):  # fmt: skip
        rows = np.ones((len(names), 4), np.float32)
        files[f"out/{stem}.npy"] = npy_header(*rows.shape) + rows.tobytes()
        files[f"out/{stem}.names.txt"] = "".join(f"{name}\n" for name in names).encode()
    files["out/00001/database.failed.txt"] = b"c\ttorn\n"
    return [files]


def indexes(folder: Path) -> list[Files]:
    """An index of three images with small copies."""
    new = NewImages(["a.jpg", "b.jpg", "c.jpg"], np.ones((3, 2), np.int64),
                    lambda: [np.eye(3, 4, dtype=np.float32)], lambda i: b"jpeg" * i)  # fmt: skip
    model = {"path": "m", "arch": "resnet18_rmac", "digest": "0" * 64, "options": {}}
    create_index(folder / "index", new, root="photos", model=model, recipe=Recipe(),
                 thumbnails=True)  # fmt: skip
    return [files_in(folder)]


def made(name: str, *contents: bytes) -> Callable[[Path], list[Files]]:
    """Makes one file with each of the contents."""
    return lambda folder: [{name: content} for content in contents]


def texts(*texts: str) -> Callable[[Path], list[Files]]:
    return made("text.txt", *(text.encode() for text in texts))


def image(kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    picture.save(stream, kind, **({"exif": picture.getexif()} if kind == "JPEG" else {}))
    return stream.getvalue()


def truths(folder: Path) -> list[Files]:
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


_DATASETS = (
    'ImageList("l.txt", "photos")', 'ImageListLabels("l.txt")', "ROxford5K", "Landmarks_clean",
    'ImageListLabelsQ("l.txt", queries="l.txt", root="photos")', 'ImageClusters("l.json")',
    'ImageListRelevants("gnd.pkl", img_dir="jpg", ext=".png")', "tfds:tiny:train[:50%]",
)  # fmt: skip


def dataset_texts(folder: Path) -> Iterable[Files]:
    truth = truths(folder)[0]["gnd.pkl"]
    beside = {"l.txt": LABELS, "l.json": LABELS_JSON, "gnd.pkl": truth,
              "oxford5k/gnd_roxford5k.pkl": truth,
              "landmarks/annotations/annotation_clean_train.txt": LABELS}  # fmt: skip
    for text in _DATASETS:
        tiny = {} if "tfds" not in text else next(iter(tfds_folders(folder)))
        yield {"text.txt": text.encode(), **beside, **tiny}


def tfds_folders(folder: Path) -> Iterable[Files]:
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
                yield i, {"image": io.BytesIO(image()), "label": i % 2}

    Tiny(data_dir=folder / "tfds").download_and_prepare(file_format="array_record")
    return [files_in(folder / "tfds")]


class Tiny(RetrievalNetwork):
    """A network that is read in milliseconds."""

    def __init__(self, config: Any, backbone: Any, *, rng: np.random.Generator):
        self.config, self.features = config, 8
        self.adpool = create_pooling(config.pooling, config.gemp)
        self.fc = Linear(8, config.out_dim, precision=config.precision, rng=rng)


architectures.ARCHITECTURES["tiny_rmac"] = architectures.Architecture("resnet18", Tiny)


def checkpoints(folder: Path) -> list[Files]:
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((20, 6)))
    model = create_model("tiny_rmac", out_dim=6)
    checkpoint.save_model(folder / "model", model, whitenings={"Landmarks_clean": whitening})
    files = files_in(folder / "model")
    old = json.loads(files["model/model.json"])
    del old["digests"]  # as dir_jax 0.1.0 wrote it
    return [files, files | {"model/model.json": json.dumps(old).encode()}]


def published_folders(folder: Path) -> list[Files]:
    checkpoints(folder)
    (folder / "published").mkdir()
    write_shared(folder / "published", checkpoint.read_model(folder / "model"))
    return [files_in(folder / "published")]


def runs(folder: Path) -> Iterable[Files]:
    model, run = create_model("tiny_rmac", out_dim=6), RunCheckpoints(folder / "run", keep=2)
    for step in (3, 6):
        train = {"optimizer": {"count": np.int32(step), "mu": np.arange(20.0)}}
        run.save(step, model, train, preprocessing=checkpoint.Preprocessing(), recipe=Recipe())
    run.close()
    return [files_in(folder / "run")]


def torch_files(*, legacy: bool) -> list[Files]:
    tree, stream = small_tree(), io.BytesIO()
    del tree["model_options"]["x"]
    torch.save(tree, stream, _use_new_zipfile_serialization=not legacy)
    return [{"a.pt": stream.getvalue()}]


def safetensors_files(folder: Path) -> Iterable[Files]:
    state = {"fc.weight": np.ones((6, 8), np.float32), "conv1.weight": np.ones(3, np.float16)}
    metadata = {"model_options": '{"arch": "resnet18_rmac", "out_dim": 6}', "preprocess": "{}"}
    yield {"a.safetensors": safetensors.numpy.save(state, metadata)}


def descriptors(folder: Path) -> Iterable[Files]:
    whole = np.ones((5, 4), np.float32)
    partly = np.where(np.arange(5)[:, None] == 3, np.nan, whole)
    for array in (whole, np.asfortranarray(whole.astype(">f2")), partly):
        stream = io.BytesIO()
        np.save(stream, array)
        yield {"f.npy": stream.getvalue(), "f.npy.failed.txt": b"d\tit is damaged\n"}


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


def kapture_folders(folder: Path) -> Iterable[Files]:
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


def archives(folder: Path) -> Iterable[Files]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in ("jpg/a.jpg", "ü" * 60 + ".jpg", "readme.txt"):
            member, content = tarfile.TarInfo(name), image("JPEG")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    yield {"a.tgz": stream.getvalue()}
