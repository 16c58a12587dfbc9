"""TL-GeM: ResNet-101 with GeM, trained by the triplet loss with mined hard negatives.

    python -m dir_jax.train --config experiments/triplet_gem.py --workdir runs/triplet_gem \\
        --config.model.init=CHECKPOINT --config.data.db_root=DIR

Gordo et al., "End-to-end Learning of Deep Visual Representations for Image Retrieval", IJCV 2017,
section 3.3, with GeM pooling (Radenović et al. 2018) in place of R-MAC.

Data and start: as in ap_gem.py.

Expected result, as the authors report it for Resnet101-TL-GeM (mAP, one scale, whitened): Oxford5K
85.7, Paris6K 93.4, ROxford5K 64.5 medium / 40.9 hard, RParis6K 78.8 / 59.2. It has not been
reproduced here: that takes the pictures and an accelerator.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """SGD on triplets whose negatives come from a pool that is described anew now and then."""
    config = default_config()
    config.num_steps = 8192
    config.batch_size = 192  # 64 triplets
    config.chunk_size = 2
    config.batch_norm = "frozen"
    config.model.arch = "resnet101_rmac"

    config.data.train = "Landmarks_clean"
    config.data.transform = (
        "Scale(920, can_downscale=False), RandomScale(920, 1100), RandomRotation(10), "
        "RandomCrop(800), ColorJitter(0.2, 0.2, 0.2, 0.05)"
    )
    config.data.num_workers = 8

    config.sampler.name = "mined"
    config.loss.name = "triplet"
    config.loss.margin = 0.1
    config.mining.pool_size = 5000
    config.mining.refresh_every = 64
    config.mining.negatives = 25
    config.mining.transform = "Scale(800), CenterCrop(800)"

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 5e-5

    config.whitening.name = "Landmarks_clean"
    config.whitening.transform = "Scale(800), CenterCrop(800)"
    config.eval.transform = "Scale(800), CenterCrop(800)"
    config.eval.batch_size = 8
    config.checkpoint.every = 64
    return config
