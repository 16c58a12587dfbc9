"""The loader: the same bytes however they are made, errors that name the image, no process left."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.loader import BatchLoader
from dir_jax.data.samplers import EveryClass, Listed, Shuffle
from dir_jax.errors import UserError
from tests.inputs.real_world import truncate

ROOT = Path(__file__).resolve().parents[2]
COUNT, BATCH = 30, 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> LabelledDataset:
    """30 images of random pixels and different sizes, of 5 classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    names = [f"image {i}.png" for i in range(COUNT)]
    for i, name in enumerate(names):
        pixels = rng.integers(256, size=(20 + i, 40 - i // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return LabelledDataset(names, [str(i % 5) for i in range(COUNT)], str(root))


# Transforms are made inside functions: worker processes then get their code, not the test's name.
def random_crop():
    def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        x, y = rng.integers(image.width - 15), rng.integers(image.height - 15)
        return image.crop((x, y, x + 16, y + 16))

    return crop


def random_number():
    """Gives a pixel that is a random number, so that a stream is seen without an image in it."""

    def pixel(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return Image.new("RGB", (1, 1), tuple(rng.integers(256, size=3).tolist()))

    return pixel


def whole():
    return lambda image, rng: image


def load(dataset, transform, sampler, *, start=0, stop=4, rows=None, unit=4, workers=0, **options):
    options = {"seed": 7, "prefetch": 2} | options
    rows = np.arange(sampler.batch_size) if rows is None else np.asarray(rows)
    return BatchLoader(
        dataset,
        transform,
        sampler,
        rows=rows,
        unit=unit,
        start_step=start,
        stop_step=stop,
        num_workers=workers,
        **options,
    )


@pytest.fixture(scope="module")
def expected(dataset) -> np.ndarray:
    """(4 steps, BATCH, 16, 16, 3): what a plain loop over the contract gives."""
    sampler, crop = EveryClass(dataset.labels, BATCH, 3), random_crop()
    return np.array(
        [
            [
                np.asarray(crop(dataset.open(i), np.random.default_rng((7, step * BATCH + row))))
                for row, i in enumerate(sampler(step))
            ]
            for step in range(4)
        ]
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_same_bytes_for_any_number_of_workers(dataset, expected, workers):
    sampler = EveryClass(dataset.labels, BATCH, 3)
    with load(dataset, random_crop(), sampler, workers=workers) as loader:
        assert len(loader) == 12
        units = list(loader)
    assert all(type(u) is np.ndarray and u.dtype == np.uint8 and u.flags.writeable for u in units)
    np.testing.assert_array_equal(np.concatenate(units).reshape(expected.shape), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_at_a_step(dataset, expected, workers):
    sampler = EveryClass(dataset.labels, BATCH, 3)
    with load(dataset, random_crop(), sampler, start=2, unit=6, workers=workers) as loader:
        np.testing.assert_array_equal(
            np.stack(list(loader)).reshape(2, 12, 16, 16, 3), expected[2:]
        )


def test_rows_in_the_order_asked_for(dataset, expected):
    rows = [11, 3, 0, 5]
    sampler = EveryClass(dataset.labels, BATCH, 3)
    with load(dataset, random_crop(), sampler, rows=rows, unit=2) as loader:
        np.testing.assert_array_equal(
            np.stack(list(loader)).reshape(4, 4, 16, 16, 3), expected[:, rows]
        )


def test_random_stream_is_of_seed_step_and_row_alone(dataset):
    """Two samplers that draw other images give each row the same random numbers; a seed, others."""

    def numbers(sampler_seed: int, seed: int) -> np.ndarray:
        sampler = Shuffle(COUNT, BATCH, sampler_seed)
        with load(dataset, random_number(), sampler, seed=seed) as loader:
            return np.concatenate(list(loader)).reshape(-1, 3)

    first = numbers(1, 7)
    np.testing.assert_array_equal(first, numbers(2, 7))
    assert (first != numbers(1, 8)).any(axis=1).mean() > 0.9
    # No two rows share a stream: 48 draws of 2²⁴ colours meet by chance once in 15,000 seeds.
    assert len(np.unique(first, axis=0)) == len(first)


def test_sizes_may_differ_between_arrays(dataset):
    with load(dataset, whole(), Listed(np.array([3, 3, 9, 9]), 2), stop=2, unit=2) as loader:
        assert [u.shape for u in loader] == [
            (2, dataset.size(i)[1], dataset.size(i)[0], 3) for i in (3, 9)
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_fewer_arrays_than_workers_and_none_at_all(dataset, workers):
    sampler = Shuffle(COUNT, 4, 0)
    for stop in (1, 0):
        with load(dataset, random_crop(), sampler, stop=stop, workers=workers) as loader:
            assert len(list(loader)) == len(loader) == stop
            assert list(loader) == []


@pytest.mark.parametrize("workers", [0, 2])
class TestErrors:
    def test_unreadable_image(self, dataset, workers, tmp_path):
        (tmp_path / "bad.jpg").write_bytes(b"not a picture")
        names = [dataset.path(i) for i in range(7)] + [str(tmp_path / "bad.jpg")]
        with load(ImageDataset(names), random_crop(), Listed(np.arange(8), 4), workers=workers,
                  stop=2) as loader:  # fmt: skip
            assert len(next(loader)) == 4
            with pytest.raises(UserError, match=r"bad\.jpg is not an image"):
                next(loader)
            assert list(loader) == []  # it ended

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (ValueError("too dark"), r"cannot be transformed: ValueError: too dark"),
            (UserError("RandomCrop(64) needs more"), r"cannot be transformed: RandomCrop\(64\) ne"),
        ],
    )
    def test_failing_transform(self, dataset, workers, error, message):
        def fail(image, rng):
            raise error

        one = Listed(np.array([5]), 1)
        with (
            load(dataset, fail, one, stop=1, unit=1, workers=workers) as loader,
            pytest.raises(UserError, match=rf"image 5\.png {message}"),
        ):
            next(loader)

    def test_different_sizes_in_one_array(self, dataset, workers):
        with (
            load(dataset, whole(), Listed(np.arange(4), 4), stop=1, workers=workers) as loader,
            pytest.raises(UserError, match=r"image 0\.png has 40 x 20 .*image 1\.png has 40 x 21"),
        ):
            next(loader)


def test_units_that_do_not_divide_the_rows(dataset):
    with pytest.raises(UserError, match=r"12 rows .* units of 5"):
        load(dataset, random_crop(), Shuffle(COUNT, BATCH, 0), unit=5)


def test_worker_that_is_killed(dataset):
    def killed(image, rng):
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        load(dataset, killed, Shuffle(COUNT, BATCH, 0), workers=1) as loader,
        pytest.raises(UserError, match=r"exit code -9 \(it was killed, .*memory"),
    ):
        next(loader)


def children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize("taken", [0, 1])
def test_close_ends_the_workers(dataset, taken):
    before = children()
    loader = load(dataset, random_crop(), Shuffle(COUNT, BATCH, 0), stop=1000, workers=2)
    for _ in range(taken):
        next(loader)
    wait_for(lambda: len(children() - before) == 2)
    loader.close()
    assert children() <= before
    loader.close()  # again does nothing
    with pytest.raises(StopIteration):
        next(loader)


def test_collected_loader_ends_its_workers(dataset):
    before = children()
    loader = load(dataset, random_crop(), Shuffle(COUNT, BATCH, 0), stop=1000, workers=1)
    next(loader)
    assert len(children() - before) == 1
    del loader
    assert children() <= before


class TestDamagedImages:
    """Pictures cut short, whose headers can be read, are replaced by others of their class."""

    @pytest.fixture
    def damaged(self, dataset, tmp_path):
        shutil.copytree(dataset.root, tmp_path / "images")
        for number in (0, 7, 12):
            truncate(tmp_path / "images" / dataset.names[number])
        return LabelledDataset(dataset.names, dataset.texts(), str(tmp_path / "images"))

    def load(self, dataset, workers=0, start=0, labels=None, **options):
        found: dict[int, str] = {}
        sampler = EveryClass(dataset.labels, BATCH, 3)
        labels = dataset.labels if labels is None else labels
        with load(dataset, random_crop(), sampler, start=start, workers=workers, labels=labels,
                  on_damage=found.__setitem__, **options) as loader:  # fmt: skip
            return np.concatenate(list(loader)).reshape(-1, BATCH, 16, 16, 3), found

    def test_replaced_alike_with_any_workers_and_after_a_restart(self, damaged, expected):
        images, found = self.load(damaged)
        assert found.keys() == {0, 7, 12}
        assert all("cannot be read" in why for why in found.values())
        sampler, crop = EveryClass(damaged.labels, BATCH, 3), random_crop()
        for step, row in np.ndindex(4, BATCH):
            wanted, image = int(sampler(step)[row]), images[step, row]
            if wanted not in found:
                np.testing.assert_array_equal(image, expected[step, row])
                continue
            others = np.flatnonzero(damaged.labels == damaged.labels[wanted])
            possible = [
                np.asarray(crop(damaged.open(i), np.random.default_rng((7, step * BATCH + row))))
                for i in others.tolist() if i not in found and i not in sampler(step)
            ]  # fmt: skip
            assert any(np.array_equal(image, other) for other in possible)
        for again in (self.load(damaged, workers=2), self.load(damaged, unit=12)):
            np.testing.assert_array_equal(again[0], images)
            assert again[1] == found
        np.testing.assert_array_equal(self.load(damaged, start=2)[0], images[2:])

    def test_no_other_can_take_its_place(self, damaged):
        labels = np.where(np.arange(COUNT) % 5 == 2, np.arange(COUNT) + 5, damaged.labels)
        with pytest.raises(UserError, match=r"7\.png cannot be read: .*; no other image has its"):
            self.load(damaged, labels=labels)


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# A module that is run by `python -m`: absl flags, some of its own; it prints its workers, then
# loads for ever.
SCRIPT = textwrap.dedent(
    """
    import functools
    import sys
    import time

    from absl import flags

    STEPS = flags.DEFINE_integer("steps", 10, "")
    PAUSE = flags.DEFINE_float("pause", 0, "")

    def identity(pause, image, rng):
        time.sleep(pause)
        return image

    def main():
        import multiprocessing
        import numpy as np
        from PIL import Image
        from dir_jax.data.images import ImageDataset
        from dir_jax.data.loader import BatchLoader
        from dir_jax.data.samplers import Shuffle

        Image.new("RGB", (4, 4)).save("one.png")
        with BatchLoader(
            ImageDataset(["one.png"] * 8), functools.partial(identity, PAUSE.value),
            Shuffle(8, 8, 0), seed=0, rows=np.arange(8), unit=4, start_step=0,
            stop_step=STEPS.value, num_workers=2, prefetch=2,
        ) as loader:
            next(loader)
            next(loader)
            print(*(p.pid for p in multiprocessing.active_children()), flush=True)
            print("done", sum(1 for _ in loader), flush=True)

    if __name__ == "__main__":
        flags.FLAGS(sys.argv)
        main()
    """
)


def start_script(folder: Path, *arguments: str) -> tuple[subprocess.Popen, list[int]]:
    (folder / "entry.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-m", "entry", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2, process.communicate()
    return process, workers


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test():
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"  # a zombie has ended


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
class TestProcesses:
    def test_module_with_flags(self, tmp_path):
        process, workers = start_script(tmp_path, "--steps=5")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "done 8\n", "")
        assert not any(map(alive, workers))

    def test_kill_9_of_the_main_process(self, tmp_path):
        process, workers = start_script(tmp_path, "--steps=1000000")
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not any(map(alive, workers)))

    def test_ctrl_c(self, tmp_path):
        # It waits for images, as programs do. (Python cannot raise within a destructor, where one
        # that does nothing else spends much of its time.)
        process, workers = start_script(tmp_path, "--steps=1000000", "--pause=0.05")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        _, err = process.communicate(timeout=60)
        assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1  # only main's own
        assert process.returncode != 0
        assert not any(map(alive, workers))

    def test_sigterm_is_left_to_the_main_process(self, tmp_path):
        process, workers = start_script(tmp_path, "--steps=300")
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "done 598\n")
