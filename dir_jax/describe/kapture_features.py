"""Global features in a kapture dataset: the descriptor files that kapture's tools read."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from tqdm import tqdm

from dir_jax.describe.describer import Descriptors
from dir_jax.errors import UserError
from dir_jax.runtime.files import replacing


class KaptureFeatures:
    """The global features of one type in a kapture dataset; a context manager.

    Attributes:
      image_folder: the folder that the images' names are relative to.
    """

    def __init__(self, root: str, name: str):
        """Reads which images the dataset has, and which have features of this type.

        Args:
          root: the dataset's folder, with `sensors/` in it.
          name: the type of the features.

        Raises:
          UserError: kapture is not installed, or there is no such dataset.
        """
        try:
            import kapture
            from kapture.io import csv, features, records
        except ImportError as e:
            raise UserError(
                f"this command needs the kapture package ({e}); install it: pip install kapture"
            ) from e
        if not os.path.isdir(os.path.join(root, "sensors")):
            raise UserError(f"--kapture-root {root} is not a kapture dataset: it has no sensors/")
        self._kapture, self._csv, self._features = kapture, csv, features
        self._root, self._name = root, name
        self.image_folder = records.get_image_fullpath(root, image_filename=None)
        kinds = (kapture.Keypoints, kapture.Descriptors, kapture.Matches)
        modes: dict[Any, str] = dict.fromkeys(kinds, "r")
        modes[kapture.GlobalFeatures] = "a"
        try:
            self._tars = csv.get_all_tar_handlers(root, mode=modes)
            self._data = csv.kapture_from_dir(
                root,
                None,
                skip_list=[*kinds, kapture.Points3d, kapture.Observations],
                tar_handlers=self._tars,
            )
        except (OSError, ValueError, AssertionError) as e:
            raise UserError(f"the kapture dataset {root} cannot be read: {e}") from e
        if self._data.records_camera is None:
            raise UserError(f"the kapture dataset {root} has no images: no records_camera.txt")

    def __enter__(self) -> KaptureFeatures:
        return self

    def __exit__(self, *error: object) -> None:
        self._tars.close()

    @property
    def _existing(self) -> Any:
        return (self._data.global_features or {}).get(self._name)

    def missing_images(self) -> list[str]:
        """The names of the images without features of this type, in the order of the records."""
        records = self._kapture.flatten(self._data.records_camera)
        there = self._existing or ()
        return [image for _, _, image in records if image not in there]

    def check_width(self, width: int) -> None:
        """Checks that features of a length fit to those that the dataset has already.

        Raises:
          UserError: the dataset has features of this type with another length or dtype.
        """
        there = self._existing
        if there is not None and (there.dsize, np.dtype(there.dtype)) != (width, np.float32):
            raise UserError(
                f"the global features {self._name!r} of {self._root} are {there.dsize} "
                f"{np.dtype(there.dtype)}; these would be {width} float32: give another "
                "--global-features-type"
            )

    def write(self, descriptors: Descriptors) -> None:
        """Writes a file for each image, then adds the type of features to the dataset.

        Raises:
          UserError: a file cannot be written.
        """
        names, width = descriptors.dataset.names, 0
        with tqdm(total=len(names), desc="write", unit="img", leave=False, delay=2) as bar:
            for start, rows in descriptors.blocks():
                width = rows.shape[1]
                for i, row in enumerate(rows, start):
                    if i not in descriptors.failures:
                        self._write_image(names[i], row)
                    bar.update()
        if self._existing is None:
            # Last, so that a run that was killed before this is not taken for a complete one.
            features = self._kapture.GlobalFeatures("dir_jax", np.dtype("float32"), width, "L2")
            file = self._csv.get_feature_csv_fullpath(
                self._kapture.GlobalFeatures, self._name, self._root
            )
            os.makedirs(os.path.dirname(file), exist_ok=True)
            self._csv.global_features_to_file(file, features)

    def _write_image(self, name: str, row: Any) -> None:
        target = self._features.get_global_features_fullpath(
            self._name, self._root, name, self._tars
        )
        if not isinstance(target, str):  # an entry of a tar file
            self._features.image_global_features_to_file(target, row)
            return
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        except OSError as e:
            raise UserError(f"cannot make the folder of {target}: {e.strerror}") from e
        with replacing(target) as scratch:
            row.tofile(scratch)
