"""Feeds damaged files to every reader: `python -m tests.fuzz [READER …] [--rounds N]`.

Each input must be read, or refused with a message of one line. Nothing else may happen: no other
exception, no crash, no hang, no memory beyond the limit, no file outside the folder, no code of the
input that runs. `python -m tests.fuzz READER --seed N` makes one input again and shows it.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.fuzz import corpus, mutators
from tests.fuzz.mutators import Files, Mutator
from tests.fuzz.readers import READERS
from tests.fuzz.sandbox import Outcome, Reading, in_process, lay_out

_BATCH = 50  # inputs of a reader before the next reader's, where there is a time to fill
_BY_SUFFIX = {".pkl": mutators.PICKLE, ".pt": mutators.PICKLE, ".json": mutators.JSON,
              ".jsonl": mutators.JSON, ".txt": mutators.TEXT, ".failures": mutators.JSON}  # fmt: skip


class Inputs:
    """The inputs of one reader by their seed: sound ones with damage, and below 0 the corpus."""

    def __init__(self, name: str, sound: list[Files]):
        self.name, self.reader, self.sound = name, READERS[name], sound
        names = [n for n in sound[0] if self._is_damaged(n)]
        self.shapes = corpus.shapes(name, sound[0], names)

    def __getitem__(self, seed: int) -> Files:
        if seed < 0:
            return self.shapes[seed]
        rng = random.Random(f"{self.name} {seed}")
        files = dict(rng.choice(self.sound))
        names = [n for n in files if self._is_damaged(n)]
        for name in rng.sample(names, rng.choice([1] * 9 + [min(2, len(names))])):
            content = files[name]
            assert isinstance(content, bytes)
            files[name] = mutators.damaged(rng, content, _mutators_of(name))
        return files

    def _is_damaged(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.reader.damage)


def _mutators_of(name: str) -> Iterable[Mutator]:
    return _BY_SUFFIX.get(Path(name).suffix, mutators.BINARY)


def outcomes(
    name: str, seeds: range, folder: Path, *, shapes: bool = False
) -> Iterable[tuple[int, Outcome]]:
    """What becomes of the inputs of a reader, each by its seed; `shapes` adds the corpus."""
    reader, reading = READERS[name], []
    (made,) = in_process(lambda _: list(reader.sound(folder / "sound")), [None], folder)
    if isinstance(made, Outcome):
        raise SystemExit(f"{name}: making sound files: {made.detail}")
    inputs = Inputs(name, made)

    def outcome(seed: int) -> Outcome:
        if not reading:
            reading.append(Reading(reader.read, inputs.sound, folder, reader.lines))
        found = reading[0].outcome(inputs[seed])
        if reader.exact and found.kind == "read" and found.value not in reading[0].values:
            return Outcome("failed", "something else was read than was written")
        return found._replace(value=None)

    chosen = [*range(-len(inputs.shapes) * shapes, 0), *seeds]
    return zip(chosen, in_process(outcome, chosen, folder), strict=True)


def _show(name: str, seed: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    ((_, outcome),) = outcomes(name, range(seed, seed + 1), folder)
    print(f"{name}, seed {seed}: {outcome.kind}: {outcome.detail}")
    print(f"the input is in {folder / 'case'}")
    return outcome.kind == "failed"


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    help_ = "inputs for each reader, besides the corpus"
    parser.add_argument("--rounds", type=int, default=200, help=help_)
    parser.add_argument("--seconds", type=float, help="goes on for so long instead")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only makes this input, and shows what happens")
    parser.add_argument("--json", metavar="FILE", help="writes the counts and failures")
    args = parser.parse_args()
    names = args.readers or list(READERS)
    if args.seed is not None:
        return max(_show(name, args.seed) for name in names)
    counts: dict[str, collections.Counter[str]] = {n: collections.Counter() for n in names}
    failures: list[dict[str, Any]] = []
    took: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    step = _BATCH if args.seconds else args.rounds
    for first in itertools.count(args.start, step):
        for name in names:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                seeds, shapes = range(first, first + step), first == args.start
                for seed, outcome in outcomes(name, seeds, Path(folder), shapes=shapes):
                    counts[name][outcome.kind] += 1
                    if outcome.kind == "failed":
                        failures.append({"reader": name, "seed": seed, "why": outcome.detail})
                        print(f"FAILED {name} --seed {seed}: {outcome.detail}", flush=True)
            took[name] += time.monotonic() - began
        if time.monotonic() - started > (args.seconds or 0):
            break
    print(f"{'reader':18} {'tried':>8} {'read':>8} {'refused':>8} {'failed':>8} {'seconds':>8}")
    for name, count in counts.items():
        numbers = [sum(count.values()), *(count[kind] for kind in ("read", "refused", "failed"))]
        print(f"{name:18} " + " ".join(f"{n:8}" for n in numbers) + f" {took[name]:8.1f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"counts": counts, "failures": failures}, indent=1))
    for failure in failures:
        print(f"python -m tests.fuzz {failure['reader']} --seed {failure['seed']}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
