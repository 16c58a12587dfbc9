"""Labelled images of a TensorFlow Datasets data set, read from its files without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError, did_you_mean, quoted, shown
from dir_jax.runtime.files import open_regular
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.reading import parse_json, read_bytes, read_json

# NAME[/CONFIG][:VERSION][:SPLIT]; a split may contain colons of its own: train[:80%].
_SPEC = re.compile(
    r"tfds:(?P<name>[a-z0-9_]{1,100}(/\w[\w.-]{0,99})?(:\d{1,9}(\.\d{1,9}){2})?)(:(?P<split>.{1,100}))?",
    re.ASCII,
)
_BLOCK = 1024  # examples that are read at once for their labels


class TfdsDataset(LabelledDataset):
    """A split of a prepared TFDS data set that has an 'image' and a 'label'.

    Pictures are read one by one from the data set's ArrayRecord files and decoded like any other
    picture. A copy that is sent to a worker process opens the files again.

    Args:
      spec: a text `tfds:NAME[:SPLIT]` with the name that TFDS uses, with '/config' and ':version'
        where they matter, and a split or a part of one, such as 'train[:80%]'; 'train' by default.
      data_dir: the folder of TFDS's data sets; None is $TFDS_DATA_DIR, or ~/tensorflow_datasets
        where that is not set.

    Raises:
      UserError: the text has another form; TFDS does not know the data set; it is not prepared; it
        has no such split, or no image and label; or its files name a class that is not TFDS's own.
    """

    def __init__(self, spec: str, data_dir: str | None):
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise UserError(
                f"{quoted(spec)} does not name a data set; expected tfds:NAME, tfds:NAME:SPLIT or "
                "tfds:NAME/CONFIG:VERSION:SPLIT"
            )
        name, split = match["name"], match["split"] or "train"
        self._spec = (name, split, data_dir)
        with _damage_named(f"{name}:{split}"):
            self._open()
            numbers = self._read_labels()
        classes = getattr(self._source.dataset_info.features["label"], "names", None)
        if classes is None:
            known, numbers = np.unique(numbers, return_inverse=True)
            classes = [str(k) for k in known]
        elif wrong := set(numbers.tolist()) - set(range(len(classes))):
            raise UserError(
                f"tfds:{name}:{split} has images with the label {min(wrong)}, which is none of its "
                f"{len(classes)} classes"
            )
        super().__init__(
            [f"tfds:{name}:{split}#{i}" for i in range(len(numbers))],
            [classes[n] for n in numbers],
            classes=list(classes),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_source"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        import tensorflow_datasets as tfds  # takes a third of a second

        name, split, data_dir = self._spec
        builder = _create_builder(name, data_dir)
        features = dict(builder.info.features or {})
        image, label = features.get("image"), features.get("label")
        is_number = label and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
        if not isinstance(image, tfds.features.Image) or not is_number:
            found = shown(", ".join(sorted(features)))
            raise UserError(
                f"tfds:{name} has the features {found}; expected an 'image' that is a picture and "
                "a 'label' that is an integer"
            )
        decoders = {"image": tfds.decode.SkipDecoding()}
        try:
            self._source = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as e:
            raise UserError(
                f"the files of tfds:{name} are in a format without random access; "
                f"{_how_to_prepare(name, data_dir)}"
            ) from e
        except ValueError as e:
            splits = shown(", ".join(builder.info.splits))
            raise UserError(f"tfds:{name} has no split {split!r}; it has {splits}") from e
        if not len(self._source):
            raise UserError(f"the split {split!r} of tfds:{name} is empty")

    def _file(self, i: int) -> io.BytesIO:
        return io.BytesIO(self._source[i]["image"])

    def _read_labels(self) -> np.ndarray:
        numbers: list[int] = []
        total = len(self._source)
        with progress_bar("read labels", total, "img", shown=True, delay=1) as bar:
            for start in range(0, total, _BLOCK):
                block = list(range(start, min(start + _BLOCK, total)))
                numbers += [int(example["label"]) for example in self._source.__getitems__(block)]
                bar.update(len(block))
        return np.array(numbers, np.int64)


@contextlib.contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # TFDS, protobuf and ArrayRecord raise many types on damaged files
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UserError(f"tfds:{name} cannot be read: {shown(why)}") from e


def _create_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import file_utils

    for folder in file_utils.list_data_dirs(given_data_dir=data_dir):
        _check_files(Path(os.path.expanduser(folder)) / re.split("[/:]", name)[0])
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as e:
        hint = did_you_mean(name, tfds.list_builders(with_community_datasets=False))
        raise UserError(
            f"TFDS does not know the data set {quoted(name)}, and there is none of that name "
            f"in {data_dir or tfds.core.constants.DATA_DIR}{hint}"
        ) from e
    if not builder.is_prepared():
        raise UserError(
            f"tfds:{name} is not prepared in {builder.data_dir}; {_how_to_prepare(name, data_dir)}"
        )
    return builder


def _check_files(folder: Path) -> None:
    """Refuses what TFDS would wait for, and classes other than its own features.

    TFDS imports the module of any class that a features.json names, even from the current folder.
    """
    import tensorflow_datasets as tfds

    classes = [getattr(tfds.features, name) for name in tfds.features.__all__]
    known = {f"{c.__module__}.{c.__qualname__}" for c in classes if isinstance(c, type)}
    # NAME/VERSION/ or NAME/CONFIG/VERSION/
    for file in (*folder.glob("*/*"), *folder.glob("*/*/*")):
        if file.is_dir():
            continue
        if "record-" in file.name:
            open_regular(file).close()
        else:
            read_bytes(file)
        if file.name != "features.json":
            continue
        try:
            named = set(_class_names(read_json(file)))
        except (ValueError, RecursionError) as e:
            raise UserError(f"{file} has JSON within it that cannot be read: {shown(e)}") from e
        if strange := sorted(named - known):
            raise UserError(
                f"{file} names the class {quoted(strange[0])}, which is not one of TFDS's own "
                "features; reading it would run that class's code"
            )


def _class_names(value: Any) -> Iterator[str]:
    """All classes that a parsed features.json names, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _class_names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            # The two spellings that a protocol buffer's JSON may have, and TFDS's older one.
            if key in ("pythonClassName", "python_class_name", "type") and isinstance(item, str):
                yield item
            nested = key in ("json", "content") and isinstance(item, str)
            yield from _class_names(parse_json(item) if nested else item)


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    place = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        f"prepare it once, in Python: tensorflow_datasets.builder({name!r}{place}, file_format="
        "'array_record').download_and_prepare() (which usually needs TensorFlow; reading does not)"
    )
