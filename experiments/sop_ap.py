"""Stanford Online Products with the AP loss: ResNet-50, 224 × 224 pixels, recall@K.

    python -m dir_jax.train --config sop_ap --workdir runs/sop_ap \\
        --config.model.init=resnet50-imagenet --config.data.db_root=DIR

The protocol is that of Oh Song et al., CVPR 2016: 11,318 classes to train on, 11,316 others to test
on, of which every image queries all others. The batches and the rate are those of Brown et al.,
"Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020, the loss that of
Revaud et al., ICCV 2019.

Data: `Stanford_Online_Products/` in DIR, as its authors publish it, with `Ebay_train.txt` and
`Ebay_test.txt`; it cannot be fetched by `dir-jax download`.

Start: the ImageNet weights of torchvision's ResNet-50, fetched by their name.

Cost: 15,500 steps of 384 images, a hundred passes over the data, at 33 GFLOP an image: about 1.1
hours on a GPU that sustains 50 TFLOP/s, and 20 cores that decode (estimated from
benchmarks/RESULTS.md; not measured on a GPU).

Expected result: Brown et al. report a recall@1 of 80.1 per cent for their own smoothed AP with this
network, these batches and 512 dimensions; for the loss used here nobody has reported one in this
protocol, as far as we know. It has not been run: we have neither the pictures nor a GPU.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """96 classes with four images each in a batch."""
    config = default_config()
    config.num_steps = 15_500
    config.batch_size = 384
    config.chunk_size = 96
    config.batch_norm = "frozen"
    config.model.arch = "resnet50_rmac"
    config.model.out_dim = 512
    config.model.pooling = "avg"

    config.data.train = "SOP_train"
    config.data.eval = "SOP_test"
    config.data.transform = (
        "Scale(256), RandomScale(224, 320, can_upscale=True), RandomCrop(224), RandomFlip()"
    )
    config.data.num_workers = 16

    config.sampler.name = "classes"
    config.sampler.images_per_class = 4
    config.loss.name = "ap"
    config.loss.num_bins = 20

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-5
    config.optimizer.schedule = "linear"
    config.optimizer.weight_decay = 4e-5

    config.whitening.name = ""  # the field compares plain descriptors
    config.eval.transform = "Scale(256), CenterCrop(224)"
    config.eval.batch_size = 64
    config.eval.every = 1550
    config.checkpoint.every = 310
    return config
