"""Convolution, batch normalisation and linear layer, as torch computes them, on NHWC arrays."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# torch's defaults; the published networks were trained with them.
_EPSILON = 1e-5
_MOMENTUM = 0.1


class Conv(nnx.Module):
    """2-D convolution without bias, padded by (kernel_size - 1) / 2."""

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel_size: int,
        stride: int = 1,
        *,
        dtype: str,
        precision: str,
        rng: np.random.Generator,
    ):
        """`kernel` is (kernel_size, kernel_size, features_in, features), float32.

        Drawn from N(0, 2 / fan_out) (He et al., ICCV 2015), as torchvision's ResNets are.
        """
        self.stride, self.dtype, self.precision = stride, dtype, precision
        shape = (kernel_size, kernel_size, features_in, features)
        deviation = math.sqrt(2 / (kernel_size * kernel_size * features))
        self.kernel = nnx.Param(jnp.asarray(deviation * rng.standard_normal(shape, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, features_in) -> (N, ceil(H / stride), ceil(W / stride), features)."""
        kernel, x = self.kernel[...].astype(self.dtype), x.astype(self.dtype)
        if kernel.shape[:2] == (1, 1):
            # A matrix product is faster than the convolution it is, on CPUs by far.
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], precision=self.precision)
        pad = kernel.shape[0] // 2
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=[(pad, pad), (pad, pad)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )


class BatchNorm(nnx.Module):
    """Batch normalisation over all but the last axis (Ioffe and Szegedy, ICML 2015)."""

    def __init__(self, features: int):
        """`scale` 1, `bias` 0, and the running `mean` 0 and `var` 1, each (features,) float32."""
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))

    def __call__(self, x: jax.Array, *, use_running_average: bool) -> jax.Array:
        """Normalises by the running statistics, or by those of `x`, which then update them.

        As in torch, `x` is normalised by its biased variance while the running average takes the
        unbiased one, with momentum 0.1. Statistics are never shared between devices.
        """
        if use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes, dtype=jnp.float32)
            var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), axes)
            count = x.size // x.shape[-1]
            for running, new in (
                (self.mean, mean),
                (self.var, var * (count / max(count - 1, 1))),
            ):
                running[...] += _MOMENTUM * (jax.lax.stop_gradient(new) - running[...])
        factor = self.scale[...] * jax.lax.rsqrt(var + _EPSILON)
        return (x * factor + (self.bias[...] - mean * factor)).astype(x.dtype)


class Linear(nnx.Module):
    """Matrix product and bias, in torch's default initialisation."""

    def __init__(
        self,
        features_in: int,
        features: int,
        *,
        dtype: str,
        precision: str,
        rng: np.random.Generator,
    ):
        """`kernel` (features_in, features) and `bias` (features,), uniform in ± 1 / √features_in."""
        self.dtype, self.precision = dtype, precision
        bound = 1 / math.sqrt(features_in)
        self.kernel, self.bias = (
            nnx.Param(jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32))
            for shape in ((features_in, features), (features,))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, features_in) -> (N, features)."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        return jnp.matmul(x, kernel, precision=self.precision) + self.bias[...].astype(self.dtype)
