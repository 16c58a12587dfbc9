"""Caltech-101 photographs: ResNet-18 from random weights, evaluated on categories never seen.

    python -m dir_jax.train --config caltech101 --workdir runs/caltech101 \\
        --config.data.root=/path/to/caltech101 --config.loss.name=ap        # or triplet

Data: Caltech-101 (Li, Andreeto, Ranzato, Perona, CaltechDATA 2022, CC BY 4.0), 137 MB, from
https://data.caltech.edu/records/mzrjq-6wc02 (doi 10.22002/D1.20086). The archive holds a second one
with the folder `101_ObjectCategories`. Extract that into `/path/to/caltech101`, then write the two
lists that the recipe reads, `train.txt` and `test.txt`:

    python experiments/caltech101.py /path/to/caltech101

They hold 3,021 images of 37 categories, and 2,614 of 37 others.

Cost: 240 steps of 64 images of 64 × 64 pixels, 15,360 images in all: three to four minutes and 1 GB
of memory on two CPU cores.

Expected result, measured here: with the AP loss, mAP on the categories never seen from 12.4 to 15.7
per cent (mean of three seeds). experiments/README.md has the table, with the triplet loss and a
PyTorch peer.
"""

import sys
from pathlib import Path

import ml_collections

from dir_jax.training.config import default_config

TRAIN = (
    "Motorbikes bass bonsai brain butterfly cellphone chandelier crab crayfish crocodile_head cup "
    "dalmatian dragonfly elephant emu euphonium flamingo_head garfield headphone helicopter ibis "
    "kangaroo llama lotus mayfly metronome minaret pagoda pizza platypus rooster snoopy tick "
    "umbrella water_lilly wild_cat wrench"
)
# Categories of TRAIN that are left out to choose a recipe by; those of TEST are not looked at.
VALIDATION = "bonsai chandelier cup emu headphone llama minaret rooster water_lilly"
TEST = (
    "Leopards accordion ant brontosaurus camera cannon car_side chair crocodile dollar_bill "
    "electric_guitar ewer flamingo hawksbill inline_skate ketch mandolin menorah nautilus octopus "
    "panda pigeon revolver rhino saxophone schooner scissors sea_horse stapler starfish "
    "stegosaurus stop_sign sunflower trilobite watch wheelchair windsor_chair"
)


def get_config() -> ml_collections.ConfigDict:
    """A budget that suits two CPU cores."""
    config = default_config()
    config.num_steps = 240
    config.batch_size = 64
    config.chunk_size = 64  # BatchNorm normalises the whole batch together, as the peer does
    config.batch_norm = "trained"
    config.model.arch = "resnet18_rmac"
    config.model.out_dim = 512

    config.data.root = "caltech101"
    root = config.data.get_ref("root")  # what is made from it follows it when it is changed
    config.data.train = 'ImageListLabels("' + root + '/train.txt", "' + root + '")'
    config.data.eval = 'ImageListLabels("' + root + '/test.txt", "' + root + '")'
    config.data.transform = (
        "Scale((76, 76)), RandomCrop(64), RandomFlip(), ColorJitter(0.3, 0.3, 0.3, 0.05)"
    )
    config.data.num_workers = 0

    config.sampler.name = "classes"
    config.sampler.images_per_class = 4
    config.loss.name = "ap"
    config.loss.mining = "semihard"
    config.loss.margin = 0.1

    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 5

    config.eval.transform = "Scale((72, 72)), CenterCrop(64)"
    config.eval.batch_size = 64
    config.checkpoint.every = 120
    return config


def write_lists(root: Path) -> None:
    """Writes `train.txt` and `test.txt` into a folder that holds `101_ObjectCategories`."""
    for name, categories in (("train.txt", TRAIN), ("test.txt", TEST)):
        rows = [
            f"{image.relative_to(root)} {category}\n"
            for category in categories.split()
            for image in sorted((root / "101_ObjectCategories" / category).glob("*.jpg"))
        ]
        (root / name).write_text("".join(rows))
        print(f"{root / name}: {len(rows)} images")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "101_ObjectCategories").is_dir():
        raise SystemExit("usage: python experiments/caltech101.py FOLDER_OF_101_ObjectCategories")
    write_lists(Path(sys.argv[1]))
