"""The network's costly operations, each in the form that is fast where the program runs.

The layers call these three functions and know nothing of platforms. The module `plain` has each of
them as XLA offers it, which is what runs on GPUs and TPUs; `cpu` has the forms that XLA's CPU
compiler is fast at. Both give the same numbers up to rounding.

**How the platform is known.** Through `jax.lax.platform_dependent`. Both forms are traced.
Lowering, which knows the devices of a program, keeps one of them, and the compiler never sees the
other. So the choice is right on a GPU's host that runs a program on its CPU, under a user's own
`jax.jit`, and for a program that is lowered for another machine. `jax.default_backend()` can be
wrong in each of these cases, and a setting that is read while tracing could be out of date in a
cached trace.

**Derivatives.** Each function has its own reverse-mode derivative, which makes the same choice.
Differentiating the choice itself would make it carry the residuals of both forms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from dir_jax.models.kernels import cpu, plain


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    precision: str = "highest",
    factor: jax.Array | None = None,
) -> jax.Array:
    """A 2-D convolution padded by (size − 1) / 2, with products summed in float32.

    Args:
      x: (N, H, W, C), float32 or bfloat16.
      kernel: (size, size, C, D); it is rounded to x's type. `size` is odd.
      stride: of the output's positions, in both directions.
      precision: of the products: 'default', 'high' or 'highest'.
      factor: (D,) float32, which each output channel, or instead a 1×1 kernel, is multiplied by.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), D), of x's type; float32 with `factor`.
    """
    if factor is None:
        return _convolve((stride, precision), x, kernel.astype(x.dtype))
    if kernel.shape[0] > 1:
        return _convolve((stride, precision), x, kernel.astype(x.dtype)) * factor
    return _convolve_scaled((stride, precision), x, kernel, factor)


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """max(x + y, 0) of two finite (N, H, W, C) maps; where it is 0, so is its derivative."""
    return _add_relu((), x, y)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest value of 3×3 windows, stride 2, padded by 1.

    (N, H, W, C) -> (N, ceil(H / 2), ceil(W / 2), C).
    """
    return _max_pool((), x)


Form = Callable[..., Any]


def _by_platform(for_cpu: Form, for_others: Form) -> Callable[..., jax.Array]:
    """Makes one differentiable function of the two forms of an operation.

    Each is `form(*arrays, *options)` with one array as its result; the function made is
    `function(options, *arrays)`. It traces each combination of shapes once; networks have few.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def function(options: tuple[Any, ...], *arrays: jax.Array) -> jax.Array:
        def run(form: Form) -> Form:
            return lambda *arrays: form(*arrays, *options)

        return jax.lax.platform_dependent(*arrays, cpu=run(for_cpu), default=run(for_others))

    def forward(options: tuple[Any, ...], *arrays: jax.Array) -> tuple[jax.Array, Any]:
        return function(options, *arrays), arrays

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def backward(options: tuple[Any, ...], arrays: Any, cotangent: jax.Array) -> Any:
        def pull_back(form: Form) -> Form:
            return lambda arrays, cotangent: jax.vjp(
                lambda *arrays: form(*arrays, *options), *arrays
            )[1](cotangent)

        return jax.lax.platform_dependent(
            arrays, cotangent, cpu=pull_back(for_cpu), default=pull_back(for_others)
        )

    function.defvjp(forward, backward)
    return jax.jit(function, static_argnums=0, inline=True)


_convolve = _by_platform(cpu.convolve, plain.convolve)
_convolve_scaled = _by_platform(cpu.convolve_scaled, plain.convolve_scaled)
_add_relu = _by_platform(cpu.add_relu, plain.add_relu)
_max_pool = _by_platform(cpu.max_pool, plain.max_pool)
