"""The losses: pure functions of arrays, to be minimised, and the table of those to train with.

Of scores and relevance: `average_precision_loss` and its variants. Of descriptors and labels, as
the trainer needs them: `listwise_average_precision_loss`, `batch_triplet_loss` and
`grouped_triplet_loss`; `LOSSES` has their names in `config.loss.name`. A loss more is a function of
that kind and a row there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

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
    "LOSSES", "BatchLoss", "Loss", "average_precision", "average_precision_dist",
    "average_precision_dist_loss", "average_precision_loss", "batch_triplet_loss",
    "grouped_triplet_loss", "listwise_average_precision_loss", "tie_aware_average_precision",
    "tie_aware_average_precision_dist", "tie_aware_average_precision_dist_loss",
    "tie_aware_average_precision_loss", "triplet_log_exp_loss", "triplet_margin_loss",
]  # fmt: skip

BatchLoss = Callable[..., jax.Array]
"""`loss(descriptors (b, D), labels (b,), axis_name=…) -> ()`: takes the rows of one replica and
returns the loss of the whole batch, with an exact gradient with respect to those rows."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """A row of `LOSSES`.

    Attributes:
      function: a `BatchLoss` with options.
      options: the keys of `config.loss` that are its options.
      paper: where it is from.
      of_triplets: the same loss for batches whose rows are triplets, as the 'mined' sampler makes
        them; it takes the same options except 'mining'. None where there is no such loss.
    """

    function: BatchLoss
    options: tuple[str, ...]
    paper: str
    of_triplets: BatchLoss | None = None

    def bind(self, options: Mapping[str, Any], *, of_triplets: bool = False) -> BatchLoss:
        """The loss with its options taken from `config.loss`; keys of other losses are ignored.

        With `of_triplets` it is the form for batches of triplets; ValueError if there is none.

        >>> LOSSES["triplet"].bind({"margin": 0.2, "mining": "all", "num_bins": 20}).keywords
        {'mining': 'all', 'margin': 0.2}
        """
        function = self.of_triplets if of_triplets else self.function
        if function is None:
            raise ValueError("this loss has no form for batches of triplets")
        taken = [key for key in self.options if not (of_triplets and key == "mining")]
        return functools.partial(function, **{key: options[key] for key in taken})


LOSSES = {
    "ap": Loss(
        listwise_average_precision_loss,
        options=("num_bins", "class_weighted"),
        paper="Revaud et al., ICCV 2019, section 3",
    ),
    "tie_aware_ap": Loss(
        functools.partial(listwise_average_precision_loss, tie_aware=True),
        options=("num_bins", "class_weighted"),
        paper="Cakir et al., CVPR 2019",
    ),
    "triplet": Loss(
        batch_triplet_loss,
        options=("mining", "margin"),
        paper="Gordo et al., IJCV 2017; which triplets: Hermans et al., arXiv 1703.07737",
        of_triplets=grouped_triplet_loss,
    ),
    "triplet_log_exp": Loss(
        functools.partial(batch_triplet_loss, log_exp=True),
        options=("mining",),
        paper="Hermans et al., arXiv 1703.07737: the soft margin",
        of_triplets=functools.partial(grouped_triplet_loss, log_exp=True),
    ),
}
"""Name in `config.loss.name` -> loss."""
