"""The layers, as torch computes them, on NHWC arrays."""

from __future__ import annotations

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dir_jax.losses.clamp import clamp_min
from dir_jax.models import kernels
from dir_jax.models.padding import mask_padding

# torch's defaults; the published networks were trained with them.
_EPSILON = 1e-5
_MOMENTUM = 0.1


def _drawn(
    rng: np.random.Generator | None,
    shape: tuple[int, ...],
    draw: Callable[[np.random.Generator], np.ndarray],
) -> nnx.Param[jax.Array]:
    """A float32 parameter; without an `rng` it has a shape and no values."""
    if rng is None:
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))  # type: ignore[arg-type]
    return nnx.Param(jax.device_put(draw(rng).astype(np.float32, copy=False)))


def filled(length: int, value: float) -> jax.Array:
    """(length,) float32 of one value; by NumPy, as JAX compiles a program for each length."""
    return jax.device_put(np.full(length, value, np.float32))


class Conv(nnx.Module):
    """A 2-D convolution without bias, padded by (kernel_size - 1) / 2."""

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel_size: int,
        stride: int = 1,
        *,
        dtype: str,
        precision: str,
        rng: np.random.Generator | None,
    ):
        """Draws `kernel`, (kernel_size, kernel_size, features_in, features) float32, from `rng`.

        Its distribution is N(0, 2 / fan_out) (He et al., ICCV 2015), as in torchvision's ResNets.
        `kernel_size` is odd; `dtype` and `precision` are as in `ModelConfig`.
        """
        self.stride, self.dtype, self.precision = stride, dtype, precision
        shape = (kernel_size, kernel_size, features_in, features)
        deviation = math.sqrt(2 / (kernel_size * kernel_size * features))
        self.kernel = _drawn(rng, shape, lambda rng: deviation * rng.standard_normal(shape, "f4"))

    def __call__(
        self, x: jax.Array, sizes: jax.Array | None = None, factor: jax.Array | None = None
    ) -> jax.Array:
        """Convolves (N, H, W, features_in) to (N, ceil(H / stride), ceil(W / stride), features).

        The maps are rounded to `dtype`, and so is the result. With a `factor`, (features,) float32,
        it, or a 1×1 kernel, is multiplied by that, and the result is float32. `sizes`: see
        `dir_jax.models.padding`.
        """
        x = x.astype(self.dtype)
        if self.kernel.shape[0] > 1:  # it looks at neighbours
            x = mask_padding(x, sizes)
        return kernels.convolve(
            x, self.kernel[...], stride=self.stride, precision=self.precision, factor=factor
        )


class BatchNorm(nnx.Module):
    """Batch normalisation over all but the last axis (Ioffe and Szegedy, ICML 2015)."""

    def __init__(self, features: int):
        """Sets `scale` to 1, `bias` to 0, and the running `mean` and `var` to 0 and 1.

        Each is (features,) float32.
        """
        self.scale = nnx.Param(filled(features, 1))
        self.bias = nnx.Param(filled(features, 0))
        self.mean = nnx.BatchStat(filled(features, 0))
        self.var = nnx.BatchStat(filled(features, 1))

    def __call__(self, x: jax.Array, *, use_running_average: bool) -> jax.Array:
        """Normalises by the running statistics, or by those of `x`, which then update them.

        As in torch, `x` is normalised by its biased variance, while the running average takes the
        unbiased one, with momentum 0.1. Statistics are never shared between devices.

        The result is float32 for any type of `x`, so that it is rounded only once, by what follows.
        """
        if use_running_average:
            factor, shift = self.affine()
        else:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes, dtype=jnp.float32)
            var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), axes)
            count = x.size // x.shape[-1]
            for running, new in ((self.mean, mean), (self.var, var * (count / max(count - 1, 1)))):
                # `running[...] +=` would write into the array itself where it is one of NumPy's.
                change = _MOMENTUM * (jax.lax.stop_gradient(new) - running[...])
                running.set_value(running[...] + change)
            factor, shift = self._affine(mean, var)
        return x * factor + shift

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """The factor and the shift of normalising by the running statistics, each (features,)."""
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
    """norm(conv(x, sizes)), in float32."""
    if not use_running_average:
        return norm(conv(x, sizes), use_running_average=False)
    # Frozen, the norm is a factor and a shift, and the factor can share in the convolution's work.
    factor, shift = norm.affine()
    return conv(x, sizes, factor) + shift


def max_pool(x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """3×3 windows, stride 2, padded by 1: (N, H, W, C) -> (N, ceil(H / 2), ceil(W / 2), C).

    `sizes` are those of the images in x, see `dir_jax.models.padding`.
    """
    return kernels.max_pool(mask_padding(x, sizes, -jnp.inf))


class Linear(nnx.Module):
    """A matrix product and a bias, in float32: it is a thousandth of a network's work."""

    def __init__(
        self, features_in: int, features: int, *, precision: str, rng: np.random.Generator | None
    ):
        """Draws `kernel`, (features_in, features), and sets `bias`, (features,), to 0, in float32.

        Weights are uniform in ± 1 / √features_in as in torch, and then each output's are centred.
        Pooled ReLU features are positive and much alike: without centring, any two images would
        start with a cosine near 1, in one bin of the listwise loss.
        """
        self.precision = precision
        shape, bound = (features_in, features), 1 / math.sqrt(features_in)

        def centred(rng: np.random.Generator) -> np.ndarray:
            kernel = rng.uniform(-bound, bound, shape)
            return kernel - kernel.mean(axis=0)

        self.kernel = _drawn(rng, shape, centred)
        self.bias = nnx.Param(filled(features, 0))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, features_in) -> (N, features) float32."""
        return jnp.dot(x, self.kernel[...], precision=self.precision) + self.bias[...]


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / max(‖x‖, 1e-12) along the last axis; its gradient is finite at 0, too."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The floor is on the square, where the root's gradient is still finite.
    return x * jax.lax.rsqrt(clamp_min(squared, 1e-24))


def dropout(x: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """Zeroes each value with `probability` and scales the others up to keep the mean.

    Args:
      x: (N, ...).
      keys: (N,) PRNG keys, one for each image, so that its mask does not depend on the others.
      probability: in [0, 1).
    """
    chex.assert_shape(keys, x.shape[:1])
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - probability, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - probability), 0)
