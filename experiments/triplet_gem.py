"""TL-GeM: ResNet-101 with GeM, trained with the triplet loss and mined hard negatives.

    python -m dir_jax.train --config triplet_gem --workdir runs/triplet_gem \\
        --config.model.init=resnet101-imagenet --config.data.db_root=DIR

Gordo, Almazan, Revaud, Larlus, "End-to-end Learning of Deep Visual Representations for Image
Retrieval", IJCV 2017, section 3.3, with GeM pooling (Radenović et al., TPAMI 2018) instead of
R-MAC.

Data and start: those of ap_gem.py.

Cost: 8,192 steps of 64 triplets, 1,572,864 images of 800 × 800 pixels, at 796 GFLOP each; and 128
pools of 5,000 images to describe, at 199 GFLOP each. That is about 8 hours on a GPU that sustains
50 TFLOP/s (estimated from benchmarks/RESULTS.md; not measured on a GPU). A chunk of two images
takes 4 GB on the device, by XLA's own account.

Expected result, as the authors report it for Resnet101-TL-GeM (mAP in per cent, one scale,
whitened): Oxford5K 85.7, Paris6K 93.4, ROxford5K 64.5 medium and 40.9 hard, RParis6K 78.8 and 59.2.
We have not reproduced it: we have neither the pictures nor a GPU.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """SGD on triplets; the pool that their negatives come from is described every 64 steps."""
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
