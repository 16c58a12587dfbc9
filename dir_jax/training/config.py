"""What an experiment can set, its defaults, and the check that a config is one of ours.

A recipe in `experiments/` starts from `default_config()` and changes what it needs; any key can be
changed again on the command line (`--config.loss.num_bins=10`).
"""

from __future__ import annotations

import difflib
import json
from typing import Any

import ml_collections

from dir_jax.errors import UserError


def default_config() -> ml_collections.ConfigDict:
    """Every key that training reads, with its default. Sizes in pixels, counts in images."""
    c = ml_collections.ConfigDict
    return c(
        {
            "seed": 0,
            "num_steps": 100,
            "batch_size": 128,  # images in a step, over all devices
            "chunk_size": 16,  # images that go through a device at once; bounds its memory
            "parallel": "shard_map",  # or 'pmap': how the per-replica step is run
            "model": c(
                {
                    "arch": "resnet50_rmac",
                    "out_dim": 2048,
                    "pooling": "gem",
                    "gemp": 3.0,
                    "norm_features": False,
                    "center_bias": 0.0,
                    "dropout_p": 0.0,
                    "without_fc": False,
                    "dtype": "float32",  # of the computation; parameters are always float32
                    "precision": "highest",  # 'default' lets a GPU use TF32, a TPU bfloat16
                    "init": "",  # a checkpoint directory to start from; '' is random weights
                }
            ),
            # 'frozen': statistics, scale and bias stay (fine-tuning); 'frozen_statistics': scale
            # and bias train; 'trained': statistics are those of each chunk and are tracked.
            "batch_norm": "frozen",
            "data": c(
                {
                    "train": "",  # a labelled data set, e.g. ImageListLabels("list.txt", "root")
                    # A labelled data set of other classes, with queries apart or without; logged
                    # as 'mAP', 'top1', …; '' for none.
                    "eval": "",
                    # A data set with an Oxford-style ground truth; '' for none. Logged as
                    # 'mAP-easy', 'mP@1-easy', … at the revisited protocol's three levels, or as
                    # 'mAP-classic', 'mP@1-classic', … by the classic protocol.
                    "eval_oxford": "",
                    "db_root": "",  # '' is the environment's DB_ROOT
                    "mean": (0.485, 0.456, 0.406),
                    "std": (0.229, 0.224, 0.225),
                    "transform": "",  # of training images; must give one fixed size
                    "num_workers": 2,  # processes that decode; 0 is threads in this process
                    "prefetch": 4,  # chunks that each worker prepares ahead
                }
            ),
            "sampler": c(
                {
                    "name": "every_class",  # 'every_class', 'classes', 'shuffle', 'mined'
                    "images_per_class": 4,  # of 'classes'
                }
            ),
            "loss": c(
                {
                    "name": "ap",  # 'ap', 'tie_aware_ap', 'triplet', 'triplet_log_exp'
                    "num_bins": 20,
                    "class_weighted": False,
                    "margin": 0.1,
                    "mining": "hardest",  # within the batch: 'hardest', 'semihard', 'all'
                }
            ),
            "mining": c(  # of the 'mined' sampler: triplets from a pool's descriptors
                {
                    "pool_size": 0,  # images described at each refresh; 0 is all
                    "refresh_every": 100,  # steps
                    "negatives": 10,  # the hardest that each anchor chooses from
                    "positives": "random",  # 'random', 'hardest', 'easiest'
                    "transform": "",  # of the pool's images; '' is eval.transform
                }
            ),
            "optimizer": c(
                {
                    "name": "adam",  # 'adam', 'sgd'
                    "learning_rate": 1e-4,
                    "schedule": "linear",  # falls to 0 at num_steps; or 'constant', 'cosine'
                    "warmup_steps": 0,
                    "momentum": 0.9,  # of 'sgd'
                    "weight_decay": 0.0,  # added to the gradient, as torch's optimisers do
                }
            ),
            "eval": c(
                {
                    "every": 0,  # steps; 0 is before and after training only
                    "transform": "",  # '' is each image as it is
                    "batch_size": 32,
                }
            ),
            "whitening": c(
                {
                    "name": "train",  # the name it is stored under; '' learns none
                    "max_images": 0,  # chosen at random; 0: all, or as many as training saw
                    "transform": "",  # '' is eval.transform
                    "power": 0.25,  # of the whitened evaluation that is reported
                }
            ),
            "checkpoint": c({"every": 50, "keep": 2}),  # steps; how many of the newest stay
            "log_every": 1,
        }
    )


