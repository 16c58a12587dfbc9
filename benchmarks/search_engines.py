"""The engines of an index: recall, queries a second, build time and memory, beside FAISS itself.

    python -m benchmarks.search_engines --json search_engines.json

1,000,000 unit vectors of 256 dimensions around 10,000 centres, and 1,000 queries around the same
centres, made from a seed; recall@10 is against an exact search. Each engine is built and searched
in a process of its own, all queries at once, and takes turns with FAISS called directly: with the
index that ours holds, with the same parameters; beside the exact engine, with a flat one. Where
ours compares more candidates exactly than it is to give, so does FAISS's IndexRefineFlat, from
memory. The exact engine is also measured with 100,000 x 2048. The last is an exact search in 8 GB
(1,000,000 x 2048) that are on the disk and, the first time, not in the system's cache. `--rows`
makes all of them smaller; `--only` measures some, and leaves the others in FILE as they are.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_figures
from benchmarks.side_by_side import machine

_ROWS, _QUERIES, _K, _TURNS = 1_000_000, 1000, 10, 5
_CENTRES, _NOISE = 10_000, 0.8  # as long as 0.8 of a centre, in all dimensions together
_CASES = {  # name -> engine, share of the rows, width
    "exact": ("exact", 1, 256),
    "exact, 2048 dimensions": ("exact", 0.1, 2048),
    "faiss:IVF1024,SQ8": ("faiss:IVF1024,SQ8", 1, 256),
    "faiss:HNSW32": ("faiss:HNSW32", 1, 256),
    "faiss:IVF4096,PQ64": ("faiss:IVF4096,PQ64", 1, 256),
    "milvus:FILE (Lite)": ("milvus:{}/lite.db", 1, 256),
    "exact from the disk": ("disk", 1, 2048),
}


def _vectors(rows: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of unit vectors around the centres."""
    centres = np.random.default_rng(9).standard_normal((_CENTRES, width), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 1 << 16):
        count = min(1 << 16, rows - start)
        x = _NOISE * rng.standard_normal((count, width), np.float32)
        x += centres[rng.integers(0, _CENTRES, count)]
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def _build(folder: Path, engine: str, rows: int, width: int) -> dict[str, float]:
    """Makes an index and times its engine; to be called in a process of its own."""
    from dir_jax.model_recipe import Recipe
    from dir_jax.search.building import NewImages, change_index, changing, create_index

    names = [f"{i // 1000:04d}/{i}.jpg" for i in range(rows)]
    new = NewImages(names, np.zeros((rows, 2), np.int64), lambda: _vectors(rows, width, 0))
    model = {"path": "", "arch": "", "digest": "", "options": {}}
    create_index(folder / "index", new, root=str(folder), model=model, recipe=Recipe())
    start = time.perf_counter()
    if engine not in ("exact", "disk"):
        with changing(folder / "index") as before:
            change_index(before, engine=engine)
    return {"build": time.perf_counter() - start, "memory_to_build": _memory()}


def _search(folder: Path, engine: str, _: int, width: int) -> dict[str, Any]:
    """Searches with ours and FAISS by turns; to be called in a process of its own."""
    from dir_jax.search.exact import exact_search
    from dir_jax.search.index import Index

    index = Index(folder / "index")
    queries = next(_vectors(_QUERIES, width, 1))
    ways: dict[str, Callable[[], Any]] = {"dir_jax": lambda: index.search(queries, _K).rows}
    found = {"dir_jax": ways["dir_jax"]()}  # the first call of each is not timed
    memory = _memory()
    for name, theirs in _faiss(index, engine):
        ways[name] = functools.partial(theirs, queries, _K)
        found[name] = ways[name]()[1]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _turn in range(_TURNS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    truth = exact_search(index._contents, queries, _K)[1].tolist()
    sides = {}
    for name, rows in found.items():
        hits = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), truth, strict=True)]
        ratios = [ours / own for ours, own in zip(seconds["dir_jax"], seconds[name], strict=True)]
        sides[name] = {"recall": sum(hits) / (_K * _QUERIES), "ratio": statistics.median(ratios),
                       "ratios": (min(ratios), max(ratios)),
                       "rate": _QUERIES / statistics.median(seconds[name])}  # fmt: skip
    return {"sides": sides, "memory": memory, "settings": index._engine.settings}


