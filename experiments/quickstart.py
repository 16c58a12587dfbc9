"""Quickstart: a small GeM network learns to recognise drawn landmarks with the AP loss.

    make quickstart

which is

    python -m experiments.synthetic_landmarks --output runs/synthetic-landmarks
    python -m dir_jax.train --config experiments/quickstart.py --workdir runs/quickstart

Data: synthetic landmarks, which the first command draws from a seed in half a minute. Training and
test landmarks are different ones.

Expected result: mAP from 0.11 to 0.28 (0.30 whitened) on the test landmarks, in five to six minutes
on two CPU cores.
"""

import ml_collections

from dir_jax.training.config import default_config

_DATA = "runs/synthetic-landmarks"


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's config."""
    config = default_config()
    config.num_steps = 320
    config.batch_size = 64
    config.chunk_size = 64
    config.batch_norm = "trained"  # from random weights there are no statistics to keep
    config.model.arch = "resnet18_rmac"
    config.model.out_dim = 256

    config.data.train = f'ImageListLabels("{_DATA}/train.txt", "{_DATA}")'
    config.data.eval = f'ImageListLabels("{_DATA}/test.txt", "{_DATA}")'
    config.data.eval_oxford = (
        f'ImageListRelevants("{_DATA}/gnd_synthetic.pkl", "{_DATA}", "images")'
    )
    config.data.transform = "Scale((76, 76)), RandomCrop(64), ColorJitter(0.3, 0.3, 0.3, 0.1)"
    config.data.num_workers = 0

    config.sampler.name = "classes"
    config.sampler.images_per_class = 4
    config.loss.name = "ap"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-6
    config.optimizer.warmup_steps = 5

    config.eval.transform = "Scale((72, 72)), CenterCrop(64)"
    config.eval.every = 80
    config.eval.batch_size = 50
    config.checkpoint.every = 80
    return config
