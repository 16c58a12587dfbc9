"""How XLA compiles a network's programs, and where it keeps them."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from dir_jax.runtime.files import cache_folder
from dir_jax.runtime.processes import is_first

# Of what XLA's CPU compiler gives to its library YNNPACK by default (single products and
# convolutions, and what can be fused with them), only single products: its convolutions are up to
# twice as slow as XLA's own, and ResNet-50 takes a fifth less time.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """The `compiler_options` of `jax.jit` for programs that run on `platform`, or None.

    XLA's option is experimental: where this jax does not know it, there is none.
    """
    if platform != "cpu":
        return None
    try:
        jax.jit(jnp.negative, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _CPU


def set_up_jax(cache: str | None, *, log_compiles: bool = False, asynchronous: bool = True) -> None:
    """Keeps compiled programs on disk, so that a second run starts fast. To be called first.

    The folder `cache` is by default that of JAX's own variable, JAX_COMPILATION_CACHE_DIR, or else
    `dir_jax/xla` in the user's cache folder; '' keeps nothing.
    `asynchronous` lets a CPU compute while the host goes on. That is not worth it where the host
    has nothing else to do: programs sent ahead take their memory at once, from what is free then.
    """
    if cache is None:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    is_address = "://" in (cache or "")  # such as gs://bucket/xla, which JAX itself writes to
    folder = cache if cache == "" or is_address else cache_folder("xla", cache)
    jax.config.update("jax_compilation_cache_dir", str(folder) if folder else None)
    # All of them: the many small ones take as long together as one network.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_log_compiles", log_compiles)
    jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
    if not is_first() and jax.default_backend() == "cpu":
        _write_from_here()


def _write_from_here() -> None:
    """Lets a process other than the first add to the folder of compiled programs.

    JAX writes from process 0 alone. That is enough on accelerators, whose programs are the same in
    all processes, where they share the folder; but a CPU's program is of one process.
    """
    from jax._src import compiler, distributed  # there is no setting for this

    write, state = compiler._cache_write, distributed.global_state

    def write_from_here(*args: Any) -> None:
        number, state.process_id = state.process_id, 0
        try:
            write(*args)
        finally:
            state.process_id = number

    vars(compiler)["_cache_write"] = write_from_here
