"""Losses: pure functions of arrays, to be minimised.

From scores and relevance: the average-precision losses. From descriptors and labels, as the trainer
uses them: `listwise_average_precision_loss`, `batch_triplet_loss`, `grouped_triplet_loss`.
"""

from dir_jax.losses.average_precision import (
    average_precision,
    average_precision_dist,
    average_precision_dist_loss,
    average_precision_loss,
    tie_aware_average_precision,
    tie_aware_average_precision_dist,
    tie_aware_average_precision_dist_loss,
    tie_aware_average_precision_loss,
)
from dir_jax.losses.listwise import listwise_average_precision_loss
from dir_jax.losses.triplet import (
    batch_triplet_loss,
    grouped_triplet_loss,
    triplet_log_exp_loss,
    triplet_margin_loss,
)

__all__ = [
    "average_precision",
    "average_precision_dist",
    "average_precision_dist_loss",
    "average_precision_loss",
    "batch_triplet_loss",
    "grouped_triplet_loss",
    "listwise_average_precision_loss",
    "tie_aware_average_precision",
    "tie_aware_average_precision_dist",
    "tie_aware_average_precision_dist_loss",
    "tie_aware_average_precision_loss",
    "triplet_log_exp_loss",
    "triplet_margin_loss",
]
