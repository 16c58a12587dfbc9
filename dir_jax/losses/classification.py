"""Losses with a vector for each class, which is trained along with the network: ArcFace, CosFace.

One descriptor that is the vector of its class, and a second class at a right angle to it: CosFace
lowers the first logit by the margin.

>>> x, labels, weights = jnp.array([[1.0, 0.0]]), jnp.array([0]), jnp.eye(2)
>>> loss = cosface_loss(x, labels, weights, margin=0.5, scale=2.0)
>>> round(float(loss), 4), round(float(jnp.log1p(jnp.exp(-1.0))), 4)
(0.3133, 0.3133)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dir_jax.losses.blocks import Pairs, check_batch, differentiated, over_blocks
from dir_jax.losses.clamp import clamp_min
from dir_jax.losses.ratio import ratio_with_parameters


def arcface_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    axis_name: str | None = None,
    block_size: int = 128,
) -> jax.Array:
    """Mean cross-entropy of s·cos θ to all classes, with s·cos(θ + m) for the image's own.

    θ is the angle between a descriptor and the vector of a class. Where θ + m is beyond π, it is
    cos θ − m·sin m instead, so that the logit keeps falling. Deng et al., "ArcFace: Additive
    Angular Margin Loss for Deep Face Recognition", CVPR 2019, equation 3.

    Args:
      descriptors: (b, D) float32, of unit norm.
      labels: (b,) integers from 0 to C − 1.
      class_weights: (C, D) float32, a vector for each class; of any norm but 0.
      margin: m, in radians.
      scale: s.
      axis_name: the axis of the replicas. Each has its own rows and all of the class weights. The
        gradient is exact for its own rows; with respect to the class weights it is the replica's
        share, and the sum over the replicas is the whole.
      block_size: the most images at once: memory is O(block_size · C + (b + C) · D).

    Returns:
      () float32.

    Raises:
      ValueError: the shapes, which are shown, are not (b, D), (b,) and (C, D).
      TypeError: the descriptors are not float32, or the labels are not integers.
    """

    def own_class(cosine: jax.Array) -> jax.Array:
        # The derivative of the angle is infinite at 0 and π, and 0 is used there.
        sine = jnp.sqrt(clamp_min(1 - cosine**2, 1e-12))
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        beyond = cosine < -math.cos(margin)
        return jnp.where(beyond, cosine - margin * math.sin(margin), shifted)

    return _classify(own_class, scale, descriptors, labels, class_weights, axis_name, block_size)


def cosface_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    axis_name: str | None = None,
    block_size: int = 128,
) -> jax.Array:
    """Mean cross-entropy of s·cos θ to all classes, with s·(cos θ − m) for the image's own.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, equation
    4. Arguments, result and errors are those of `arcface_loss`; the margin m is one of cosines.
    """
    return _classify(
        lambda cosine: cosine - margin,
        scale, descriptors, labels, class_weights, axis_name, block_size,
    )  # fmt: skip


def create_class_weights(num_classes: int, width: int, seed: int) -> jax.Array:
    """(num_classes, width) float32: random directions, with norms near 1."""
    drawn = jax.random.normal(jax.random.key(seed), (num_classes, width), jnp.float32)
    return drawn / math.sqrt(width)


def _classify(
    own_class: Callable[[jax.Array], jax.Array],
    scale: float,
    descriptors: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array,
    axis_name: str | None,
    block_size: int,
) -> jax.Array:
    descriptors, labels = check_batch(descriptors, labels)
    if class_weights.ndim != 2 or class_weights.shape[1] != descriptors.shape[1]:
        raise ValueError(
            f"class weights of shape {class_weights.shape} do not go with descriptors of shape "
            f"{descriptors.shape}; expected (C, D) and (b, D)"
        )

    def of_block(cosines: jax.Array, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        target = own_class(jnp.where(pairs.same, cosines, 0).sum(axis=1))
        logits = scale * jnp.where(pairs.same, target[:, None], cosines)
        losses = jax.nn.logsumexp(logits, axis=1) - scale * target
        return jnp.sum(pairs.real * losses), jnp.sum(pairs.real)

    terms = functools.partial(_of_replica, differentiated(of_block), block_size)
    return ratio_with_parameters(terms, descriptors, class_weights, labels, axis_name)


def _of_replica(terms, block_size, own, class_weights, labels):  # type: ignore[no-untyped-def]
    norms = jnp.linalg.norm(class_weights, axis=1, keepdims=True)
    directions = class_weights / clamp_min(norms, 1e-12)
    classes = jnp.arange(len(directions))
    return over_blocks(terms, own, directions, labels, classes, len(directions), block_size)