def _faiss(index: Any, engine: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """How FAISS itself would search."""
    import faiss

    x = index.descriptors
    if engine == "exact":
        flat = faiss.IndexFlatIP(x.shape[1])
        flat.add(x)
        yield "FAISS flat", flat.search
    elif engine.startswith("faiss:"):
        theirs, candidates = index._engine._index, index._engine.settings["candidates"]
        yield "FAISS directly", theirs.search
        if candidates > 1:
            refined = faiss.IndexRefineFlat(theirs, faiss.swig_ptr(x))
            refined.k_factor = candidates
            yield "FAISS, IndexRefineFlat", refined.search


def _from_disk(folder: Path, _: str, rows: int, width: int) -> dict[str, Any]:
    """An exact search in an index whose descriptors are not in memory."""
    from dir_jax.search.index import Index

    index = Index(folder / "index")
    with open(index._contents.file("descriptors"), "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    queries = next(_vectors(70, width, 1))
    times = []
    for _turn in range(2):
        start = time.perf_counter()
        index.search(queries, 100)
        times.append(time.perf_counter() - start)
    gigabytes = index.descriptors.nbytes / 1e9
    return {"gigabytes": gigabytes, "times": times, "memory": _memory()}


def _memory() -> float:
    """The most memory that this process has had, in GB; what it has mapped of files counts."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _in_a_process(what: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.search_engines", "--worker", what]
    # Where others use the cores too, threads that spin take them from those that they wait for.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, check=True, env=env
    )
    return json.loads(done.stdout.splitlines()[-1])


def _table(cases: dict[str, dict[str, Any]]) -> str:
    head = ["engine", "vectors", "side", "recall@10", "queries a second",
            "time of dir_jax over its: median (min–max)", "build, s", "memory to build, GB",
            "to search, GB"]  # fmt: skip
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    disk = []
    for name, case in cases.items():
        vectors = f"{case['rows']:,} x {case['width']}"
        if "sides" not in case:
            first, second = case["times"]
            disk = ["", f"{name.capitalize()}: 70 queries, top 100 of {vectors} "
                    f"({case['gigabytes']:.1f} GB) in {first:.1f} s, then {second:.1f} s, with at "
                    f"most {case['memory']:.2f} GB of memory, mapped pages of the file "
                    "included."]  # fmt: skip
            continue
        for side, r in case["sides"].items():
            ratio = f"{r['ratio']:.2f} ({r['ratios'][0]:.2f}–{r['ratios'][1]:.2f})"
            row = ["", "", side, f"{r['recall']:.3f}", f"{r['rate']:,.0f}", ratio, "", "", ""]
            if side == "dir_jax":
                row[:2] = f"`{name}`", vectors
                row[5:] = [f"{case['build']:.0f}" if case["build"] > 1 else "",
                           f"{case['memory_to_build']:.1f}", f"{case['memory']:.1f}"]  # fmt: skip
                row.insert(5, "")
            rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows + disk)


def main() -> None:
    """Measures the engines and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=_ROWS, metavar="N", help="vectors")
    parser.add_argument("--only", nargs="+", choices=_CASES, metavar="CASE", help="only these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        what, folder, engine, rows, width = args.worker
        do = {"build": _build, "search": _search, "disk": _from_disk}[what]
        print(json.dumps(do(Path(folder), engine, int(rows), int(width))))
        return
    on, cases = machine(), {}
    on["versions"] |= {name: metadata.version(name) for name in ("faiss-cpu", "milvus-lite")}
    if args.only and args.json and args.json.exists():
        cases = json.loads(args.json.read_text())["cases"]
    for name in args.only or _CASES:
        engine, share, width = _CASES[name]
        rows = int(share * args.rows)
        print(f"{name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            index = folder, engine.format(folder), rows, width
            built = _in_a_process("build", *index)
            found = _in_a_process("disk" if engine == "disk" else "search", *index)
        cases[name] = {"rows": rows, "width": width, **built, **found}
        cases = {name: cases[name] for name in _CASES if name in cases}
        write_figures(args.json, on, _table(cases), cases=cases)
    print(_table(cases))


if __name__ == "__main__":
    main()
