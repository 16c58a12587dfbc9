"""The processes that train together: how they find each other, and what they tell each other.

JAX runs the same program in every process, each of which has some of the devices. Process 0 decides
what is not the same everywhere, such as where to resume, and it alone writes.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import write_text

log = logging.getLogger(__name__)

HEARTBEAT = 30  # seconds without a sign of life after which JAX counts a process as dead
_LONGEST_END = 3600  # seconds that the others wait for process 0 to write the results
_SEEN_WITHIN = 10.0  # seconds after which what one machine writes is seen by another, over NFS
_OF_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def start_processes(
    how: str, coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process one of several that train together, if it is; before JAX computes.

    Args:
      how: 'on', 'off' or 'auto'. 'auto' is 'on' where one of the other arguments is given, in a
        Slurm step or under Open MPI with more than one task, and on a Cloud TPU.
      coordinator_address: 'HOST:PORT' of process 0, where the others find it.
      num_processes: how many processes there are.
      process_id: which of them this is, from 0. What is None is for the cluster to say.

    Raises:
      UserError: the arguments contradict each other, nothing says where the other processes are, or
        they do not come.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    _check(how, coordinator_address, num_processes, process_id)
    launcher = _launcher()
    if how == "off" or (how == "auto" and not named and not launcher):
        return
    import jax

    if launcher == "Open MPI":  # of which JAX knows version 4 only
        named.setdefault("num_processes", int(os.environ["OMPI_COMM_WORLD_SIZE"]))
        named.setdefault("process_id", int(os.environ["OMPI_COMM_WORLD_RANK"]))
    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(
            **named,
            local_device_ids=_local_gpus() if launcher in ("Slurm", "Open MPI") else None,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=_LONGEST_END,
        )
    except ValueError as e:
        if how == "auto" and not named and launcher == "Cloud TPU":
            return  # it has libtpu, but is none
        missing = ", ".join(f"--{k.replace('_', '-')}" for k in given if k not in named)
        raise UserError(
            f"nothing says where the processes of this run are: there is no Slurm step, Open MPI "
            f"or Cloud TPU that would; give {missing}, too, or --distributed off to train alone"
        ) from e
    except RuntimeError as e:
        where = coordinator_address or "the coordinator's address"
        why = shown(str(e).partition("\n")[0])
        raise UserError(
            f"the processes of this run did not find each other at {where}: {why}; that has to be "
            "the machine of process 0 with a free port, reached by all, and all have to be started"
        ) from e


def _check(how: str, address: str | None, count: int | None, number: int | None) -> None:
    if how == "off" and (address, count, number) != (None, None, None):
        raise UserError(
            "--distributed off does not go with --coordinator-address, --num-processes and "
            "--process-id, which are for several processes"
        )
    if address is not None and not re.fullmatch(r".+:\d{1,5}", address):
        expected = "expected HOST:PORT, such as node1:12345"
        raise UserError(f"--coordinator-address is {quoted(address)}; {expected}")
    if count is not None and count < 1:
        raise UserError(f"--num-processes is {count}; expected 1 or more")
    if number is not None and not 0 <= number < (count or number + 1):
        upper = "" if count is None else f" to {count - 1}, as --num-processes is {count}"
        raise UserError(f"--process-id is {number}; expected a number from 0{upper}")


def _launcher() -> str:
    """What has started several processes of this program, as JAX can find out; or ''."""
    tasks = os.environ["SLURM_NTASKS"] if all(n in os.environ for n in _OF_SLURM) else "1"
    if tasks.isdigit() and int(tasks) > 1:
        return "Slurm"
    tasks = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if tasks.isdigit() and int(tasks) > 1:
        return "Open MPI"
    return "Cloud TPU" if importlib.util.find_spec("libtpu") else ""


def _local_gpus() -> list[int] | None:
    """The GPUs of this task, of those that it sees; None to leave it to JAX.

    JAX gives a task the GPU with the task's number on its node, although a task may see no other.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [g for g in visible.split(",") if g] if visible else glob.glob("/dev/nvidia[0-9]*")
    if "JAX_LOCAL_DEVICE_IDS" in os.environ or not gpus:
        return None
    if len(gpus) == 1:
        return [0]
    first = "0" in (os.environ.get("SLURM_PROCID"), os.environ.get("OMPI_COMM_WORLD_RANK"))
    if first and (tasks := _tasks_of_this_node()) < len(gpus):
        every = ",".join(map(str, range(len(gpus))))
        log.warning(
            "each task uses one GPU, but there are %d GPUs and %d tasks on this node: start one "
            "task for each GPU (--ntasks-per-node=%d), or set JAX_LOCAL_DEVICE_IDS=%s for one task "
            "that uses all", len(gpus), tasks, len(gpus), every,
        )  # fmt: skip
    return None


def _tasks_of_this_node() -> int:
    """How many tasks Slurm or Open MPI started here; Slurm writes '4(x2),3' for 4, 4 and 3."""
    if (count := os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")).isdigit():
        return int(count)
    text = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "")
    nodes: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        nodes += [int(tasks)] * int(times or 1)
    node = int(os.environ.get("SLURM_NODEID", "0"))
    return nodes[node] if node < len(nodes) else 1


def is_first() -> bool:
    """Whether this is process 0, or the only one. Uses no device."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def from_first(number: int) -> int:
    """Process 0's number, in every process; all of them have to call this at the same point."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def gather(own: Mapping[int, str]) -> dict[int, str]:
    """The entries of all processes together, by number; all have to call this at the same point.

    Where an entry is not this process's own, it says whose it is.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return dict(own)
    data = np.frombuffer(json.dumps(list(own.items())).encode() if own else b"", np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data))).reshape(-1)
    if not lengths.any():
        return {}
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    found = dict(own)
    for process, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        for key, why in json.loads(row[:length].tobytes() or b"[]"):
            found.setdefault(key, f"{why} (in {name(process, len(rows))})")
    return dict(sorted(found.items()))


def have_the_same(data: bytes) -> bool:
    """Whether all processes have the same data; all have to call this at the same point."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return True
    digest = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return bool((multihost_utils.process_allgather(digest) == digest).all())


def check_shared(folder: Path, flag: str) -> None:
    """Raises UserError in a process that does not see what process 0 writes to `folder`."""
    import jax

    if jax.process_count() == 1:
        return
    token = from_first(secrets.randbits(31))
    mark = folder / f".seen-by-all-{token}"
    if is_first():
        write_text(mark, "")
    try:
        end = time.monotonic() + _SEEN_WITHIN
        from_first(0)  # it is written
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.2)
        if not mark.exists():
            raise UserError(
                f"{flag} {folder} is not shared: this machine does not see what process 0 writes "
                "there; give a folder of a file system that all machines mount in the same place"
            )
        gather({})  # all have looked
    finally:
        if is_first():
            mark.unlink(missing_ok=True)


def name(number: int, count: int, host: Any = None) -> str:
    """What messages call a process."""
    return f"process {number} of {count}" + (f" ({host})" if host else "")
