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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.fuzz import corpus, mutators
from tests.fuzz.mutators import Files
from tests.fuzz.readers import READERS
from tests.fuzz.sandbox import Outcome, Reading, in_process

# In memory, where there is such a folder: thousands of files are made and deleted.
_PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_BATCH = 50  # inputs of a reader before the next reader's, where there is a time to fill
_KINDS = ("read", "refused", "failed")
_BY_SUFFIX: dict[str, Sequence[mutators.Mutator]] = {
    **dict.fromkeys((".pkl", ".pt"), mutators.PICKLE),
    **dict.fromkeys((".json", ".jsonl", ".failures"), mutators.JSON),
    ".txt": mutators.TEXT,
}


class Inputs:
    """The inputs of one reader by their seed: sound ones with damage, and below 0 the corpus."""

    def __init__(self, name: str, sound: list[Files]):
        self.name, self.sound, self._damage = name, sound, READERS[name].damage
        self.shapes = corpus.shapes(name, sound[0], self._damaged(sound[0]))

    def __getitem__(self, seed: int) -> Files:
        if seed < 0:
            return self.shapes[seed]
        rng = random.Random(f"{self.name} {seed}")
        files = dict(rng.choice(self.sound))
        names = self._damaged(files)
        for name in rng.sample(names, rng.choice([1] * 9 + [min(2, len(names))])):
            fit = _BY_SUFFIX.get(Path(name).suffix, mutators.BINARY)
            files[name] = mutators.damaged(rng, files[name], fit)
        return files

    def _damaged(self, files: Files) -> list[str]:
        return [n for n in files if any(fnmatch.fnmatch(n, pattern) for pattern in self._damage)]


def outcomes(
    name: str, seeds: range, folder: Path, *, shapes: bool = False
) -> Iterable[tuple[int, Outcome]]:
    """What becomes of the inputs of a reader, each by its seed; `shapes` adds the corpus."""
    reader, reading = READERS[name], []
    (sound,) = in_process(lambda _: list(reader.sound(folder / "sound")), [None], folder)
    inputs = Inputs(name, sound)

    def outcome(seed: int) -> Outcome:
        if not reading:
            reading.append(Reading(reader.read, sound, folder, reader.lines))
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
    add = parser.add_argument
    add("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    add("--rounds", type=int, default=200, help="inputs for each reader, besides the corpus")
    add("--seconds", type=float, help="goes on for so long instead")
    add("--start", type=int, default=0, help="the first seed")
    add("--seed", type=int, help="only makes this input, and shows what becomes of it")
    add("--json", metavar="FILE", help="writes the counts and failures")
    args = parser.parse_args()
    names = args.readers or list(READERS)
    if args.seed is not None:
        return max(_show(name, args.seed) for name in names)
    counts = {name: collections.Counter(dict.fromkeys(_KINDS, 0)) for name in names}
    took: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, Any]] = []
    started = time.monotonic()
    step = _BATCH if args.seconds else args.rounds
    for first in itertools.count(args.start, step):
        for name in names:
            began, seeds = time.monotonic(), range(first, first + step)
            with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_PLACE) as folder:
                found = outcomes(name, seeds, Path(folder), shapes=first == args.start)
                for seed, outcome in found:
                    counts[name][outcome.kind] += 1
                    if outcome.kind == "failed":
                        failures.append({"reader": name, "seed": seed, "why": outcome.detail})
                        print(f"FAILED {name} --seed {seed}: {outcome.detail}", flush=True)
            took[name] += time.monotonic() - began
        if time.monotonic() - started > (args.seconds or 0):
            break
    print(f"{'':18}" + "".join(f"{title:>9}" for title in ("tried", *_KINDS, "seconds")))
    for name, count in counts.items():
        numbers = "".join(f"{n:9}" for n in (count.total(), *(count[kind] for kind in _KINDS)))
        print(f"{name:18}{numbers}{took[name]:9.1f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"counts": counts, "failures": failures}, indent=1))
    for failure in failures:
        print(f"python -m tests.fuzz {failure['reader']} --seed {failure['seed']}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
