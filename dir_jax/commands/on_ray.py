"""`extract_features --shards S --engine ray`: the shards on the devices of a Ray cluster.

Every worker is an actor with one device, which loads the model once and describes one shard after
the other, as a process of `--shard I` does. Ray starts an actor that died again, on any node, and
the shard goes on from what is on the disk, which all nodes share.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dir_jax.commands.sharded import open_extraction
from dir_jax.errors import UserError, shown
from dir_jax.runtime.allocator import ALLOCATOR
from dir_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dir_jax.describe.shards import ShardedExtraction

_RESTARTS = 10  # of each worker, after which its shard fails


class _Worker:
    """The actor."""

    def __init__(self, args: argparse.Namespace, changes: Mapping[str, Any], folder: str):
        self._given = args, changes, folder
        self._shards: ShardedExtraction | None = None

    def describe(self, number: int) -> tuple[bool, str]:
        """Whether a shard is finished now, and what there is to say about it."""
        args, changes, folder = self._given
        try:
            if self._shards is None:
                try:
                    os.chdir(folder)
                except OSError as e:
                    raise UserError(
                        f"a node of the cluster does not have the folder {folder}: {e.strerror}"
                    ) from e
                self._shards = open_extraction(args, changes)
            return True, self._shards.describe(number)
        except UserError as e:
            return False, str(e)


def extract_on_ray(args: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    """Describes all shards on a cluster: the one of $RAY_ADDRESS or of this node, or a local one.

    Raises:
      UserError: Ray is not installed, a worker says what is wrong, or one died too often.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as e:
        raise UserError("--engine ray needs Ray: pip install 'dir_jax[ray]'") from e

    _connect(ray)
    workers = args.workers or _count_devices(ray)
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
    actors: list[Any] = [Worker.remote(args, dict(changes), os.getcwd()) for _ in range(workers)]
    pool: Any = ActorPool(actors)
    try:
        numbers = [*range(args.shards)]
        results = pool.map_unordered(lambda actor, i: actor.describe.remote(i), numbers)
        with progress_bar("shards", args.shards, "shard", shown=True) as bar:
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
