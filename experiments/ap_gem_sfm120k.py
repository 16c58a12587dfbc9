"""AP-GeM on SfM-120k: the listwise AP loss with the 3-D models (clusters) as classes.

    python -m dir_jax.train --config ap_gem_sfm120k --workdir runs/ap_gem_sfm120k \\
        --config.model.init=resnet101-imagenet --config.data.db_root=DIR

The loss is that of Revaud et al., ICCV 2019 (see ap_gem.py), on the data of Radenović et al.,
"Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018, which can still be fetched.
Two images of one cluster count as relevant to each other, although not all of them match.

Data: `dir-jax download SfM120k --db-root DIR`, and for the evaluation `dir-jax download ROxford5K
--db-root DIR`. Other labelled lists: `--config.data.train='ImageListLabels("list.txt", "root")'`.

Start: the ImageNet weights of torchvision's ResNet-101, as a file of PyTorch.

Cost: that of ap_gem.py, 819,200 images of 800 × 800 pixels at 796 GFLOP each, about 3.6 hours on a
GPU that sustains 50 TFLOP/s (estimated from benchmarks/RESULTS.md; not measured on a GPU).

Expected result: nobody has reported this loss on this data, as far as we know. With the contrastive
loss, learned whitening and three scales the authors of the data report (mAP in per cent) ROxford5K
65.4 medium and 40.1 hard, RParis6K 76.7 and 55.2. We have run it only on generated images in the
published layout: we have neither the pictures nor a GPU.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The numbers of ap_gem.py; these pictures have at most 1,024 pixels a side."""
    config = default_config()
    config.num_steps = 200
    config.batch_size = 4096
    config.chunk_size = 2  # raise it where memory allows; it does not change the numbers
    config.batch_norm = "frozen"
    config.model.arch = "resnet101_rmac"
    config.model.out_dim = 2048
    config.model.pooling = "gem"
    config.model.gemp = 3.0  # at the start; the power is trained

    config.data.train = "SfM120k_train"
    config.data.eval = "SfM120k_val"
    config.data.eval_oxford = "ROxford5K"
    config.data.transform = (
        # The first transform only enlarges pictures that are too small for the crop.
        "Scale(920, can_downscale=False), RandomScale(920, 1100), RandomRotation(10), "
        "RandomCrop(800), ColorJitter(0.2, 0.2, 0.2, 0.05)"
    )
    config.data.num_workers = 8

    config.sampler.name = "every_class"
    config.loss.name = "ap"
    config.loss.num_bins = 20
    config.loss.class_weighted = True

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "linear"  # to 0 over the 200 steps
    config.optimizer.weight_decay = 1e-6

    config.whitening.name = "SfM120k"
    config.whitening.power = 0.25
    config.whitening.transform = "Scale(800), CenterCrop(800)"  # one shape, one compilation
    config.eval.transform = "Scale(800), CenterCrop(800)"
    config.eval.batch_size = 8
    config.eval.every = 50
    config.checkpoint.every = 10
    return config
