"""AP-GeM: ResNet-101 with GeM, trained with the listwise AP loss.

    python -m dir_jax.train --config ap_gem --workdir runs/ap_gem \\
        --config.model.init=resnet101-imagenet --config.data.db_root=DIR

Revaud, Almazan, Rezende, de Souza, "Learning with Average Precision: Training Image Retrieval with
a Listwise Loss", ICCV 2019, section 4.

Data: Landmarks-clean (Gordo et al., IJCV 2017) in `DIR/landmarks/`. The list with a path and a
label in each row, `landmarks/annotations/annotation_clean_train.txt`, is published with the paper;
the pictures have to be fetched from the addresses that are published beside it. Any labelled list
of your own will do: `--config.data.train='ImageListLabels("list.txt", "root")'`.

Start: the ImageNet weights of torchvision's ResNet-101, fetched by their name.

Cost: 200 steps of 4,096 images, 819,200 images in all, of 800 × 800 pixels. An image takes 796
GFLOP in the three stages, so the run takes about 3.6 hours on a GPU that sustains 50 TFLOP/s, and
three cores that decode (estimated from benchmarks/RESULTS.md; not measured on a GPU). A chunk of
two images takes 4 GB on the device, by XLA's own account; each further image some 1.8 GB.

Expected result, as the authors report it (mAP in per cent, original image size, one scale, whitened
with power 0.25): Oxford5K 89.1, Paris6K 93.0, ROxford5K 67.1 medium and 42.3 hard, RParis6K 80.3
and 60.9. We have not reproduced it: we have neither the pictures nor a GPU.

To see it run anywhere, take one step on a small list of your own:

    python -m dir_jax.train --config ap_gem --workdir runs/try \\
        --config.data.train='ImageListLabels("list.txt", "root")' \\
        --config.batch_norm=trained --config.batch_size=8 --config.num_steps=1
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The numbers of the paper's section 4.1."""
    config = default_config()
    config.num_steps = 200
    config.batch_size = 4096
    config.chunk_size = 2  # raise it where memory allows; it does not change the numbers
    config.batch_norm = "frozen"
    config.model.arch = "resnet101_rmac"
    config.model.out_dim = 2048
    config.model.pooling = "gem"
    config.model.gemp = 3.0  # at the start; the power is trained

    config.data.train = "Landmarks_clean"
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

    config.whitening.name = "Landmarks_clean"
    config.whitening.power = 0.25
    config.whitening.transform = "Scale(800), CenterCrop(800)"  # one shape, one compilation
    config.eval.transform = "Scale(800), CenterCrop(800)"
    config.eval.batch_size = 8
    config.checkpoint.every = 10
    return config
