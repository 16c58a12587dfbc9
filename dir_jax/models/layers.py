"""Convolution, batch normalisation and linear layer, as torch computes them, on NHWC arrays."""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dir_jax.models.kernels import winograd
from dir_jax.models.padding import mask_padding

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

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, features_in) -> (N, ceil(H / stride), ceil(W / stride), features).

        `sizes` are those of the images in x, see `dir_jax.models.padding`.
        """
        kernel, x = self.kernel[...].astype(self.dtype), x.astype(self.dtype)
        size, pad = kernel.shape[0], kernel.shape[0] // 2
        if size > 1:  # it looks at neighbours
            x = mask_padding(x, sizes)
        if size == 3 and self.stride == 1 and winograd.is_faster(x):
            return winograd.convolve(x, kernel, self.precision)
        sums_products = size == 3 and _has_slow_convolution(x)
        if size > 1 and min(x.shape[1:3]) > size * self.stride and not sums_products:
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=[(pad, pad), (pad, pad)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=self.precision,
            )
        # A matrix product is faster than the convolution it is: on CPUs by far for 1×1 kernels, and
        # sixty times for maps smaller than the kernel (an image of 64 pixels ends in 2×2).
        height, width = (-(-s // self.stride) for s in x.shape[1:3])
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        ends = self.stride * height, self.stride * width
        # Flattened, or XLA's CPU compiler transposes all of x for the kernel's gradient.
        patches = [
            x[:, i : i + ends[0] : self.stride, j : j + ends[1] : self.stride].reshape(
                -1, x.shape[3]
            )
            for i in range(size)
            for j in range(size)
        ]
        product = functools.partial(_dot, precision=self.precision)
        if sums_products:
            parts = kernel.reshape(size * size, x.shape[3], -1)
            y = functools.reduce(jnp.add, map(product, patches, parts))
        else:
            matrix = jnp.concatenate(patches, axis=-1)
            y = product(matrix, kernel.reshape(matrix.shape[1], -1))
        return y.astype(x.dtype).reshape(x.shape[0], height, width, -1)

    def scaled(self, x: jax.Array, factor: jax.Array) -> jax.Array:
        """factor · convolution of a 1×1 kernel, with gradients that multiply no map by `factor`.

        Args:
          x: (N, H, W, features_in).
          factor: (features,) float32.

        Returns:
          (N, ceil(H / stride), ceil(W / stride), features) float32.
        """
        x = x[:, :: self.stride, :: self.stride].astype(self.dtype)
        matrix, kernel = x.reshape(-1, x.shape[3]), self.kernel[0, 0]
        return _scaled_product(matrix, kernel, factor, self.precision).reshape(*x.shape[:3], -1)


def _has_slow_convolution(x: jax.Array) -> bool:
    """Where XLA has no bfloat16 convolution of its own, and products are worth what they copy."""
    return x.dtype == jnp.bfloat16 and x.shape[3] >= 128 and jax.default_backend() == "cpu"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _scaled_product(
    a: jax.Array, kernel: jax.Array, factor: jax.Array, precision: str
) -> jax.Array:
    """(a · kernel) · factor, the product rounded to a's type: (M, D) float32.

    Of (M, C) of any type, (C, D) and (D,) float32.
    """
    return _dot(a, kernel.astype(a.dtype), precision).astype(a.dtype) * factor


def _scaled_product_forward(
    a: jax.Array, kernel: jax.Array, factor: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _scaled_product(a, kernel, factor, precision), (a, kernel, factor)


def _scaled_product_backward(
    precision: str, inputs: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, ...]:
    # The factor goes with the kernel, of C·D numbers, not with the cotangent, of M·D: that would be
    # another map to write and read, beside the one that a block's shortcut takes.
    a, kernel, factor = inputs
    cotangent = cotangent.astype(a.dtype)
    by_a = _dot(cotangent, (kernel * factor).astype(a.dtype).T, precision).astype(a.dtype)
    by_product = _dot(a.T, cotangent, precision)
    return by_a, by_product * factor, jnp.sum(by_product * kernel, axis=0)


_scaled_product.defvjp(_scaled_product_forward, _scaled_product_backward)


def _dot(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    # A result in float32 is what CPUs with bfloat16 instructions are fast at.
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


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

        The result is float32 whatever `x` is: what follows rounds it, once.
        """
        if use_running_average:
            factor, shift = self.affine()
        else:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes, dtype=jnp.float32)
            var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), axes)
            count = x.size // x.shape[-1]
            for running, new in (
                (self.mean, mean),
                (self.var, var * (count / max(count - 1, 1))),
            ):
                # Not `running[...] +=`, which writes into an array of NumPy's instead.
                change = _MOMENTUM * (jax.lax.stop_gradient(new) - running[...])
                running.set_value(running[...] + change)
            factor, shift = self._affine(mean, var)
        return x * factor + shift

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """What normalising by the running statistics multiplies by, and adds: (features,) each."""
        return self._affine(self.mean[...], self.var[...])

    def _affine(self, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        factor = self.scale[...] * jax.lax.rsqrt(var + _EPSILON)
        return factor, self.bias[...] - mean * factor


def normalized(
    conv: Conv,
    norm: BatchNorm,
    x: jax.Array,
    sizes: jax.Array | None = None,
    *,
    use_running_average: bool,
) -> jax.Array:
    """norm(conv(x, sizes)), float32."""
    if conv.kernel.shape[0] > 1 or not use_running_average:
        return norm(conv(x, sizes), use_running_average=use_running_average)
    factor, shift = norm.affine()
    return conv.scaled(x, factor) + shift


def max_pool(x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """3×3 windows, stride 2, padded by 1: (N, H, W, C) -> (N, ceil(H / 2), ceil(W / 2), C).

    `sizes` are those of the images in x, see `dir_jax.models.padding`.

    The largest of shifted slices rather than XLA's window reduction, whose gradient is a serial
    scatter on CPUs, thirty times slower. Equal maxima share the gradient.
    """
    x = mask_padding(x, sizes, -jnp.inf)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        # Windows start at 0, 2, …; for an even size the last row of padding is in none.
        stop = x.shape[axis] - 2
        a, b, c = (jax.lax.slice_in_dim(x, i, stop + i, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


class Linear(nnx.Module):
    """Matrix product and bias, in float32: of a network's work it is a thousandth."""

    def __init__(
        self,
        features_in: int,
        features: int,
        *,
        precision: str,
        rng: np.random.Generator,
    ):
        """`kernel` (features_in, features), `bias` (features,), float32.

        Uniform in ± 1 / √features_in as in torch, then each output's weights are centred, and the
        bias is 0: pooled ReLU features are positive and much alike, and without centring any two
        images would start with a cosine near 1, in one bin of the listwise loss.
        """
        self.precision = precision
        bound = 1 / math.sqrt(features_in)
        kernel = rng.uniform(-bound, bound, (features_in, features))
        self.kernel = nnx.Param(jnp.asarray(kernel - kernel.mean(axis=0), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, features_in) -> (N, features) float32."""
        return jnp.dot(x, self.kernel[...], precision=self.precision) + self.bias[...]


def dropout(x: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """Zeroes each value with `probability` and scales the others up to keep the mean.

    Args:
      x: (N, ...).
      keys: (N,) PRNG keys, one an image, so that a mask does not depend on what else is in x.
      probability: in [0, 1).
    """
    chex.assert_shape(keys, x.shape[:1])
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - probability, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - probability), 0)
