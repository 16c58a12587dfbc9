"""Who trains together: flags, launchers and the GPUs of a task. JAX is not really started."""

import re

import jax
import pytest

from dir_jax.errors import UserError
from dir_jax.runtime import processes
from dir_jax.runtime.processes import gather, is_first, start_processes

SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "8", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "6,2(x2)",
}  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """The arguments of each `jax.distributed.initialize`, outside any cluster."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **k: calls.append(k))
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(processes.glob, "glob", lambda pattern: [])
    for name in (*SLURM, "OMPI_COMM_WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_flags_are_enough(started):
    start_processes("auto", None, None, None)
    start_processes("off", None, None, None)
    assert started == []
    start_processes("auto", "node1:1234", 4, 3)
    [call] = started
    assert (call["coordinator_address"], call["num_processes"], call["process_id"]) == (
        "node1:1234", 4, 3,
    )  # fmt: skip
    assert call["heartbeat_timeout_seconds"] == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("off", "a:1", None, None), "--distributed off does not go with --coordinator-address"),
        (("auto", "node1", 2, 0), "--coordinator-address is 'node1'; expected HOST:PORT"),
        (("auto", "a:1", 0, 0), "--num-processes is 0; expected 1 or more"),
        (("auto", "a:1", 2, 2), "--process-id is 2; expected a number from 0 to 1"),
        (("on", None, 2, None), "give --coordinator-address, --process-id, too"),
    ],
)
def test_wrong_flags(started, monkeypatch, arguments, message):
    def refuse(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=message):
        start_processes(*arguments)


def test_others_that_do_not_come(started, monkeypatch):
    def wait(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", wait)
    with pytest.raises(UserError, match=r"did not find each other at a:1: DEADLINE.* out.; that"):
        start_processes("auto", "a:1", 2, 0)


@pytest.mark.parametrize("tasks", ["1", "8"])
def test_slurm(started, monkeypatch, tasks):
    for name, value in (SLURM | {"SLURM_NTASKS": tasks}).items():
        monkeypatch.setenv(name, value)
    start_processes("auto", None, None, None)
    assert len(started) == (tasks == "8")
    monkeypatch.delenv("SLURM_STEP_NODELIST")  # the batch script itself, which runs once
    start_processes("auto", None, None, None)
    assert len(started) == (tasks == "8")


@pytest.mark.parametrize(
    ("visible", "gpus", "said"),
    [
        ("0,1,2,3", None, "4 GPUs and 2 tasks on this node.*--ntasks-per-node=4.*=0,1,2,3 "),
        ("0,1", None, ""),  # JAX takes the one with the task's number
        ("5", [0], ""),  # it sees one only, whatever its number
        ("", None, ""),
    ],
)
def test_the_gpus_of_a_slurm_task(started, monkeypatch, caplog, visible, gpus, said):
    for name, value in (SLURM | {"CUDA_VISIBLE_DEVICES": visible}).items():
        monkeypatch.setenv(name, value)
    start_processes("auto", None, None, None)
    assert started[0]["local_device_ids"] == gpus
    assert bool(caplog.text) == bool(said)
    if said:
        assert re.search(said, caplog.text)


def test_open_mpi_5_says_how_many(started, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "2")
    start_processes("auto", "a:1", None, None)
    assert (started[0]["num_processes"], started[0]["process_id"]) == (4, 2)


def test_a_machine_with_libtpu_that_is_no_tpu(started, monkeypatch):
    def refuse(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu")
    start_processes("auto", None, None, None)


def test_one_process_is_the_first():
    assert is_first()
    assert gather({3: "torn"}) == {3: "torn"}
