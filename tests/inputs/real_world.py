"""What people have: pictures in folders and lists of many kinds, written by code. A few kilobytes.

The pictures are four of two places, each of one colour, so that a test can tell them apart.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

PICTURES = {
    "eiffel tower/a.jpg": (200, 30, 30),
    "eiffel tower/my holiday.JPG": (30, 200, 30),
    "arch/a.png": (30, 30, 200),
    "arch/b.jpeg": (200, 200, 30),
}
NAMES = sorted(PICTURES)
LABELS = [name.split("/")[0] for name in NAMES]
PAIRS = list(zip(NAMES, LABELS, strict=True))


def _text(separator: str, rows=PAIRS, *, header: str = "") -> str:
    return header + "".join(f"{separator.join(row)}\n" for row in rows)


# Name of a list -> its text. All say what `PAIRS` says, or `NAMES`.
LABELLED = {
    "words.txt": _text(" "),
    "comments.txt": "# two places\n\n" + _text(" ").replace("arch\n", "arch  # in Paris\n"),
    "tabs.txt": _text("\t"),
    "commas.txt": _text(","),
    "no-suffix": _text(" "),
    "windows.txt": "\ufeff" + _text(" ").replace("\n", "\r\n"),
    "plain.csv": _text(","),
    "header.csv": _text(",", header="path,label\n"),
    "UPPER.CSV": _text(",", header="File Name,Class\n"),
    "semicolon.csv": _text(";", header="image;landmark_id\n"),
    "more-columns.csv": _text(
        ",", [(str(i), label, name, "x") for i, (name, label) in enumerate(PAIRS)],
        header="id,category,filename,note\n",
    ),
    "quoted.csv": "".join(f'"{name}","{label}"\n' for name, label in PAIRS),
    "label-first.csv": _text(",", [pair[::-1] for pair in PAIRS]),
    "plain.tsv": _text("\t"),
    "header.tsv": _text("\t", header="image\tlabel\n"),
    "object.json": json.dumps(dict(PAIRS)),
    "pairs.json": json.dumps(PAIRS),
    "objects.json": json.dumps([{"path": name, "label": label} for name, label in PAIRS]),
    "classes.json": json.dumps(
        {c: [n for n, label in PAIRS if label == c] for c in dict.fromkeys(LABELS)}
    ),
}  # fmt: skip
UNLABELLED = {
    "names.txt": _text("", [[name] for name in NAMES]),
    "names.csv": _text("", [[name] for name in NAMES], header="path\n"),
    "no-header.csv": _text("", [[name] for name in NAMES]),
    "names.json": json.dumps(NAMES),
}


def write_pictures(folder: Path, *, size=(24, 16)) -> Path:
    """Writes the pictures, and beside them what a disk has as well and nobody means."""
    for name, colour in PICTURES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
    (folder / "README.md").write_text("Photos of 2019.\n")
    (folder / "arch/._a.png").write_bytes(b"\0\5\26\7")  # as macOS leaves on other disks
    (folder / ".thumbnails").mkdir()
    Image.new("RGB", (4, 4)).save(folder / ".thumbnails/a.png")
    (folder / "arch/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return folder


def write_lists(folder: Path) -> Path:
    """Writes all lists."""
    for name, text in (LABELLED | UNLABELLED).items():
        (folder / name).write_text(text, newline="")
    return folder


def truncate(path: Path) -> None:
    """Cuts a picture in the middle: its header still reads."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
