"""AP-GeM: ResNet-101 with GeM, trained by the listwise AP loss (Revaud et al., ICCV 2019).

    python -m dir_jax.train --config experiments/ap_gem.py --workdir runs/ap_gem \\
        --config.model.init=CHECKPOINT --config.data.db_root=DIR

Data: Landmarks-clean (Gordo et al. 2017) under `landmarks/` of `$DB_ROOT` or `config.data.db_root`:
`landmarks/annotations/annotation_clean_train.txt`, rows `path label`, pictures below `landmarks/`.
The list is published with the paper; the pictures have to be fetched from its addresses. Any list
of your own does as well: `--config.data.train='ImageListLabels("list.txt", "root")'`.

Start: ImageNet weights, `--config.model.init`. Without it training starts from random weights,
which does not reproduce the paper.

Expected result, as the authors report it (mAP, original image size, one scale, whitened with power
0.25): Oxford5K 89.1, Paris6K 93.0, ROxford5K 67.1 medium / 42.3 hard, RParis6K 80.3 / 60.9. It has
not been reproduced here: that takes the pictures and an accelerator.

Try it anywhere, one step on a list of your own:

    python -m dir_jax.train --config experiments/ap_gem.py --workdir runs/try \\
        --config.data.train='ImageListLabels("list.txt", "root")' \\
        --config.batch_size=8 --config.num_steps=1
"""

import ml_collections

from dir_jax.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The paper's section 4.1, every number."""
    config = default_config()
    config.num_steps = 200
    config.batch_size = 4096
    config.chunk_size = 2  # of 800 × 800 pixels: fits 24 GB; raise it where memory allows
    config.batch_norm = "frozen"
    config.model.arch = "resnet101_rmac"
    config.model.out_dim = 2048
    config.model.pooling = "gem"
    config.model.gemp = 3.0  # the start; the power is trained

    config.data.train = "Landmarks_clean"
    config.data.transform = (
        # The first step only lifts pictures that are too small for the crop.
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
    # One shape for all: the paper's original sizes would compile once for each.
    config.whitening.transform = "Scale(800), CenterCrop(800)"
    config.eval.transform = "Scale(800), CenterCrop(800)"
    config.eval.batch_size = 8
    config.checkpoint.every = 10
    return config
