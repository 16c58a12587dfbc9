"""Ground truth files for tests."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np


def write_truth(path: Path, **changes) -> str:
    content = {
        "imlist": ["a", "b.png", "c"],
        "qimlist": ["q"],
        "gnd": [{"bbx": [1.5, 2.5, 9.4, 6.6], "easy": [0], "hard": np.array([2]), "junk": []}],
    }
    content = {k: v for k, v in (content | changes).items() if v is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path.as_posix()
