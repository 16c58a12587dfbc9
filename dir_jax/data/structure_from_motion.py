"""SfM-120k and SfM-30k: images of 3-D models (clusters), and pairs of them that match.

Radenović et al., Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2018. Two images
of one cluster need not match, but two of different clusters never do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.lists import check_names
from dir_jax.data.pickles import Unpickler, load_pickle
from dir_jax.errors import UserError, quoted, shown
from dir_jax.fields import is_whole


class _Unpickler(Unpickler):
    most_steps = 10_000_000  # two for a number, five for a text: SfM-120k's take 1,500,000


def read_sfm(file: str, root: str, split: str) -> LabelledDataset:
    """Reads a split of `retrieval-SfM-120k.pkl`: clusters are classes, and `pairs` are listed.

    The images are in `ims/`, beside the file. `root` is not used.

    Raises:
      UserError: the file cannot be loaded, lacks something, or pairs images that it does not have.
    """
    content = load_pickle(file, _Unpickler)
    if not isinstance(content, Mapping) or split not in content:
        raise UserError(f"{file} has no {split!r}; expected a dict of 'train' and 'val'")
    where = f"{file}: {split!r}"
    names = _names(where, content[split])
    clusters = _numbers(where, content[split], "cluster", np.iinfo(np.int64).max)
    if len(clusters) != len(names):
        raise UserError(f"{where}: 'cluster' has {len(clusters)} entries for {len(names)} 'cids'")
    dataset = LabelledDataset(names, list(map(str, clusters.tolist())), os.path.dirname(file))
    dataset.pairs = _pairs(where, content[split], len(names))
    return dataset


def read_sfm_whitening(file: str, root: str) -> ImageDataset:
    """Reads `retrieval-SfM-120k-whiten.pkl` or `-30k-whiten.pkl`: images and their `pairs`.

    The images are in `ims/` beside the file, or in that of SfM-120k, which has all of them.

    Raises:
      UserError: as `read_sfm`.
    """
    content, folder = load_pickle(file, _Unpickler), os.path.dirname(file)
    if not os.path.isdir(os.path.join(folder, "ims")):
        folder = os.path.join(root, "retrieval-SfM-120k")
    dataset = ImageDataset(_names(file, content), folder)
    dataset.pairs = _pairs(file, content, len(dataset))
    return dataset


def path_of(image: str) -> str:
    """The path of an image: its folders are the last letters of its id, the last ones first.

    >>> path_of("0123456789abcdef")
    'ims/ef/cd/ab/0123456789abcdef'
    """
    return f"ims/{image[-2:]}/{image[-4:-2]}/{image[-6:-4]}/{image}"


def _names(where: str, content: Any) -> list[str]:
    images = content.get("cids") if isinstance(content, Mapping) else None
    images = images.tolist() if isinstance(images, np.ndarray) else images
    if not isinstance(images, list) or not images:
        raise UserError(f"{where} has no list 'cids' of images")
    for image in images:
        if not isinstance(image, str) or len(image) < 6 or "/" in image:
            raise UserError(f"{where}: 'cids' has {quoted(image)}; expected the id of an image")
    return check_names(list(map(path_of, images)), "ims", lambda i: f"{where}: 'cids', entry {i}")


def _numbers(where: str, content: Mapping[str, Any], key: str, most: int) -> np.ndarray:
    values = content.get(key)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list):
        raise UserError(f"{where} has no list {key!r} of numbers")
    for place, value in enumerate(values):
        if not is_whole(value, 0, most):
            raise UserError(
                f"{where}: {key!r} has {shown(value)} as entry {place}; expected a whole number "
                f"from 0 to {most:,}"
            )
    return np.array(values, np.int64)


def _pairs(where: str, content: Mapping[str, Any], images: int) -> np.ndarray:
    queries, positives = (_numbers(where, content, k, images - 1) for k in ("qidxs", "pidxs"))
    if len(queries) != len(positives) or not len(queries):
        found = f"{len(queries)} 'qidxs' and {len(positives)} 'pidxs'"
        raise UserError(f"{where} has {found}; expected as many of both, and one at least")
    return np.stack([queries, positives], axis=1)
