"""GeM on SfM-120k with the triplet loss: matching pairs, and mined negatives of other clusters.

    python -m dir_jax.train --config triplet_gem_sfm120k --workdir runs/triplet_gem_sfm120k \\
        --config.model.init=resnet101-imagenet --config.data.db_root=DIR

The data, the mining and the numbers are those of Radenović et al., "Fine-tuning CNN Image Retrieval
with No Human Annotation", TPAMI 2018, and of their toolbox's command for the networks with a
projection that is trained as well: ResNet-101, margin 0.5, Adam, rate 5e-7, in each of 100 epochs
2,000 matching pairs and 20,000 images to mine from, four negatives a pair, five pairs a step.

What differs: a step has 20 triplets, each with one of the four negatives, and each pair comes once
in a triplet of its own, instead of five pairs with all their negatives; images are crops of one
size, instead of whole pictures of 1,024 pixels on the longer side; the loss takes distances, where
theirs takes their squares; the projection starts from random weights, where theirs is whitening.

Data: `dir-jax download SfM120k --db-root DIR`, and for the evaluation `dir-jax download ROxford5K
--db-root DIR`. Their whitening after training is `dir-jax whiten --method pairs --name SfM30k
--dataset SfM30k_whiten --checkpoint runs/triplet_gem_sfm120k`.

Start: the ImageNet weights of torchvision's ResNet-101, as a file of PyTorch.

Cost: 40,000 steps of 60 images of 768 × 768 pixels, at 734 GFLOP each, and 100 pools of some 22,000
images to describe, at 184 GFLOP each: about 12 hours on a GPU that sustains 50 TFLOP/s (estimated
from benchmarks/RESULTS.md; not measured on a GPU).

Expected result, as the authors report it for rSfM120k-tl-resnet101-gem-w (mAP in per cent, three
scales): ROxford5K 67.8 medium and 41.7 hard, RParis6K 77.6 and 56.3. We have run it only on
generated images in the published layout: we have neither the pictures nor a GPU.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The numbers above; an epoch of theirs is 400 steps."""
    config = default_config()
    config.num_steps = 40_000
    config.batch_size = 60  # 20 triplets
    config.chunk_size = 2
    config.batch_norm = "frozen"
    config.model.arch = "resnet101_rmac"
    config.model.norm_features = True  # before the projection, as theirs

    config.data.train = "SfM120k_train"
    config.data.eval = "SfM120k_val"
    config.data.eval_oxford = "ROxford5K"
    config.data.transform = "Scale(768, can_downscale=False), RandomCrop(768)"
    config.data.num_workers = 8

    config.sampler.name = "mined"
    config.loss.name = "triplet"
    config.loss.margin = 0.5
    config.mining.pairs = 2000
    config.mining.pool_size = 20_000
    config.mining.refresh_every = 400
    config.mining.negatives = 4
    config.mining.transform = "Scale(768), CenterCrop(768)"

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 5e-7
    config.optimizer.schedule = "linear"
    config.optimizer.weight_decay = 1e-6

    config.whitening.name = "SfM120k"
    config.whitening.max_images = 20_000
    config.whitening.transform = "Scale(768), CenterCrop(768)"
    config.eval.transform = "Scale(768), CenterCrop(768)"
    config.eval.every = 2000
    config.eval.batch_size = 8
    config.checkpoint.every = 400
    return config
