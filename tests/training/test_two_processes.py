"""Two processes that train together: the numbers of one, and how both of them end."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dir_jax.array_files import open_arrays, read_arrays
from dir_jax.checkpoint import save_model
from dir_jax.models import create_model
from tests.training import tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = tiny_recipe.__file__
LIMIT = 200  # seconds, for every process: much more than they take, on a machine as busy as may be

RUNS = {
    "ap": ["loss.name=ap"],
    "ap_pmap_frozen": ["parallel=pmap", "batch_norm=frozen", "model.init={init}"],
    "mined_pmap": ["parallel=pmap", "loss.name=triplet", "sampler.name=mined"],
    "mined_frozen": [
        "loss.name=triplet", "sampler.name=mined", "batch_norm=frozen", "model.init={init}",
    ],
}  # fmt: skip


def start(arguments, process, data, *, devices=1):
    """One process with so many devices of the CPU."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    others = ("XLA_FLAGS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in others}
    environment |= {
        "XLA_FLAGS": flag, "TINY_DATA": str(data), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(Path(data).parent / "cache"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=data, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
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
            rows = log.read_text().splitlines() if log.exists() else []
            if rows and json.loads(rows[-1])["step"] >= step:
                return
            if codes := [p.returncode for p in self.processes if p.poll() is not None]:
                pytest.fail(f"ended with {codes}: {self.ended()}")
            time.sleep(0.1)
        pytest.fail("too slow")

    def ended(self):
        """(code, lines of standard error) of each."""
        return [(p.wait(LIMIT), errors(p)) for p in self.processes]

    def last_step(self):
        return json.loads((self.workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]

    def saved(self):
        return max(saved_steps(self.workdir))


def saved_steps(run):
    """step -> folder, without those that are being written."""
    folders = (run / "checkpoints").glob("[0-9]*")
    return {int(folder.name): folder for folder in folders if folder.name.isdigit()}


def errors(process):
    return [line for line in process.communicate(timeout=LIMIT)[1].splitlines() if "error" in line]


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("several") / "data"
    shutil.copytree(tiny_data, folder)
    save_model(folder / "init", create_model("tiny_rmac", out_dim=6))
    return folder


@pytest.fixture(scope="module")
def killed(data):
    """Two processes of which the second was killed: JAX needs half a minute to be sure."""
    pair = Pair(data.parent / "killed", data)
    pair.wait_for_step(2)
    pair.processes[1].kill()
    yield pair
    pair.processes[0].kill()


def run_all(root, data, names, address=""):
    """Trains the runs of `names`, run -> workdir, in two processes or in one with two devices."""
    arguments = [
        ",".join([str(workdir), *RUNS[name]]).format(init=data / "init")
        for name, workdir in names.items()
    ]
    count = 2 if address else 1
    processes = [
        start([RECIPE, str(i), address, *arguments], i, data, devices=2 // count)
        for i in range(count)
    ]
    for process in processes:
        _, text = process.communicate(timeout=LIMIT * 2)
        assert process.returncode == 0, text


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
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("images_per_second", None)
    return trees, rows, json.loads((run / "summary.json").read_text())


def assert_same(one, two):
    import jax

    a, b = contents(one), contents(two)
    jax.tree.map(np.testing.assert_array_equal, a[0], b[0])
    assert a[1:] == b[1:]


def test_two_processes_give_the_numbers_of_one_with_two_devices(killed, data):
    root = data.parent
    one = {name: root / "one" / name for name in RUNS}
    two = {name: root / "two" / name for name in RUNS}
    run_all(root, data, one)
    run_all(root, data, two, free_address())
    for name in RUNS:
        assert_same(one[name], two[name])
        assert (two[name] / "curves.png").exists()
    # Resumed by the other kind.
    there = cut_after(one["ap"], 2, root / "one_to_two")
    back = cut_after(two["mined_pmap"], 2, root / "two_to_one")
    run_all(root, data, {"ap": there}, free_address())
    run_all(root, data, {"mined_pmap": back})
    assert_same(there, one["ap"])
    assert_same(back, one["mined_pmap"])


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
    bad = root / "bad"
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
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: process 1 of 2 ended without a word")
    assert killed.saved() >= killed.last_step() - 2