_CHOICES = {
    "parallel": ("shard_map", "pmap"),
    "batch_norm": ("frozen", "frozen_statistics", "trained"),
    "sampler.name": ("every_class", "classes", "shuffle", "mined"),
    "loss.name": ("ap", "tie_aware_ap", "triplet", "triplet_log_exp"),
    "loss.mining": ("hardest", "semihard", "all"),
    "mining.positives": ("random", "hardest", "easiest"),
    "optimizer.name": ("adam", "sgd"),
    "optimizer.schedule": ("linear", "constant", "cosine"),
}
_AT_LEAST = {  # key -> smallest value
    "seed": 0,
    "batch_size": 1,
    "chunk_size": 1,
    "num_steps": 0,
    "log_every": 1,
    "data.num_workers": 0,
    "data.prefetch": 1,
    "loss.num_bins": 2,
    "mining.pool_size": 0,
    "mining.refresh_every": 1,
    "mining.negatives": 1,
    "optimizer.learning_rate": 0,
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0,
    "eval.every": 0,
    "eval.batch_size": 1,
    "whitening.max_images": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "sampler.images_per_class": 2,
}


def validate_config(config: ml_collections.ConfigDict) -> None:
    """Checks a config's keys, types, choices and ranges.

    Raises:
      UserError: naming every missing key, or the first surplus key or bad value.
    """
    expected = _flatten(default_config().to_dict())
    found = _flatten(config.to_dict())
    missing = [k for k in expected if k not in found]
    if missing:
        raise UserError(
            f"the config lacks {', '.join('config.' + k for k in missing)}; start it from "
            "dir_jax.training.config.default_config()"
        )
    for key in found:
        if key not in expected:
            near = difflib.get_close_matches(key, expected, n=1)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            raise UserError(f"the config has config.{key}, which nothing reads{hint}")
    for key, default in expected.items():
        value = found[key]
        wanted = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, wanted) or (
            isinstance(value, bool) and not isinstance(default, bool)
        ):
            raise UserError(
                f"config.{key} is {value!r}, a {type(value).__name__}; "
                f"expected a {type(default).__name__}"
            )
    for key, choices in _CHOICES.items():
        if found[key] not in choices:
            raise UserError(f"config.{key} is {found[key]!r}; choose from {', '.join(choices)}")
    for key, least in _AT_LEAST.items():
        if found[key] < least:
            raise UserError(f"config.{key} is {found[key]}; the least is {least}")
    if not found["data.train"]:
        raise UserError(
            "config.data.train names no data set; give one, such as "
            """--config.data.train='ImageListLabels("list.txt", "root")'"""
        )
    if found["sampler.name"] == "mined" and not found["loss.name"].startswith("triplet"):
        raise UserError(
            "config.sampler.name='mined' delivers triplets: it goes with config.loss.name="
            f"'triplet' or 'triplet_log_exp', not {found['loss.name']!r}"
        )


# What may differ when a run is resumed: none of these changes the numbers.
_FREE_TO_CHANGE = (
    "data.num_workers",
    "data.prefetch",
    "data.db_root",
    "eval.batch_size",
    "checkpoint.every",
    "checkpoint.keep",
    "log_every",
)


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys by which two configs (as `config_to_json` gives them) would train differently."""
    a, b = _flatten(old), _flatten(new)
    return [
        key
        for key in sorted(a.keys() | b.keys())
        if key not in _FREE_TO_CHANGE and a.get(key) != b.get(key)
    ]


def config_to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values: what a working directory remembers of its run."""
    return json.loads(json.dumps(config.to_dict()))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
