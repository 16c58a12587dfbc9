"""The losses: pure functions of arrays, to be minimised, and the table of those to train with.

Of scores and relevance: `average_precision_loss` and its variants. Of descriptors and labels, as
the trainer needs them, and some of a vector for each class, too: all those of `LOSSES`, which has
their names in `config.loss.name`; docs/losses.md says when to use which. A loss more is a function
of that kind, a row there and one in that page.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
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
from dir_jax.losses.classification import arcface_loss, cosface_loss
from dir_jax.losses.listwise import fast_ap_loss, listwise_average_precision_loss
from dir_jax.losses.pairwise import (
    contrastive_loss,
    grouped_contrastive_loss,
    multi_similarity_loss,
)
from dir_jax.losses.smooth_ranks import recall_at_k_surrogate_loss, smooth_ap_loss
from dir_jax.losses.triplet import (
    batch_triplet_loss,
    grouped_triplet_loss,
    triplet_log_exp_loss,
    triplet_margin_loss,
)

__all__ = [
    "LOSSES", "BatchLoss", "Loss", "arcface_loss", "average_precision", "average_precision_dist",
    "average_precision_dist_loss", "average_precision_loss", "batch_triplet_loss",
    "contrastive_loss", "cosface_loss", "fast_ap_loss", "grouped_contrastive_loss",
    "grouped_triplet_loss", "listwise_average_precision_loss", "multi_similarity_loss",
    "recall_at_k_surrogate_loss", "smooth_ap_loss", "tie_aware_average_precision",
    "tie_aware_average_precision_dist", "tie_aware_average_precision_dist_loss",
    "tie_aware_average_precision_loss", "triplet_log_exp_loss", "triplet_margin_loss",
]  # fmt: skip

BatchLoss = Callable[..., jax.Array]
"""`loss(descriptors (b, D), labels (b,), axis_name=…) -> ()`: takes the rows of one replica and
returns the loss of the whole batch, with an exact gradient with respect to those rows. A loss with
`class_weights` also takes these, (C, D), and gives the replica's share of their gradient."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """A row of `LOSSES`.

    Attributes:
      function: a `BatchLoss` with options.
      options: the keys of `config.loss` that are its options, each with the name of the argument.
      paper: where it is from.
      of_triplets: the same loss for batches whose rows are triplets, as the 'mined' sampler makes
        them; it takes those of the options that it has. None where there is no such loss.
      class_weights: whether it has a vector for each class, which is trained with the network.
    """

    function: BatchLoss
    options: Mapping[str, str]
    paper: str
    of_triplets: BatchLoss | None = None
    class_weights: bool = False

    def bind(self, options: Mapping[str, Any], *, of_triplets: bool = False) -> BatchLoss:
        """The loss with its options taken from `config.loss`; keys of other losses are ignored.

        With `of_triplets` it is the form for batches of triplets; ValueError if there is none.

        >>> LOSSES["triplet"].bind({"margin": 0.2, "mining": "all", "num_bins": 20}).keywords
        {'mining': 'all', 'margin': 0.2}
        """
        function = self.of_triplets if of_triplets else self.function
        if function is None:
            raise ValueError("this loss has no form for batches of triplets")
        known = inspect.signature(function).parameters
        taken = {name: options[key] for key, name in self.options.items() if name in known}
        return functools.partial(function, **taken)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


LOSSES = {
    "ap": Loss(
        listwise_average_precision_loss,
        options=_same("num_bins", "class_weighted"),
        paper="Revaud et al., ICCV 2019, section 3",
    ),
    "tie_aware_ap": Loss(
        functools.partial(listwise_average_precision_loss, tie_aware=True),
        options=_same("num_bins", "class_weighted"),
        paper="Cakir et al., CVPR 2019",
    ),
    "fast_ap": Loss(
        fast_ap_loss, options=_same("num_bins"), paper="Cakir et al., CVPR 2019, equation 9"
    ),
    "smooth_ap": Loss(
        smooth_ap_loss, options=_same("temperature"), paper="Brown et al., ECCV 2020, equation 5"
    ),
    "recall_at_k": Loss(
        recall_at_k_surrogate_loss,
        options=_same("recall_k", "temperature", "rank_temperature"),
        paper="Patel et al., CVPR 2022, equations 3 to 6",
    ),
    "triplet": Loss(
        batch_triplet_loss,
        options=_same("mining", "margin"),
        paper="Gordo et al., IJCV 2017; which triplets: Hermans et al., arXiv 1703.07737",
        of_triplets=grouped_triplet_loss,
    ),
    "triplet_log_exp": Loss(
        functools.partial(batch_triplet_loss, log_exp=True),
        options=_same("mining"),
        paper="Hermans et al., arXiv 1703.07737: the soft margin",
        of_triplets=functools.partial(grouped_triplet_loss, log_exp=True),
    ),
    "contrastive": Loss(
        contrastive_loss,
        options={"contrastive_margin": "margin", "negatives": "negatives"},
        paper="Radenović et al., TPAMI 2018, equation 3",
        of_triplets=grouped_contrastive_loss,
    ),
    "multi_similarity": Loss(
        multi_similarity_loss,
        options=_same("alpha", "beta", "base", "epsilon"),
        paper="Wang et al., CVPR 2019, equation 15",
    ),
    "arcface": Loss(
        arcface_loss,
        options={"arcface_margin": "margin", "scale": "scale"},
        paper="Deng et al., CVPR 2019, equation 3",
        class_weights=True,
    ),
    "cosface": Loss(
        cosface_loss,
        options={"cosface_margin": "margin", "scale": "scale"},
        paper="Wang et al., CVPR 2018, equation 4",
        class_weights=True,
    ),
}
"""Name in `config.loss.name` -> loss."""
