"""Two processes that train together: the numbers of one, and how both of them end."""

import contextlib
import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from dir_jax.array_files import open_arrays, read_arrays
from dir_jax.checkpoint import save_model
from dir_jax.data.structure_from_motion import path_of
from dir_jax.models import create_model
from tests.inputs.real_world import truncate
from tests.training import tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = tiny_recipe.__file__
LIMIT = 200  # seconds, for every process: much more than they take, on a machine as busy as may be

LOSSES = {
    "ap": ["loss.name=ap"],
    "mined": ["loss.name=triplet", "sampler.name=mined", "loss.margin=1"],
}
FROZEN = ["batch_norm=frozen", "model.init={init}"]
QUICK = ["num_steps=1", "whitening.name=", "data.eval="]

# What is trained with two devices of one process, and with one of each of two.
RUNS = {
    f"{loss}_{parallel}_{'frozen' if frozen else 'trained'}": [
        f"parallel={parallel}", *LOSSES[loss], *frozen
    ]
    for loss in LOSSES
    for parallel in ("shard_map", "pmap")
    for frozen in ([], FROZEN)
}  # fmt: skip
RUNS["pairs"] = [
    *LOSSES["mined"], *FROZEN, *QUICK, "data.train=SfM120k_train", "data.db_root={data}"
]  # fmt: skip
# Images that no process can read, and images that one of two cannot read.
for _name, _folder in {"skip": "bad", "skip_one": "own"}.items():
    _list = f'ImageListLabels("{{{_folder}}}/%s.txt", "{{{_folder}}}")'
    _lists = [f"data.{key}={_list % key}" for key in ("train", "eval")]
    RUNS[_name] = ["data.on_error=skip", "whitening.name=", *_lists]


def start(arguments, process, data, *, devices=1):
    """One process with so many devices of the CPU; `said` is what it writes to standard error."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    others = ("XLA_FLAGS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in others}
    environment |= {
        "XLA_FLAGS": flag, "TINY_DATA": str(data), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(Path(data).parent / "cache"), "OMP_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(Path(data).parent / "compiled"),  # of this file alone
    }  # fmt: skip
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads would fill
    STARTED.append(subprocess.Popen(
        [sys.executable, *arguments], cwd=data, env=environment,
        stdout=subprocess.DEVNULL, stderr=said,
    ))  # fmt: skip
    STARTED[-1].said = said
    return STARTED[-1]


STARTED = []


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    """Ends what a test that failed has left."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
        process.said.close()


def free_address():
    """One whose port no outgoing connection takes before process 0 does: those are higher."""
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
            return f"127.0.0.1:{s.getsockname()[1]}"


