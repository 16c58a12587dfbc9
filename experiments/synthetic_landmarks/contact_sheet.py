"""An overview of the data set in one picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from .errors import DrawingError


def save_contact_sheet(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    max_landmarks: int = 16,
    max_views: int = 12,
) -> None:
    """Draws pictures of a data set side by side: rows are landmarks, columns their views.

    Args:
      directory: The directory that write_synthetic_landmarks wrote.
      path: The picture to write; its suffix says the format.
      max_landmarks: The largest number of rows, spread evenly over the landmarks of both lists.
      max_views: The largest number of columns.

    Raises:
      DrawingError: The picture cannot be written.
    """
    folder = Path(directory)
    rows: dict[str, list[str]] = {}
    for name in ("train.txt", "test.txt"):
        for line in (folder / name).read_text().splitlines():
            image, landmark = line.split()
            rows.setdefault(landmark, []).append(image)
    chosen = np.unique(np.linspace(0, len(rows) - 1, max_landmarks).round().astype(int))
    pictures = [
        [Image.open(folder / f) for f in list(rows.values())[i][:max_views]] for i in chosen
    ]
    cell = max(max(p.size) for row in pictures for p in row) + 4
    sheet = Image.new("RGB", (cell * max(map(len, pictures)), cell * len(pictures)), (24, 24, 24))
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            w, h = picture.size
            sheet.paste(picture, (x * cell + (cell - w) // 2, y * cell + (cell - h) // 2))
    part = Path(path).with_name(f".partial-{Path(path).name}")
    try:
        sheet.save(part)
        os.replace(part, path)
    except (OSError, ValueError) as e:  # ValueError: a suffix that Pillow does not know
        part.unlink(missing_ok=True)
        raise DrawingError(f"cannot write the contact sheet {path}: {e}") from e
