"""AP-GeM on Google Landmarks v2 (clean): 1.58 million pictures of 81,313 landmarks.

    python -m dir_jax.train --config ap_gem_gldv2 --workdir runs/ap_gem_gldv2 \\
        --config.model.init=resnet101-imagenet --config.data.db_root=DIR

The loss is that of Revaud et al., ICCV 2019 (see ap_gem.py). There are more landmarks than a
batch has images, so they take turns: a batch of 4,096 images has two of each of 2,048 landmarks,
and every landmark comes once in 40 steps.

Data: Weyand et al., "Google Landmarks Dataset v2", CVPR 2020. `dir-jax download GLDv2_train
--db-root DIR` fetches all 500 archives, some 500 GB; `--archives 0-9` a part that can be trained on
alone. For the evaluation: `dir-jax download ROxford5K --db-root DIR`.

Start: the ImageNet weights of torchvision's ResNet-101, as a file of PyTorch.

Cost: 2,000 steps of 4,096 images, five passes over the data, of 512 × 512 pixels, at 326 GFLOP
each: about 15 hours on a GPU that sustains 50 TFLOP/s, and six cores that decode (estimated from
benchmarks/RESULTS.md; not measured on a GPU). The lists are read in seconds (RESULTS.md, metadata).

Expected result: nobody has reported this loss on this data, as far as we know. With ArcFace
and three scales the same backbone reaches (mAP in per cent) ROxford5K 76.3 medium and 55.6 hard,
RParis6K 86.6 and 72.4, as Cao et al. report for the global features of DELG (ECCV 2020). We have
run it only on generated images in the published layout: we have neither the pictures nor a GPU.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The loss and the schedule of ap_gem.py, over more steps of smaller crops."""
    config = default_config()
    config.num_steps = 2000
    config.batch_size = 4096
    config.chunk_size = 4  # raise it where memory allows; it does not change the numbers
    config.batch_norm = "frozen"
    config.model.arch = "resnet101_rmac"
    config.model.out_dim = 2048
    config.model.pooling = "gem"
    config.model.gemp = 3.0  # at the start; the power is trained

    config.data.train = "GLDv2_train_clean"
    config.data.eval_oxford = "ROxford5K"
    config.data.transform = (
        # The first transform only enlarges pictures that are too small for the crop.
        "Scale(560, can_downscale=False), RandomScale(560, 700), RandomRotation(10), "
        "RandomCrop(512), ColorJitter(0.2, 0.2, 0.2, 0.05)"
    )
    config.data.num_workers = 8

    config.sampler.name = "every_class"
    config.loss.name = "ap"
    config.loss.num_bins = 20
    config.loss.class_weighted = True

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "linear"  # to 0 over the 2000 steps
    config.optimizer.weight_decay = 1e-6

    config.whitening.name = "GLDv2"
    config.whitening.max_images = 50_000
    config.whitening.power = 0.25
    config.whitening.transform = "Scale(512), CenterCrop(512)"  # one shape, one compilation
    config.eval.transform = "Scale(800), CenterCrop(800)"
    config.eval.batch_size = 8
    config.eval.every = 200
    config.checkpoint.every = 50
    return config
