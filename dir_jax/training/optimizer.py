"""The optimisers that the papers used, with the definitions of torch, and their schedules."""

from __future__ import annotations

import ml_collections
import optax


def create_schedule(config: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made.

    To try another schedule, add it here and to the choices of `optimizer.schedule` in `config.py`.

    `config` is `config.optimizer`. The rate rises linearly for `warmup_steps` to `learning_rate`;
    then it falls to 0 at `num_steps`, the end of the run, with schedule 'linear' (Revaud et al.
    2019, section 4.1), or along half a cosine with 'cosine', or stays with 'constant'.
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
    """Adam or SGD with momentum, with weight decay added to the gradient.

    They equal torch's `Adam(lr, weight_decay=…)` and `SGD(lr, momentum=…, weight_decay=…)`: the
    decay is added before the moments are computed (unlike AdamW), for every trained parameter,
    scales and biases included. The arguments are those of `create_schedule`.
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
