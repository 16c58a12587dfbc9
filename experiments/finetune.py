"""Your own labelled photos, from a network that is trained already: fine-tuning with the AP loss.

    python -m dir_jax.train --config finetune --workdir runs/mine \\
        --config.model.init=resnet50-imagenet \\
        --config.data.train=photos/train --config.data.eval=photos/test

Data: a folder with a sub-folder for each class, or a list with a path and a label in each row; the
classes to evaluate on are best others than those to train on. A batch has different images of all
classes, so `--config.batch_size` may not be larger than the data set.

Start: ImageNet weights of torchvision's ResNet-50 as a file of PyTorch, or a model of
`converters.from_torch` of the same architecture (`--config.model.arch`, `--config.model.out_dim`),
such as a published one. BatchNorm stays as it is there.

Cost: 300 steps of 256 images of 512 × 512 pixels, 76,800 images in all. An image takes 172 GFLOP in
the three stages, so the run takes about 4.4 minutes for each 50 TFLOP/s that the GPU sustains, or
as long as its CPU takes to decode that many pictures (estimated from the size of the network, not
measured). A chunk of 8 images takes some 5 GB on the device.

Without a GPU, `--config finetune:cpu` starts from ResNet-18:

    python -m dir_jax.train --config finetune:cpu --workdir runs/mine \\
        --config.model.init=resnet18-imagenet \\
        --config.data.train=photos/train --config.data.eval=photos/test

Cost: 100 steps of 64 images of 224 × 224 pixels, 6,400 images in all: at most 40 minutes and 2 GB
of memory on two CPU cores (from 3 of the steps, at 3 images a second on cores that others used,
too), and the evaluation of your photos before and after.

Expected result: `summary.json` has the mAP on your own photos before and after. Where it falls, try
a lower `--config.optimizer.learning_rate`, or more images.
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config(device: str = "gpu") -> ml_collections.ConfigDict:
    """The recipe for one GPU, or for two CPU cores where `device` is 'cpu'."""
    if device not in ("gpu", "cpu"):
        raise ValueError(f"it is for 'gpu' or 'cpu', not {device!r}")
    config = default_config()
    config.batch_norm = "frozen"
    config.sampler.name = "every_class"
    config.loss.name = "ap"
    config.loss.class_weighted = True
    config.optimizer.name = "adam"
    config.optimizer.schedule = "linear"
    config.optimizer.learning_rate = 1e-5
    config.optimizer.weight_decay = 1e-6
    config.optimizer.warmup_steps = 10
    config.whitening.max_images = 4096

    if device == "gpu":
        side = 512
        config.num_steps = 300
        config.batch_size = 256
        config.chunk_size = 8
        config.model.arch = "resnet50_rmac"
        config.model.out_dim = 2048
        config.data.num_workers = 8
        config.eval.every = 100
    else:
        side = 224
        config.num_steps = 100
        config.batch_size = 64
        config.chunk_size = 8
        config.model.arch = "resnet18_rmac"
        config.model.out_dim = 512
        config.data.num_workers = 0
    config.data.transform = (
        # The first transform only enlarges pictures that are too small for the crop.
        f"Scale({side * 9 // 8}, can_downscale=False), RandomScale({side * 9 // 8}, "
        f"{side * 11 // 8}), RandomCrop({side}), ColorJitter(0.2, 0.2, 0.2, 0.05)"
    )
    config.eval.transform = f"Scale({side})"
    config.whitening.transform = f"Scale({side}), CenterCrop({side})"  # one shape, one compilation
    return config
