"""A served index under load: throughput and latencies of 32 clients, and of one.

    python -m benchmarks.serve --json serve.json

`dir-jax serve` runs in a process of its own, on an index of 100,000 descriptors made from a seed;
the clients are threads of another, with a connection each, on the same machine. They ask by images
of the index, for which only descriptors are compared, and by pictures of 256 x 192 pixels, as JPEG
files, which are decoded and described by a ResNet-18 first. Every answer is 40 results as JSON; one
that is not is an error.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, machine

_ROWS, _WIDTH, _PICTURES = 100_000, 512, 100
_CASES = (  # what is asked by, clients, queries
    ("an image of the index", 1, 200),
    ("an image of the index", 32, 1000),
    ("a picture", 1, 100),
    ("a picture", 32, 1000),
)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    args = parser.parse_args()
    on, pictures = machine(), _pictures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_index(folder, pictures)
        command = [sys.executable, "-m", "dir_jax", "serve", str(folder / "index"), "--port", "0"]
        started = time.perf_counter()
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if line.startswith("serving on"))
            ready = time.perf_counter() - started
            host = line.split()[2].removeprefix("http://")
            results = [_measure(host, pictures, *case) for case in _CASES]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    rows = ["| asked by | clients | queries | errors | queries a second | p50, ms | p95, ms |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    rows += [
        f"| {r['what']} | {r['clients']} | {r['queries']:,} | {r['errors']} | "
        f"{r['rate']:.0f} | {r['p50']:.0f} | {r['p95']:.0f} |"
        for r in results
    ]
    rows += ["", f"From the command to the first answer that it can give: {ready:.0f} s."]
    table = "\n".join(rows)
    print(table)
    write_figures(args.json, on, table, cases=results, ready=ready)


def _measure(
    host: str, pictures: list[bytes], what: str, clients: int, queries: int
) -> dict[str, Any]:
    """Has some clients ask until so many queries are answered."""
    numbers, seconds, errors = itertools.count(), [], []

    def ask() -> None:
        connection = http.client.HTTPConnection(host, timeout=600)
        while (number := next(numbers)) < queries:
            begun = time.perf_counter()
            if what == "a picture":
                connection.request("POST", "/api/search", pictures[number % _PICTURES])
            else:
                connection.request("GET", f"/api/search?image={number * 97 % _ROWS}.jpg")
            answer = connection.getresponse()
            content = answer.read()
            seconds.append(time.perf_counter() - begun)
            if answer.status != 200 or len(json.loads(content)["results"]) != 40:
                errors.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = queries / (time.perf_counter() - started)
    p50, p95 = (1000 * float(np.quantile(seconds, share)) for share in (0.5, 0.95))
    lost = queries - len(seconds)
    return {"what": what, "clients": clients, "queries": queries, "errors": len(errors) + lost,
            "rate": rate, "p50": p50, "p95": p95}  # fmt: skip


def _pictures() -> list[bytes]:
    """JPEG files of smooth noise."""
    rng, files = np.random.default_rng(0), []
    for _ in range(_PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((256, 192), Image.Resampling.BICUBIC).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def _make_index(folder: Path, pictures: list[bytes]) -> None:
    """A model, and an index of it whose first images are the pictures."""
    from dir_jax.checkpoint import save_model
    from dir_jax.data.images import ImageDataset
    from dir_jax.describe.describer import Describer
    from dir_jax.loading import load_model
    from dir_jax.models import create_model
    from dir_jax.search.building import NewImages, create_index, marks_of
    from dir_jax.search.index import describe_model_of

    save_model(folder / "model", create_model("resnet18_rmac", out_dim=_WIDTH, seed=0))
    (folder / "photos").mkdir()
    for i, data in enumerate(pictures):
        (folder / f"photos/{i}.jpg").write_bytes(data)
    x = np.random.default_rng(0).standard_normal((_ROWS, _WIDTH), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = [f"{i}.jpg" for i in range(_ROWS)]
    marks = marks_of(ImageDataset(names, str(folder / "photos")))
    describer = Describer(load_model(folder / "model"))
    create_index(folder / "index", NewImages(names, marks, lambda: [x]), recipe=describer.recipe,
                 root=str(folder / "photos"),
                 model=describe_model_of(describer, folder / "model", {}))  # fmt: skip


if __name__ == "__main__":
    main()
