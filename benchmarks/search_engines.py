"""The engines of an index: recall, queries a second, build time and memory, beside FAISS itself.

    python -m benchmarks.search_engines --json search_engines.json

1,000,000 unit vectors of 256 dimensions around 10,000 centres, and 1,000 queries around the same
centres, made from a seed; recall@10 is against the exact engine. Each engine is built and searched
in a process of its own, all queries at once, and ours takes turns with the FAISS index that it
holds, called directly with the same parameters. `--disk` adds an exact search in 8 GB of
descriptors (1,000,000 x 2048) on the disk, within 2 GB of memory. `--rows` makes both smaller.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_figures
from benchmarks.side_by_side import machine

_WIDTH, _DISK_WIDTH, _QUERIES, _K, _TURNS = 256, 2048, 1000, 10, 5
_CENTRES, _NOISE = 10_000, 0.8  # as long as 0.8 of a centre, in all dimensions together
_ENGINES = ("exact", "faiss:IVF1024,SQ8", "faiss:HNSW32", "faiss:IVF4096,PQ64", "milvus:{}/lite.db")


def _vectors(rows: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of unit vectors around the centres."""
    centres = np.random.default_rng(9).standard_normal((_CENTRES, width), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 1 << 16):
        count = min(1 << 16, rows - start)
        x = _NOISE * rng.standard_normal((count, width), np.float32)
        x += centres[rng.integers(0, _CENTRES, count)]
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def _build(path: Path, engine: str, rows: int, width: int) -> float:
    """Makes an index; returns the seconds, those of making the vectors left out."""
    from dir_jax.model_recipe import Recipe
    from dir_jax.search.building import NewImages, change_index, changing, create_index

    names = [f"{i // 1000:04d}/{i}.jpg" for i in range(rows)]
    new = NewImages(names, np.zeros((rows, 2), np.int64), lambda: _vectors(rows, width, 0))
    model = {"path": "", "arch": "", "digest": "", "options": {}}
    create_index(path, new, root=str(path.parent), model=model, recipe=Recipe())
    start = time.perf_counter()
    if engine != "exact":
        with changing(path) as before:
            change_index(before, engine=engine)
    return time.perf_counter() - start


def _measure(folder: Path, engine: str, rows: int, width: int) -> dict[str, Any]:
    """Builds an engine and searches; to be called in a process of its own."""
    from dir_jax.search.index import Index

    path = folder / "index"
    built = _build(path, engine, rows, width)
    memory_to_build = _memory()
    index = Index(path)
    queries = next(_vectors(_QUERIES, width, 1))
    truth_file = folder / "truth.npy"
    ways = {"dir_jax": lambda: index.search(queries, _K).rows}
    if engine.startswith("faiss"):
        theirs: Any = vars(index._engine)["_index"]
        ways["FAISS directly"] = lambda: theirs.search(queries, _K)[1]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {name: way() for name, way in ways.items()}  # what starts is not timed
    for _ in range(_TURNS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    if engine == "exact":
        np.save(truth_file, found["dir_jax"])
    truth = np.load(truth_file)
    recalls = {name: float(np.mean([len(set(a) & set(b)) / _K for a, b in
                                    zip(rows.tolist(), truth.tolist(), strict=True)]))
               for name, rows in found.items()}  # fmt: skip
    ratio = 1.0
    if len(ways) > 1:
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)
        )
    rates = {name: _QUERIES / statistics.median(each) for name, each in seconds.items()}
    return {"build": built, "memory_to_build": memory_to_build, "memory": _memory(),
            "recall": recalls, "times_faiss": ratio, "queries_a_second": rates}  # fmt: skip


def _from_disk(folder: Path, rows: int) -> dict[str, Any]:
    """An exact search in an index whose files are not in memory."""
    from dir_jax.search.index import Index

    index = Index(folder / "index")
    queries = next(_vectors(70, _DISK_WIDTH, 1))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        index.search(queries, 100)
        times.append(time.perf_counter() - start)
    size = index.descriptors.nbytes / 1e9
    return {"rows": rows, "gigabytes": size, "first": times[0], "second": times[1],
            "memory": _memory()}  # fmt: skip


def _memory() -> float:
    """The most memory that this process has had, in GB, what it has mapped of files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _in_a_process(what: str, *arguments: object) -> Any:
    command = [sys.executable, "-m", "benchmarks.search_engines", "--worker", what]
    done = subprocess.run([*command, *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(rows: int, results: list[dict[str, Any]], disk: dict[str, Any] | None) -> str:
    lines = [f"{rows:,} x {_WIDTH}, {_QUERIES:,} queries at once:", "",
             "| engine | recall@10 | queries a second | FAISS directly: recall@10 | queries a "
             "second | times its time | build, s | memory to build, GB | memory with search, GB |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in results:
        recall, rate, side = r["recall"], r["queries_a_second"], "FAISS directly"
        beside = "| |"
        if side in recall:
            beside = f"{recall[side]:.3f} | {rate[side]:,.0f} | {r['times_faiss']:.2f}"
        lines.append(
            f"| `{r['engine']}` | {recall['dir_jax']:.3f} | {rate['dir_jax']:,.0f} | {beside} | "
            f"{r['build']:.1f} | {r['memory_to_build']:.1f} | {r['memory']:.1f} |"
        )
    if disk:
        what = f"{disk['rows']:,} x {_DISK_WIDTH} ({disk['gigabytes']:.1f} GB)"
        times = f"{disk['first']:.1f} s, then {disk['second']:.1f} s"
        memory = f"at most {disk['memory']:.2f} GB of memory"
        lines += ["", f"Exact from the disk: 70 queries, top 100 of {what}, {times}; {memory}."]
    return "\n".join(lines)


def main() -> None:
    """Measures all engines and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="vectors")
    parser.add_argument("--disk", action="store_true", help="also exact search from the disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        what, folder, rows, *rest = args.worker
        if what == "build":
            result: Any = _build(Path(folder, "index"), "exact", int(rows), _DISK_WIDTH)
        elif what == "disk":
            result = _from_disk(Path(folder), int(rows))
        else:
            result = _measure(Path(folder), rest[0], int(rows), _WIDTH)
        print(json.dumps(result))
        return
    on, results, disk = machine(), [], None
    with tempfile.TemporaryDirectory() as folder:
        for engine in _ENGINES:
            print(f"{engine} …", file=sys.stderr)
            results.append(_in_a_process("engine", folder, args.rows, engine.format(folder)))
            results[-1]["engine"] = engine.partition("/")[0].replace("{}", "FILE")
            subprocess.run(["rm", "-rf", f"{folder}/index"], check=True)
            write_figures(args.json, on, _table(args.rows, results, None), engines=results)
        if args.disk:
            _in_a_process("build", folder, args.rows)
            disk = _in_a_process("disk", folder, args.rows)
    table = _table(args.rows, results, disk)
    write_figures(args.json, on, table, engines=results, disk=disk)
    print(table)


if __name__ == "__main__":
    main()
