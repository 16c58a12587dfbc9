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
Kind = enum.Enum("Kind", "REPLICATED ROWS PARTIAL SCALAR")
REPLICATED, ROWS, PARTIAL, SCALAR = Kind
Kinds = Kind | tuple[Kind, ...]
Program = Callable[..., Any]


class MeshReplicas:
    """Some devices (by default all) as a one-dimensional mesh, by `jax.jit(jax.shard_map(…))`.

    `count` is the number of devices in all processes, `local_count` in this one.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        # Sorted, so that the devices of a process, and so its rows of a batch, are contiguous.
        self._devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
        self._local = [d for d in self._devices if d.process_index == jax.process_index()]
        self.count, self.local_count = len(self._devices), len(self._local)
        mesh = Mesh(np.array(self._devices), (AXIS,))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._divided = NamedSharding(mesh, PartitionSpec(AXIS))

    def wrap(
        self, function: Program, inputs: Kinds, outputs: Kinds, donate: tuple[int, ...] = ()
    ) -> jax.stages.Wrapped:
        """Compiles a function to run on every replica.

        Args:
          function: takes and returns pytrees of arrays, those of one replica.
          inputs: the kind of each argument.
          outputs: the kind of the result, or of each result in a tuple.
          donate: the positions of arguments whose memory the results may take over.
        """

        def spec(kind: Kind) -> PartitionSpec:
            return (self._divided if kind in (ROWS, PARTIAL) else self._whole).spec

        def local(*args: Any) -> Any:
            args = _of_partial(lambda x: x[0], inputs, args)
            return _of_partial(lambda x: x[None], outputs, function(*args))

        # check_vma=False: a gradient stays the replica's own until the step sums it, as with pmap.
        # With the check, differentiating by a replicated parameter would sum after every chunk.
        specs = {"in_specs": jax.tree.map(spec, inputs), "out_specs": jax.tree.map(spec, outputs)}
        sharded = jax.shard_map(local, mesh=self._whole.mesh, **specs, check_vma=False)
        options = compiler_options(self._devices[0].platform)
        return jax.jit(sharded, donate_argnums=donate, compiler_options=options)

    def put_rows(self, rows: np.ndarray) -> Any:
        """Puts the rows of this process, (local rows, …), on its devices."""
        put = jax.make_array_from_process_local_data(self._divided, rows)
        if self._devices[0].platform == "cpu":
            # A program whose arguments are still being copied is sent ahead, even where the setting
            # is that the host waits (see `set_up_jax`): its temporaries would be beside those of
            # the one that runs, and so would be those of each that waits for its results.
            put.block_until_ready()
        return put

    def replicate(self, tree: Any) -> Any:
        """Puts a pytree of host arrays, the same in every process, on every device, whole."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self._whole)
        # `device_put` would gather the arrays of all processes, to see whether they are the same.

        def put(x: Any) -> jax.Array:
            host = np.asarray(x)
            return jax.make_array_from_callback(host.shape, self._whole, host.__getitem__)

        return jax.tree.map(put, tree)

    def fetch(self, tree: Any) -> Any:
        """Returns a REPLICATED pytree as NumPy arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


class PmapReplicas(MeshReplicas):
    """The same by `jax.pmap`: every array has a leading axis over the devices of this process.

    Its programs do not take compiler options, so they are slower on CPUs.
    """

    def wrap(
        self, function: Program, inputs: Kinds, outputs: Kinds, donate: tuple[int, ...] = ()
    ) -> jax.stages.Wrapped:
        # All results have the leading axis, whatever their kinds.
        axes = jax.tree.map(lambda kind: None if kind is SCALAR else 0, inputs)
        return jax.pmap(function, AXIS, in_axes=axes, donate_argnums=donate, devices=self._devices)

    def put_rows(self, rows: np.ndarray) -> Any:
        put = self._put(rows.reshape(self.local_count, -1, *rows.shape[1:]))
        return put.block_until_ready() if self._devices[0].platform == "cpu" else put

    def replicate(self, tree: Any) -> Any:
        return self._put(jax.tree.map(lambda x: np.stack([np.asarray(x)] * self.local_count), tree))

    def _put(self, tree: Any) -> Any:
        mesh = Mesh(np.array(self._local), (AXIS,))
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))

    def fetch(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def _of_partial(change: Callable[[Any], Any], kinds: Any, values: Any) -> Any:
    """Changes the arrays of the PARTIAL ones among some values."""
    return jax.tree.map(
        lambda kind, value: jax.tree.map(change, value) if kind is PARTIAL else value, kinds, values
    )


def create_replicas(parallel: str, devices: Sequence[jax.Device] | None = None) -> MeshReplicas:
    """Creates replicas on some devices (by default all), by 'shard_map' or by 'pmap'."""
    return PmapReplicas(devices) if parallel == "pmap" else MeshReplicas(devices)
