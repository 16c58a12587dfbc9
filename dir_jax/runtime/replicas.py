"""Runs a function on every device, by `jax.shard_map` on a mesh or by `jax.pmap`.

The function is written for one replica; it sums or gathers over all of them along the axis `data`.
The kind of each argument and result says how the replicas share it:

- REPLICATED: every replica has the same value (parameters, the loss).
- ROWS: the replicas divide the leading axis between them (images, descriptors).
- PARTIAL: every replica has its own value (the sum of the gradients of its own chunks).
- SCALAR: a number of the host that every replica gets.

A program may run in several processes. `put_rows` then takes the rows of this process's devices,
which are a contiguous part of the batch, and the axis spans the devices of all processes.
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
    """How the replicas share an argument or a result; see the module's docstring."""

    REPLICATED = enum.auto()
    ROWS = enum.auto()
    PARTIAL = enum.auto()
    SCALAR = enum.auto()


REPLICATED, ROWS, PARTIAL, SCALAR = Kind


def _ordered(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    # Sorted, so that the devices of a process, and so its rows of a batch, are contiguous.
    return sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))


class MeshReplicas:
    """Replicas on a one-dimensional mesh, by `jax.jit(jax.shard_map(…))`.

    Attributes:
      count: the number of devices in all processes.
      local_count: the number of devices of this process.
    """

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
        """Compiles a function to run on every replica.

        Args:
          function: takes and returns pytrees of arrays, those of one replica.
          inputs: the kind of each argument.
          outputs: the kind of the result, or of each result.
          donate: the positions of arguments whose memory the results may take over.
        """
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

        # check_vma=False: a gradient stays the replica's own until the step sums it, as with pmap.
        # With the check, differentiating by a replicated parameter would sum after every chunk.
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
        """Puts the rows of this process, (local rows, …), on its devices."""
        return jax.make_array_from_process_local_data(
            NamedSharding(self._mesh, PartitionSpec(AXIS)), rows
        )

    def replicate(self, tree: Any) -> Any:
        """Puts a pytree of host arrays on every device, whole."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def fetch(self, tree: Any) -> Any:
        """Returns a REPLICATED pytree as NumPy arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


class PmapReplicas:
    """Replicas by `jax.pmap`: every array has a leading axis over the devices of this process.

    Its programs do not take compiler options, so they are slower on CPUs.

    Attributes:
      count: the number of devices in all processes.
      local_count: the number of devices of this process.
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
        """Compiles a function to run on every replica.

        Args:
          function: takes and returns pytrees of arrays, those of one replica.
          inputs: the kind of each argument.
          outputs: the kind of the result, or of each result.
          donate: the positions of arguments whose memory the results may take over.
        """
        del outputs  # all results have the leading axis
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(None if kind is SCALAR else 0 for kind in inputs),
            donate_argnums=tuple(donate),
            devices=self._devices,
        )

    def put_rows(self, rows: np.ndarray) -> Any:
        """Puts the rows of this process, (local rows, …), on its devices."""
        return rows.reshape(self.local_count, -1, *rows.shape[1:])

    def replicate(self, tree: Any) -> Any:
        """Puts a pytree of host arrays on every device, whole."""
        return jax.device_put(
            jax.tree.map(lambda x: np.stack([np.asarray(x)] * self.local_count), tree),
            NamedSharding(Mesh(np.array(self._local), (AXIS,)), PartitionSpec(AXIS)),
        )

    def fetch(self, tree: Any) -> Any:
        """Returns a REPLICATED pytree as NumPy arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


Replicas = MeshReplicas | PmapReplicas


def create_replicas(parallel: str, devices: Sequence[jax.Device] | None = None) -> Replicas:
    """Creates replicas.

    Args:
      parallel: 'shard_map' or 'pmap', as `config.parallel`.
      devices: the devices to use; by default all of them.
    """
    return PmapReplicas(devices) if parallel == "pmap" else MeshReplicas(devices)
