"""kapture datasets, format 1.1: what is read of them.

    sensors/sensors.txt           id, name, type and parameters of each sensor; cameras are used
    sensors/records_camera.txt    timestamp, camera and image of each picture taken
    sensors/records_data/         the images
    reconstruction/               features; see `describe.kapture_features`

The kapture package is not used, because it runs what stands in one field of a dataset's files.
"""

from __future__ import annotations

import collections
import itertools
import logging
import math
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from dir_jax.errors import UserError, quoted
from dir_jax.runtime.files import check_inside
from dir_jax.runtime.reading import read_rows, row_error

log = logging.getLogger(__name__)

HEADER = "# kapture format: 1.1"
"""The first line of the files."""

_VERSION = re.compile(r"# kapture format:\s*([0-9]{1,9}\.[0-9]{1,9})")
_TIMESTAMP = re.compile(r"[+-]?[0-9]{1,20}")
# How many parameters each model of a camera has, width and height included.
_PARAMETERS = {
    "UNKNOWN_CAMERA": 2, "SIMPLE_PINHOLE": 5, "PINHOLE": 6, "SIMPLE_RADIAL": 6, "RADIAL": 7,
    "OPENCV": 10, "OPENCV_FISHEYE": 10, "FULL_OPENCV": 14, "FOV": 7, "SIMPLE_RADIAL_FISHEYE": 6,
    "RADIAL_FISHEYE": 7, "THIN_PRISM_FISHEYE": 14,
}  # fmt: skip


def image_folder(root: str) -> str:
    """The folder that the images' names are relative to."""
    return os.path.join(root, "sensors", "records_data")


def read_images(root: str) -> list[str]:
    """The names of a dataset's images, in the order of the records, each once.

    Rows of sensors that are not cameras are left out with a warning.

    Raises:
      UserError: the folder `root` holds no dataset of format 1.1, it has no images, or a row of its
        files, which is named, is not valid, such as an image outside the folder of images.
    """
    cameras = _read_cameras(Path(root))
    folder, file = image_folder(root), Path(root, "sensors", "records_camera.txt")
    if not os.path.exists(file):
        raise UserError(f"the kapture dataset {root} has no images: there is no {file}")
    names: dict[str, None] = {}
    left_out: collections.Counter[str] = collections.Counter()
    for row, fields in read_fields(file):
        if len(fields) != 3:
            raise row_error(file, row, f"{len(fields)} fields; expected timestamp, camera, image")
        timestamp, camera, name = fields
        if not _TIMESTAMP.fullmatch(timestamp):
            raise row_error(file, row, f"the timestamp {quoted(timestamp)} is not an integer")
        try:
            check_inside(folder, name)
        except UserError as e:
            raise row_error(file, row, str(e)) from e
        if camera in cameras:
            names[posixpath.normpath(name.replace("\\", "/"))] = None  # as kapture names features
        else:
            left_out[camera] += 1
    for camera, count in left_out.most_common(3):
        unknown = f"{quoted(camera)} is not a camera in sensors.txt"
        log.warning("%s: %d rows are left out: %s", file, count, unknown)
    if not names:
        raise UserError(f"the kapture dataset {root} has no images: {file} has no row of a camera")
    return list(names)


def _read_cameras(root: Path) -> set[str]:
    """The ids of the sensors that are cameras."""
    file = root / "sensors" / "sensors.txt"
    if not os.path.exists(file):
        lacks = "sensors/sensors.txt" if os.path.isdir(file.parent) else "sensors/"
        raise UserError(f"{root} is not a kapture dataset: it has no {lacks}")
    kinds: dict[str, str] = {}
    for row, fields in read_fields(file, version_needed=True):
        if len(fields) < 3 or not fields[0]:
            raise row_error(file, row, "expected the id, name and type of a sensor")
        sensor, _, kind, *parameters = fields
        if kind in ("camera", "depth") and (problem := _camera_problem(parameters)):
            raise row_error(file, row, f"the {kind} {quoted(sensor)} {problem}")
        kinds[sensor] = kind
    return {sensor for sensor, kind in kinds.items() if kind == "camera"}


def _camera_problem(parameters: list[str]) -> str:
    """What is wrong with a camera's model and parameters; '' for nothing.

    They do not matter for descriptors, but kapture reads no dataset where they are wrong.
    """
    model, *numbers = parameters or [""]
    if model not in _PARAMETERS:
        found = f"the unknown model {quoted(model)}" if parameters else "no model"
        return f"has {found}; expected one of {', '.join(_PARAMETERS)}"
    if len(numbers) != _PARAMETERS[model]:
        return f"has {len(numbers)} parameters; {model} has {_PARAMETERS[model]}"
    for number in numbers:
        try:
            finite = math.isfinite(float(number))
        except ValueError:
            finite = False
        if not finite:
            return f"has the parameter {quoted(number)}; expected a number"
    return ""


def read_fields(file: Path, *, version_needed: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the stripped fields of each row that is not blank or a comment.

    The first line may say the version, which kapture reads, and needs, in sensors.txt alone.
    Raises UserError for a file of another version, and as `read_rows`.
    """
    rows = read_rows(file)
    first = next(rows, (1, ""))
    found = _VERSION.search(first[1])
    if found is None and version_needed:
        raise UserError(f"{file} does not say its format: the first line must be {HEADER!r}")
    if found is not None and found[1] != "1.1":
        convert = " (kapture_upgrade_1_0_to_1_1 converts it)" if found[1] == "1.0" else ""
        raise UserError(f"{file} is of kapture format {found[1]}; only 1.1 is read{convert}")
    for number, row in itertools.chain([first], rows):
        if row and not row.startswith("#"):
            yield number, [field.strip() for field in row.split(",")]