class Pair:
    """The training command in two processes."""

    def __init__(self, workdir, data, *flags, workdirs=None, datas=None):
        address = free_address()
        self.workdir = workdir
        self.processes = [
            start(
                ["-m", "dir_jax.train", f"--config={RECIPE}", "--config.num_steps=5000",
                 f"--workdir={workdirs[i] if workdirs else workdir}", *flags,
                 f"--compilation-cache={workdir.parent / 'xla'}", "--config.whitening.name=",
                 f"--coordinator-address={address}", "--num-processes=2", f"--process-id={i}"],
                i, datas[i] if datas else data,
            )
            for i in range(2)
        ]  # fmt: skip

    def wait_for_step(self, step):
        log, end = self.workdir / "metrics.jsonl", time.monotonic() + LIMIT
        while time.monotonic() < end:
            rows = log.read_text().split("\n")[:-1] if log.exists() else []  # whole ones
            if rows and json.loads(rows[-1])["step"] >= step:
                return
            if codes := [p.returncode for p in self.processes if p.poll() is not None]:
                pytest.fail(f"ended with {codes}: {self.ended()}")
            time.sleep(0.1)
        pytest.fail(f"too slow: {[said(p) for p in self.processes]}")

    def ended(self):
        """(code, the lines of standard error that tell of errors) of each."""
        return [(p.wait(LIMIT), errors(p)) for p in self.processes]

    def last_step(self):
        return json.loads((self.workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]

    def saved(self):
        return max(saved_steps(self.workdir))


def saved_steps(run):
    """step -> folder, without those that are being written."""
    folders = (run / "checkpoints").glob("[0-9]*")
    return {int(folder.name): folder for folder in folders if folder.name.isdigit()}


def said(process):
    process.said.seek(0)
    return process.said.read()


def errors(process):
    return [line for line in said(process).splitlines() if "error" in line]


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("several") / "data"
    shutil.copytree(tiny_data, folder)
    save_model(folder / "init", create_model("tiny_rmac", out_dim=6))
    (folder / "test.txt").rename(folder / "eval.txt")
    # The same images as SfM-120k has them, two of each cluster a pair.
    sfm = folder / "train/retrieval-SfM-120k"
    images = [f"{i:06x}" for i in range(12)]
    for image, row in zip(images, (folder / "train.txt").read_text().splitlines(), strict=True):
        path = sfm / path_of(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / row.split()[0], path)
    content = {"cids": images, "cluster": [i // 4 for i in range(12)],
               "qidxs": [0, 1, 4, 5, 8, 9], "pidxs": [2, 3, 6, 7, 10, 11]}  # fmt: skip
    (sfm / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": content, "val": content}))
    return folder


@pytest.fixture(scope="module")
def bad_data(data):
    """Copies with more images: as it is; with one image of each list that has no header ('torn'),
    and with these and one of each that is cut short ('bad')."""
    for name in ("good", "bad", "torn"):
        folder = data.parent / name
        shutil.copytree(data, folder)
        for image in "abc":
            shutil.copy(folder / f"{image}3.jpg", folder / f"{image}4.jpg")
            with (folder / "train.txt").open("a") as rows:
                rows.write(f"{image}4.jpg {image}\n")
        if name == "good":
            continue
        (folder / "a1.jpg").unlink()
        (folder / "d1.jpg").write_text("<html>404</html>")
        for image in ("e2.jpg", "c0.jpg") if name == "bad" else ():
            truncate(folder / image)
    return data.parent


@pytest.fixture(scope="module")
def killed(data):
    """Two processes of which the second was killed: JAX needs half a minute to be sure."""
    pair = Pair(data.parent / "killed", data)
    pair.wait_for_step(2)
    pair.processes[1].kill()
    yield pair
    pair.processes[0].kill()


def run_all(data, names, address=""):
    """Trains the runs of `names`, run -> workdir, in two processes or in one with two devices."""
    root, count = data.parent, 2 if address else 1
    processes = []
    for i in range(count):
        own = root / ("good" if count == 2 and i == 0 else "torn")
        where = {"init": data / "init", "data": data, "bad": root / "bad", "own": own}
        arguments = [
            ";".join([str(workdir), *RUNS[name]]).format(**where) for name, workdir in names.items()
        ]
        processes.append(start([RECIPE, str(i), address, *arguments], i, data, devices=2 // count))
    for process in processes:
        assert process.wait(LIMIT * 5) == 0, said(process)


def cut_after(run, step, to):
    """A copy of a run as it was after a step."""
    shutil.copytree(run, to)
    for saved, folder in saved_steps(to).items():
        if saved > step:
            shutil.rmtree(folder)
    (to / "summary.json").unlink()
    shutil.rmtree(to / "model")
    return to


def contents(run):
    """What a run leaves: its last state, the log without times, the summary, and the model."""
    last = max(saved_steps(run).items())[1]
    trees = [
        read_arrays(open_arrays(last / "arrays")),
        read_arrays(open_arrays(last / "train")),
        read_arrays(open_arrays(run / "model" / "arrays")),
    ]
    del trees[1]["log"]
    assert trees[1]["chunk_size"] == 2  # the one that is in use is kept
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("images_per_second", None)
    return trees, rows, json.loads((run / "summary.json").read_text())


def assert_same(one, two):
    import jax

    a, b = contents(one), contents(two)
    if one.name == "skip_one":  # files of process 0, which are others
        del a[0][1]["images"], b[0][1]["images"]
    jax.tree.map(np.testing.assert_array_equal, a[0], b[0])
    assert a[1:] == b[1:]


def test_two_processes_give_the_numbers_of_one_with_two_devices(killed, data, bad_data):
    one = {name: bad_data / "one" / name for name in RUNS}
    two = {name: bad_data / "two" / name for name in RUNS}
    run_all(data, one)
    run_all(data, two, free_address())
    for name in RUNS:
        assert_same(one[name], two[name])
        assert (two[name] / "curves.png").exists()
    # Both processes leave out what one of them cannot read, and process 0 says whose it is.
    for name in ("skip", "skip_one"):
        listed = (two[name] / "skipped_images.txt").read_text()
        assert "a1.jpg" in listed
        assert "d1.jpg" in listed
        assert ("(in process 1 of 2)" in listed) == (name == "skip_one")
    assert "e2.jpg" in (two["skip"] / "skipped_images.txt").read_text()
    both = [file.read_text() for file in two["skip"].glob("skipped_images*.txt")]
    assert "c0.jpg" in "".join(both)
    # Resumed by the other kind, for which nothing is compiled again.
    there = cut_after(one["ap_shard_map_trained"], 2, bad_data / "one_to_two")
    back = cut_after(two["mined_pmap_trained"], 2, bad_data / "two_to_one")
    compiled = set((bad_data / "compiled").iterdir())
    run_all(data, {"ap_shard_map_trained": there}, free_address())
    run_all(data, {"mined_pmap_trained": back})
    assert_same(there, one["ap_shard_map_trained"])
    assert_same(back, one["mined_pmap_trained"])
    assert compiled
    assert set((bad_data / "compiled").iterdir()) == compiled


def test_stopped_failed_and_killed(killed, data, tmp_path):
    root = data.parent
    # SIGTERM to one of them, and the other one when resumed: both save and end.
    for process, code in ((1, 17), (0, 0)):
        pair = Pair(root / "stopped", data, f"--exit-code-on-preemption={code}")
        pair.wait_for_step(2 if code else pair.saved() + 2)
        pair.processes[process].terminate()
        assert pair.ended() == [(code, []), (code, [])]
        assert pair.saved() == pair.last_step() >= 2

    # An image that one of them cannot read.
    bad = root / "unreadable"
    shutil.copytree(data, bad)
    for image in bad.glob("[abc]*.jpg"):
        image.write_bytes(image.read_bytes()[:700])
    before = pair.saved()
    pair = Pair(root / "stopped", data, "--config.data.on_change=continue", datas=[data, bad])
    (first, said), (second, told) = pair.ended()
    assert (first, second) == (1, 2)
    assert len(said) == len(told) == 1
    named, image = told[0].split(": ", 2)[1:]
    assert named.startswith("process 1 of 2")
    assert ".jpg" in image
    assert said[0] == f"error: {named} failed: {image}; this process ends with it"
    assert pair.saved() == before

    # Process 0 is killed.
    pair = Pair(root / "stopped", data)
    pair.wait_for_step(before + 2)
    pair.processes[0].kill()
    code, lines = pair.ended()[1]
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: process 0 of 2 ended without a word")
    assert pair.saved() >= before  # the next one may have been under way


def test_a_workdir_of_their_own(data, tmp_path):
    pair = Pair(tmp_path / "a", data, workdirs=[tmp_path / "a", tmp_path / "b"])
    (first, said), (second, told) = pair.ended()
    assert (first, second) == (1, 2)
    assert f"--workdir {tmp_path / 'b'} is not shared" in told[0]
    assert "process 1 of 2" in said[0]


def test_the_second_process_is_killed(killed):
    code, lines = killed.processes[0].wait(LIMIT), errors(killed.processes[0])
    assert code == 1, said(killed.processes[0])
    assert len(lines) == 1
    assert lines[0].startswith("error: process 1 of 2 ended without a word")
    assert killed.saved() >= killed.last_step() - 2
