"""Adds global features to a kapture dataset: `python -m dir_jax.extract_kapture --kapture-root DIR
--checkpoint models/ap_gem`.

Describes the images of the dataset's cameras that do not have features of this type yet. Needs the
kapture package: pip install kapture.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from dir_jax.commands.flags import (
    add_model_flags,
    create_describer,
    load_checkpoint,
    recipe_of,
    set_up,
)
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError
from dir_jax.runtime.allocator import restart_with_allocator

if TYPE_CHECKING:
    from dir_jax.describe.describer import Descriptors


def main(prog: str | None = None) -> int:
    """Describes as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.extract_kapture", __doc__)
    parser.add_argument(
        "--kapture-root", required=True, metavar="DIR", help="the kapture dataset, with sensors/"
    )
    parser.add_argument(
        "--global-features-type", metavar="NAME",
        help="what these features are called in it (default: the checkpoint's base name)",
    )  # fmt: skip
    add_model_flags(parser, whiten=None, whitenp=0.5)
    return parser


def _main(args: argparse.Namespace) -> None:
    recipe = recipe_of(args)
    name = args.global_features_type
    if not name:
        name = os.path.splitext(os.path.basename(os.path.normpath(args.checkpoint)))[0]
        print(f"global_features_type set to {name}")
    if os.path.basename(name) != name or name in (".", ".."):
        raise UserError(f"--global-features-type {name!r} is no name of a folder")
    dataset = KaptureFeatures(args.kapture_root, name)
    with dataset:
        images = dataset.missing_images()
        if not images:
            print("All global features are already extracted")
            return
        set_up(args)
        describer = create_describer(args, load_checkpoint(args), recipe)
        dataset.check_width(describer.finished_size)
        from dir_jax.data.images import ImageDataset

        # Named by its list, which is another once some of its images have their features.
        digest = hashlib.sha256("\n".join(images).encode()).hexdigest()[:12]
        partial = os.path.join(args.kapture_root, f".dir_jax-{name}-{digest}.partial")
        described = describer.describe(
            [("describe", ImageDataset(images, dataset.image_folder))], partial
        )
        dataset.write(described.lists[0])
        described.delete_partial()
    pattern = os.path.join(glob.escape(args.kapture_root), f".dir_jax-{glob.escape(name)}-*")
    for stale in glob.glob(pattern):
        shutil.rmtree(stale, ignore_errors=True)
    failed = described.lists[0].failures
    for reason in failed.values():
        print(f"left out: {reason}", file=sys.stderr)
    print(f"Features extracted: {len(images) - len(failed)} images")


class KaptureFeatures:
    """The global features of one type in a kapture dataset; a context manager."""

    def __init__(self, root: str, name: str):
        """Reads the dataset's images.

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
            raise UserError(f"--kapture-root {root} is no kapture dataset: it has no sensors/")
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
        """The names of the images that have no features of this type, in the records' order."""
        records = self._kapture.flatten(self._data.records_camera)
        there = self._existing or ()
        return [image for _, _, image in records if image not in there]

    def check_width(self, width: int) -> None:
        """Raises UserError where the type exists with features of another kind."""
        import numpy as np

        there = self._existing
        if there is not None and (there.dsize, np.dtype(there.dtype)) != (width, np.float32):
            raise UserError(
                f"the global features {self._name!r} of {self._root} are {there.dsize} "
                f"{np.dtype(there.dtype)}; these would be {width} float32: give another "
                "--global-features-type"
            )

    def write(self, descriptors: Descriptors) -> None:
        """Writes a file an image, then says in the dataset that there are features of this type.

        Raises:
          UserError: they cannot be written.
        """
        import numpy as np
        from tqdm import tqdm

        names, width = descriptors.dataset.names, 0
        with tqdm(total=len(names), desc="write", unit="img", leave=False, delay=2) as bar:
            for start, rows in descriptors.blocks():
                width = rows.shape[1]
                for i, row in enumerate(rows, start):
                    if i not in descriptors.failures:
                        self._write_image(names[i], row)
                    bar.update()
        if self._existing is None:
            # Last, so that a run that was killed meanwhile is not taken for a complete one.
            features = self._kapture.GlobalFeatures("dir_jax", np.dtype("float32"), width, "L2")
            file = self._csv.get_feature_csv_fullpath(
                self._kapture.GlobalFeatures, self._name, self._root
            )
            os.makedirs(os.path.dirname(file), exist_ok=True)
            self._csv.global_features_to_file(file, features)

    def _write_image(self, name: str, row: Any) -> None:
        from dir_jax.runtime.files import replacing

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


if __name__ == "__main__":
    restart_with_allocator()
    sys.exit(main())
