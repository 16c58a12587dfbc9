"""Caltech-101 photographs: ResNet-18 from random weights, evaluated on categories never seen.

    python -m dir_jax.train --config experiments/caltech101.py --workdir runs/caltech101 \\
        --config.loss.name=ap        # or: triplet

Data: `../shared/data/caltech101` beside the checkout; `train.txt` and `test.txt` hold different
categories, rows `path label`. Caltech-101 is published by CaltechDATA (CC BY 4.0); to use your own
copy, write such lists and set config.data.train and config.data.eval.

Expected result: experiments/README.md.
"""

import ml_collections

from dir_jax.training.config import default_config

_DATA = "../shared/data/caltech101"


def get_config() -> ml_collections.ConfigDict:
    """A budget that suits two cores."""
    config = default_config()
    config.num_steps = 240
    config.batch_size = 64
    config.chunk_size = 64  # one BatchNorm group a step, as the PyTorch peer has
    config.batch_norm = "trained"
    config.model.arch = "resnet18_rmac"
    config.model.out_dim = 512

    config.data.train = f'ImageListLabels("{_DATA}/train.txt", "{_DATA}")'
    config.data.eval = f'ImageListLabels("{_DATA}/test.txt", "{_DATA}")'
    config.data.transform = (
        "Scale((76, 76)), RandomCrop(64), RandomFlip(), ColorJitter(0.3, 0.3, 0.3, 0.05)"
    )
    config.data.num_workers = 0

    config.sampler.name = "classes"
    config.sampler.images_per_class = 4
    config.loss.name = "ap"
    config.loss.mining = "semihard"
    config.loss.margin = 0.1

    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 5

    config.eval.transform = "Scale((72, 72)), CenterCrop(64)"
    config.eval.batch_size = 64
    config.checkpoint.every = 120
    return config
