"""`extract_features --shards S --engine ray`: the shards on the devices of a Ray cluster.

Every worker is an actor with one device, which loads the model once and describes one shard after
the other, as a process of `--shard I` does. Ray starts an actor that died again, on any node, and
the shard goes on from what is on the disk, which all nodes share.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dir_jax.errors import UserError, shown
from dir_jax.runtime.allocator import ALLOCATOR
from dir_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dir_jax.describe.shards import ShardedExtraction

_RESTARTS = 10  # of each worker, after which its shard fails


class _Worker:
    """The actor."""

    def __init__(self, open_extraction: Callable[[], ShardedExtraction], folder: str):
        self._open, self._folder = open_extraction, folder
        self._shards: ShardedExtraction | None = None

    def describe(self, number: int) -> tuple[bool, str]:
        """Whether a shard is finished now, and what there is to say about it."""
        try:
            if self._shards is None:
                try:
                    os.chdir(self._folder)
                except OSError as e:
                    raise UserError(
                        f"a node of the cluster does not have the folder {self._folder}: "
                        f"{e.strerror}"
                    ) from e
                self._shards = self._open()
            return True, self._shards.describe(number)
        except UserError as e:
            return False, str(e)


def extract_on_ray(
    open_extraction: Callable[[], ShardedExtraction], count: int, workers: int | None
) -> None:
    """Describes all shards on a cluster: the one of $RAY_ADDRESS or of this node, or a local one.

    Args:
      open_extraction: is called by each worker, in this process's folder.
      count: how many shards there are.
      workers: how many actors to start; by default one a device.

    Raises:
      UserError: Ray is not installed, a worker says what is wrong, or one died too often.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as e:
        raise UserError("--engine ray needs Ray: pip install 'dir_jax[ray]'") from e

    _connect(ray)
    resource = _resource(ray)
    options: dict[str, Any] = {
        "max_restarts": _RESTARTS,
        "max_task_retries": _RESTARTS,
        "scheduling_strategy": "SPREAD",  # over the nodes
        "runtime_env": {"env_vars": {"GLIBC_TUNABLES": ALLOCATOR}},
    }
    if resource == "GPU":
        options["num_gpus"] = 1
    elif resource != "CPU":
        options["resources"] = {resource: 1}
    Worker = ray.remote(**options)(_Worker)
    actors: list[Any] = [
        Worker.remote(open_extraction, os.getcwd()) for _ in range(workers or _count_devices(ray))
    ]
    pool: Any = ActorPool(actors)
    try:
        numbers = [*range(count)]
        results = pool.map_unordered(lambda actor, i: actor.describe.remote(i), numbers)
        with progress_bar("shards", count, "shard", shown=True) as bar:
            for finished, said in results:
                if not finished:
                    raise UserError(said)
                if not said.endswith("already"):
                    bar.write(said)
                bar.update()
    except ray.exceptions.RayError as e:
        first = shown(str(e).splitlines()[0])
        raise UserError(f"a worker of the Ray cluster failed too often: {first}; the same command "
                        "goes on where it stopped") from e  # fmt: skip
    finally:
        for actor in actors:
            ray.kill(actor)
        ray.shutdown()


def _connect(ray: Any) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:  # there is no cluster
        ray.init(include_dashboard=False, **quiet)


def _resource(ray: Any) -> str:
    there = ray.cluster_resources()
    return next((name for name in ("GPU", "TPU") if there.get(name)), "CPU")


def _count_devices(ray: Any) -> int:
    """Accelerators in the cluster, or nodes where there are none."""
    kind = _resource(ray)
    if kind == "CPU":
        return sum(node["Alive"] for node in ray.nodes())
    return int(ray.cluster_resources()[kind])
