"""Labelled images of a TensorFlow Datasets data set, by its random-access files, no TensorFlow."""

from __future__ import annotations

import difflib
import io
import re
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dir_jax.data.images import open_rgb, read_size
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError

# NAME[/CONFIG][:VERSION][:SPLIT]; a split may hold colons of its own: train[:80%].
_SPEC = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
_BLOCK = 1024  # examples that are read at once for their labels


class TfdsDataset(LabelledDataset):
    """A split of a prepared TFDS data set with an 'image' and a 'label'.

    Pictures are read one by one from the data set's ArrayRecord files, and decoded as any other
    picture here. A copy sent to a worker process opens the files anew.
    """

    def __init__(self, name: str, split: str, data_dir: str | None):
        """Opens a data set and reads all its labels.

        Args:
          name: as TFDS writes it, with '/config' and ':version' where they matter.
          split: a split's name, or a part such as 'train[:80%]'.
          data_dir: where TFDS keeps its data sets; None is $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.

        Raises:
          UserError: TFDS does not know the data set, it is not prepared, or has no such split, or
            no image and label.
        """
        self._spec = (name, split, data_dir)
        self._open()
        numbers = self._read_labels()
        feature = self._source.dataset_info.features["label"]
        classes = getattr(feature, "names", None)
        if classes is None:
            known, numbers = np.unique(numbers, return_inverse=True)
            classes = [str(k) for k in known]
        elif numbers.min() < 0:
            raise UserError(f"tfds:{name}:{split} has images without a label (label -1)")
        super().__init__(
            [f"tfds:{name}:{split}#{i}" for i in range(len(numbers))],
            [classes[n] for n in numbers],
            classes=list(classes),
        )

    def open(self, i: int) -> Image.Image:
        """Decodes image `i` as RGB.

        Raises:
          UserError: it is damaged; names it.
        """
        return open_rgb(self._content(i), self.path(i))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from its header.

        Raises:
          UserError: it has no readable header; names it.
        """
        return read_size(self._content(i), self.path(i))

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
        label = features.get("label")
        if not (
            isinstance(features.get("image"), tfds.features.Image)
            and label is not None
            and label.shape == ()
            and np.issubdtype(label.np_dtype, np.integer)
        ):
            raise UserError(
                f"tfds:{name} has the features {', '.join(sorted(features))}; expected an 'image' "
                "picture and a 'label' number"
            )
        try:
            self._source = builder.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except NotImplementedError as e:
            raise UserError(
                f"tfds:{name} is prepared in a format without random access; "
                f"{_how_to_prepare(name, data_dir)}"
            ) from e
        except ValueError as e:
            raise UserError(
                f"tfds:{name} has no split {split!r}; it has {', '.join(builder.info.splits)}"
            ) from e
        if not len(self._source):
            raise UserError(f"the split {split!r} of tfds:{name} is empty")

    def _content(self, i: int) -> io.BytesIO:
        return io.BytesIO(self._source[i]["image"])

    def _read_labels(self) -> np.ndarray:
        numbers: list[int] = []
        blocks = range(0, len(self._source), _BLOCK)
        with tqdm(total=len(self._source), desc="read labels", unit="img", leave=False) as bar:
            for start in blocks:
                stop = min(start + _BLOCK, len(self._source))
                examples = self._source.__getitems__(list(range(start, stop)))
                numbers += [int(example["label"]) for example in examples]
                bar.update(len(examples))
        return np.array(numbers, np.int64)


def create_tfds_dataset(spec: str, data_dir: str | None) -> TfdsDataset:
    """The data set that `tfds:NAME[:SPLIT]` names; the split is 'train' by default.

    Raises:
      UserError: the text has another form, or as `TfdsDataset`.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"cannot read {spec!r}; expected tfds:NAME or tfds:NAME:SPLIT")
    return TfdsDataset(match["name"], match["split"] or "train", data_dir)


def _create_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as e:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"TFDS knows no data set {name!r}, and none is prepared in "
            f"{data_dir or tfds.core.constants.DATA_DIR}{hint}"
        ) from e
    except (ValueError, AssertionError, ImportError) as e:
        why = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"tfds:{name} cannot be opened: {why}") from e
    if not builder.is_prepared():
        raise UserError(
            f"tfds:{name} is not prepared in {builder.data_dir}; {_how_to_prepare(name, data_dir)}"
        )
    return builder


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    place = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        f"prepare it once, in Python: tensorflow_datasets.builder({name!r}{place}, "
        "file_format='array_record').download_and_prepare() (most data sets need TensorFlow "
        "installed for that, but not for reading)"
    )
