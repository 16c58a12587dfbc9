"""Runs a per-replica function on every device: by `jax.shard_map` on a mesh, or by `jax.pmap`.

A step is written once, for one replica, against the axis `data`; what each argument and result is
to the replicas is said by its kind:

- REPLICATED: the same on every replica (parameters, the loss).
- ROWS: split between the replicas along the leading axis (images, descriptors).
- PARTIAL: one value a replica, not yet reduced (a sum of gradients over its own chunks).
- SCALAR: a host number handed to every replica.

Nothing assumes a single process: `put_rows` takes the rows of this process's devices, which are a
contiguous part of the batch, and the axis spans the devices of all processes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dir_jax.runtime.compiler import compiler_options

AXIS = "data"


class Kind(enum.Enum):
    """What an argument or a result is to the replicas."""

    REPLICATED = enum.auto()
    ROWS = enum.auto()
    PARTIAL = enum.auto()
    SCALAR = enum.auto()


REPLICATED, ROWS, PARTIAL, SCALAR = Kind


def _ordered(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    # Sorted so that each process's devices, hence its rows of a batch, are contiguous.
    return sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))


class MeshReplicas:
    """Replicas on a one-dimensional mesh, by `jax.jit(jax.shard_map(…))`."""

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self._devices = _ordered(devices)
        self._mesh = Mesh(np.array(self._devices), (AXIS,))
        self.count = len(self._devices)
        self.local_count = sum(d.process_index == jax.process_index() for d in self._devices)

    def wrap(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Kind],
        outputs: Kind | Sequence[Kind],
        donate: Sequence[int] = (),
    ) -> jax.stages.Wrapped:
        """Compiles `function` to run on every replica; kinds of its arguments and results."""
        kinds = (outputs,) if isinstance(outputs, Kind) else tuple(outputs)

        def spec(kind: Kind) -> PartitionSpec:
            return PartitionSpec(AXIS) if kind in (ROWS, PARTIAL) else PartitionSpec()

        def local(*args: Any) -> Any:
            args = tuple(
                jax.tree.map(lambda x: x[0], arg) if kind is PARTIAL else arg
                for arg, kind in zip(args, inputs, strict=True)
            )
            results = function(*args)
            results = (results,) if isinstance(outputs, Kind) else results
            results = tuple(
                jax.tree.map(lambda x: x[None], result) if kind is PARTIAL else result
                for result, kind in zip(results, kinds, strict=True)
            )
            return results[0] if isinstance(outputs, Kind) else results

        # check_vma=False: gradients stay a replica's own until the step sums them, as in pmap;
        # with the check, differentiating by a replicated parameter would sum at every chunk.
        sharded = jax.shard_map(
            local,
            mesh=self._mesh,
            in_specs=tuple(spec(kind) for kind in inputs),
            out_specs=spec(outputs) if isinstance(outputs, Kind) else tuple(map(spec, kinds)),
            check_vma=False,
        )
        return jax.jit(
            sharded,
            donate_argnums=tuple(donate),
            compiler_options=compiler_options(self._devices[0].platform),
        )

    def put_rows(self, rows: np.ndarray) -> jax.Array:
        """This process's rows, on its devices."""
        return jax.make_array_from_process_local_data(
            NamedSharding(self._mesh, PartitionSpec(AXIS)), rows
        )

    def replicate(self, tree: Any) -> Any:
        """A pytree of host arrays, whole on every device."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def fetch(self, tree: Any) -> Any:
        """A REPLICATED pytree, as NumPy arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


class PmapReplicas:
    """Replicas by `jax.pmap`: every array has a leading axis over this process's devices.

    Its programs take no compiler options, and so are slower on CPUs.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self._devices = _ordered(devices)
        self._local = [d for d in self._devices if d.process_index == jax.process_index()]
        self.count = len(self._devices)
        self.local_count = len(self._local)

    def wrap(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Kind],
        outputs: Kind | Sequence[Kind],
        donate: Sequence[int] = (),
    ) -> jax.stages.Wrapped:
        """Compiles `function` to run on every replica; kinds of its arguments and results."""
        del outputs  # all results carry the leading device axis
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(None if kind is SCALAR else 0 for kind in inputs),
            donate_argnums=tuple(donate),
            devices=self._devices,
        )

    def put_rows(self, rows: np.ndarray) -> Any:
        """This process's rows, on its devices."""
        return rows.reshape(self.local_count, -1, *rows.shape[1:])

    def replicate(self, tree: Any) -> Any:
        """A pytree of host arrays, whole on every device."""
        return jax.device_put(
            jax.tree.map(lambda x: np.stack([np.asarray(x)] * self.local_count), tree),
            NamedSharding(Mesh(np.array(self._local), (AXIS,)), PartitionSpec(AXIS)),
        )

    def fetch(self, tree: Any) -> Any:
        """A REPLICATED pytree, as NumPy arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


Replicas = MeshReplicas | PmapReplicas


def create_replicas(parallel: str, devices: Sequence[jax.Device] | None = None) -> Replicas:
    """The replicas of `config.parallel` ('shard_map' or 'pmap'), on all devices by default."""
    return PmapReplicas(devices) if parallel == "pmap" else MeshReplicas(devices)
