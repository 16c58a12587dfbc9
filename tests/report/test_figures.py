"""Pictures: what is drawn where, and that a picture is never half written."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dir_jax.errors import UserError
from dir_jax.report import figures
from dir_jax.report.figures import RankedRow, save_ranked_results, save_training_curves

WHITE, MAGENTA = (255, 255, 255), (255, 0, 255)


def image(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), MAGENTA)


def columns_with(picture: np.ndarray, color: tuple[int, int, int], rows: slice) -> np.ndarray:
    return np.flatnonzero((picture[rows] == color).all(axis=2).any(axis=0))


def test_ranked_results(tmp_path: Path) -> None:
    rows = [
        RankedRow(
            image(300, 200),
            [
                (image(300, 200), "relevant", 0.9),
                (image(20, 30), "wrong", 0.8),  # small ones are enlarged
                (image(30000, 20), "junk", -0.1),
            ],
            0.5,
        ),
        RankedRow(image(200, 300).convert("L"), [(image(9, 9), "wrong", 0.1)]),
    ]
    save_ranked_results(tmp_path / "ranked.png", rows)
    picture = np.asarray(Image.open(tmp_path / "ranked.png").convert("RGB"))
    first = slice(figures._HEADER, figures._HEADER + figures._CELL)
    second = slice(first.stop + figures._CAPTION + figures._GAP, None)

    frames = {name: columns_with(picture, color, first) for name, color in figures._FRAMES.items()}
    left_to_right = ["query", "relevant", "wrong", "junk"]
    for left, right in itertools.pairwise(left_to_right):
        assert frames[left].max() < frames[right].min()
    assert np.ptp(frames["relevant"]) == figures._CELL - 1
    assert np.ptp(frames["wrong"]) == round((figures._CELL - 2 * figures._FRAME) * 2 / 3) + 11
    assert len(columns_with(picture, figures._FRAMES["wrong"], second)) == figures._CELL
    assert not len(columns_with(picture, figures._FRAMES["relevant"], second))

    # The 300 × 200 image keeps its aspect: 156 × 104 pixels of it.
    inside = (picture[first, frames["relevant"].min() : frames["relevant"].max()] == MAGENTA).all(2)
    assert inside.sum() == 156 * 104
    # Captions: dark pixels below each of the four cells of the first row.
    below = slice(first.stop, first.stop + figures._CAPTION)
    for columns in frames.values():
        assert (picture[below, columns.min() : columns.max()].min(axis=2) < 100).any()
    # The legend names all frames.
    for color in figures._FRAMES.values():
        assert len(columns_with(picture, color, slice(0, figures._HEADER)))


def test_ranked_results_of_no_query(tmp_path: Path) -> None:
    save_ranked_results(tmp_path / "ranked.png", [])
    assert Image.open(tmp_path / "ranked.png").size[0] > 400


def history(steps: int, every: int) -> list[dict]:
    rows: list[dict] = [{"step": 0, "eval": {"mAP": 0.25, "recall@1": 0.9, "mAP-hard": 0.111}}]
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 1 / step, "learning_rate": 0.1, "images_per_second": 9.0}
        if step % every == 0:
            row["eval"] = {"mAP": 0.25 + step / 1000, "recall@1": 0.9, "mAP-hard": 0.222}
        rows.append(row)
    return rows


@pytest.mark.parametrize("steps", [20, 300])
def test_training_curves(tmp_path: Path, steps: int) -> None:
    save_training_curves(tmp_path / "curves.svg", history(steps, 10))
    text = (tmp_path / "curves.svg").read_text()  # each piece of text is a comment as well
    assert f"<!-- mAP  0.250 → {0.25 + steps / 1000:.3f} -->" in text
    assert "<!-- mAP-hard  0.111 → 0.222 -->" in text
    assert "recall@1" not in text
    assert ("<!-- mean of 15 -->" in text) == (steps == 300)  # few steps are shown as they are


def test_training_curves_as_pixels(tmp_path: Path) -> None:
    save_training_curves(tmp_path / "curves.png", history(50, 10))
    picture = Image.open(tmp_path / "curves.png")
    assert picture.size == (1650, 630)
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize(
    "rows", [[], [{"step": 0, "eval": {"mAP": 0.3}}], [{"step": 1, "loss": 2}]]
)
def test_training_curves_of_hardly_anything(tmp_path: Path, rows: list[dict]) -> None:
    save_training_curves(tmp_path / "curves.png", rows)
    assert (tmp_path / "curves.png").exists()


def test_nothing_but_the_picture_is_left(tmp_path: Path) -> None:
    for _ in range(2):  # the second replaces the first
        save_ranked_results(tmp_path / "ranked.png", [])
        save_training_curves(str(tmp_path / "curves.png"), history(5, 5))
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "ranked.png"]


def test_a_failed_write_keeps_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ranked.png"
    save_ranked_results(path, [])
    before = path.read_bytes()

    def full_disk(self: Image.Image, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*ranked\.png: No space left on device"):
        save_ranked_results(path, [RankedRow(image(9, 9), [])])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ranked.png"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        save_training_curves(tmp_path / "missing" / "curves.png", [])
