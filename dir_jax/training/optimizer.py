"""Optimisers as the papers used them, that is as torch defines them."""

from __future__ import annotations

import ml_collections
import optax


def create_schedule(config: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made.

    'linear' falls from `learning_rate` to 0 at `num_steps` (Revaud et al. 2019, section 4.1),
    'cosine' likewise along half a cosine; `warmup_steps` of linear rise may come first.
    """
    warmup, peak = config.warmup_steps, config.learning_rate
    rest = max(num_steps - warmup, 1)
    schedules = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }
    schedule = schedules[config.schedule]
    if not warmup:
        return schedule
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, schedule], [warmup])


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
    """Adam or SGD with momentum, the weight decay added to the gradient.

    Equal to `torch.optim.Adam(lr, weight_decay=…)` and `torch.optim.SGD(lr, momentum=…,
    weight_decay=…)`: decay comes before the moments (it is not AdamW's), for every parameter that
    trains, scales and biases included.
    """
    direction = {
        "adam": lambda: optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        "sgd": lambda: optax.trace(decay=config.momentum),
    }[config.name]()
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        direction,
        optax.scale_by_learning_rate(create_schedule(config, num_steps)),
    )
