"""What an experiment can set: each key with its default, what it means, and what it may be.

A recipe in `experiments/` starts from `default_config()` and changes what it needs; any key can be
changed again on the command line (`--config.loss.num_bins=10`). To add a key, add it to
`config_keys`; nothing else lists them.
"""

from __future__ import annotations

import difflib
import json
from typing import Any, NamedTuple

import ml_collections

from dir_jax.errors import UserError, quoted, shown
from dir_jax.errors import did_you_mean as nearest


class _Key(NamedTuple):
    """A key of the config. A value must have the default's type, and as many numbers."""

    default: Any
    low: float = 0  # the smallest and the largest that a number may be
    high: float = 2**31 - 1
    choices: tuple[str, ...] = ()  # what a text may be; anything by default
    changes_numbers: bool = True  # False: a run may be resumed with another value


def config_keys() -> dict[str, Any]:
    """Every key that training reads, with its default, its meaning and what it may be."""
    return {
        # Seed of the random weights, the batches, the augmentation and the dropout.
        "seed": _Key(0),
        "num_steps": _Key(100),  # Updates in the whole run.
        "batch_size": _Key(128, 1, 1 << 20),  # Images in one update, over all devices.
        # Images that go through one device at a time. It bounds the memory; with 'trained'
        # BatchNorm it is also the group of images that are normalised together.
        "chunk_size": _Key(16, 1, 1 << 20),
        # How a step is run on several devices: by jax.shard_map or by jax.pmap.
        "parallel": _Key("shard_map", choices=("shard_map", "pmap")),
        # What BatchNorm does in training. 'frozen': nothing of it changes (fine-tuning);
        # 'frozen_statistics': scale and bias are trained; mean and variance stay;
        # 'trained': each chunk is normalised by its own mean and variance, which are tracked.
        "batch_norm": _Key("frozen", choices=("frozen", "frozen_statistics", "trained")),
        "model": {
            # The architecture, such as 'resnet101_rmac'; `dir_jax.models` lists them.
            "arch": _Key("resnet50_rmac"),
            "out_dim": _Key(2048, 1, 1 << 16),  # Values in a descriptor.
            "pooling": _Key("gem"),  # 'gem', 'max' or 'avg'.
            "gemp": _Key(3.0, 0.01, 1000),  # GeM's power before the first update; it is trained.
            # Whether the pooled features are L2-normalised before the projection.
            "norm_features": _Key(False),
            # How much more than the border the centre of the feature map counts; 0.0 for no bias.
            "center_bias": _Key(0.0),
            "dropout_p": _Key(0.0, 0, 0.99),  # Share of features that dropout drops.
            "without_fc": _Key(False),  # Whether the projection (`fc`) is left out.
            # Type of the computation, 'float32' or 'bfloat16'. Parameters are always float32.
            "dtype": _Key("float32", choices=("float32", "bfloat16")),
            # Precision of float32 products: 'default' lets a GPU use TF32 and a TPU bfloat16.
            "precision": _Key("highest", choices=("default", "high", "highest")),
            # Where to start from: a checkpoint, ours or a file of PyTorch, or the name of a
            # published model; '' for random weights.
            "init": _Key(""),
            # Whether that checkpoint may lack some of the backbone, which then stays random.
            "init_partial": _Key(False, changes_numbers=False),
        },
        "data": {
            # Folder that recipes such as caltech101.py put before the names of their files.
            "root": _Key("", changes_numbers=False),
            # Labelled data set to train on, such as 'ImageListLabels("list.txt", "root")'.
            "train": _Key(""),
            # Labelled data set of other classes to evaluate on, or ''. Logged as 'mAP',
            # 'recall@1', ….
            "eval": _Key(""),
            # Data set with Oxford-style ground truth to evaluate on, or ''. Logged as 'mAP-easy',
            # 'mP@1-easy', … at the revisited protocol's three levels, or as 'mAP-classic', ….
            "eval_oxford": _Key(""),
            # Folder of the data sets that go by name; '' for the environment variable DB_ROOT.
            "db_root": _Key("", changes_numbers=False),
            # Mean and standard deviation of the red, green and blue channels, for images in [0, 1].
            "mean": _Key((0.485, 0.456, 0.406), -1000, 1000),
            "std": _Key((0.229, 0.224, 0.225), 1e-6, 1000),
            # Whether images are turned as their EXIF data says, or used as they are stored.
            "exif": _Key(False),
            # Transforms of the training images; they must give all images one size.
            "transform": _Key(""),
            # What is done about a file that a list has twice: 'keep' all rows, or 'drop' all but
            # the first.
            "on_duplicate": _Key("keep", choices=("keep", "drop"), changes_numbers=False),
            # What is done about images that are missing or damaged: 'stop', or 'skip' them and list
            # them in skipped_images.txt. What turns out to be damaged only as it is decoded is
            # replaced by another image of its class.
            "on_error": _Key("stop", choices=("stop", "skip"), changes_numbers=False),
            # What a resumed run does if a list or an image file is no longer what it was.
            "on_change": _Key("stop", choices=("stop", "continue"), changes_numbers=False),
            # Processes that decode images; 0 for threads of the training process.
            "num_workers": _Key(2, 0, 1024, changes_numbers=False),
            # Arrays of up to `chunk_size` images that each of them prepares ahead.
            "prefetch": _Key(4, 1, 1024, changes_numbers=False),
        },
        "sampler": {
            # Which images make a batch. 'every_class': all classes in equal shares; 'classes':
            # `images_per_class` images of some classes; 'shuffle': random permutations of all
            # images; 'mined': triplets with hard negatives, see `mining`.
            "name": _Key("every_class", choices=("every_class", "classes", "shuffle", "mined")),
            "images_per_class": _Key(4, 2),  # In a batch, for 'classes'.
        },
        "loss": {
            # A row of `dir_jax.losses.LOSSES`, such as 'ap' or 'triplet'; docs/losses.md has them.
            "name": _Key("ap"),
            "num_bins": _Key(20, 2, 10_000),  # Bins of similarity, for 'ap', 'tie_aware_ap', …
            # Whether all classes of a batch count equally, for the AP losses.
            "class_weighted": _Key(False),
            "margin": _Key(0.1, 0, 10),  # Margin between the distances of a triplet, for 'triplet'.
            # Triplets of a batch that the triplet losses use, unless the sampler is 'mined'.
            "mining": _Key("hardest", choices=("hardest", "semihard", "all")),
            "temperature": _Key(0.01, 1e-6, 100),  # Of 'smooth_ap', 'recall_at_k'.
            "recall_k": _Key((1, 2, 4, 8, 16), 1, 1 << 20),  # Values of k, for 'recall_at_k'.
            "rank_temperature": _Key(1.0, 1e-6, 100),  # Of ranks, for 'recall_at_k'.
            "contrastive_margin": _Key(0.7, 0, 2),  # How far negatives should be, 'contrastive'.
            "negatives": _Key(5, 1, 1 << 20),  # Nearest ones of an image, for 'contrastive'.
            # For 'multi_similarity': weights of positives and of negatives, the similarity around
            # which pairs count, and the slack of their mining.
            "alpha": _Key(2.0, 1e-6, 1000),
            "beta": _Key(50.0, 1e-6, 1000),
            "base": _Key(0.5, -1, 1),
            "epsilon": _Key(0.1, 0, 10),
            "arcface_margin": _Key(0.5, 0, 3.1415),  # An angle in radians, for 'arcface'.
            "cosface_margin": _Key(0.35, 0, 2),  # Of cosines, for 'cosface'.
            "scale": _Key(64.0, 1e-6, 1000),  # Of cosines in the softmax of both.
        },
        # Triplets chosen from the descriptors of a pool of images, for the sampler 'mined'.
        "mining": {
            # Images in the pool, chosen at random each time; 0 for all of the data set.
            "pool_size": _Key(0),
            "refresh_every": _Key(100, 1),  # Steps from one pool to the next.
            # Hardest negatives of an anchor, of which each triplet gets one at random.
            "negatives": _Key(10, 1),
            # Pairs drawn each time from a data set that lists matching pairs, such as
            # SfM120k_train; 0 for all. They are the anchors and their positives, and the pool is
            # where their negatives come from, at most one of each class.
            "pairs": _Key(0),
            # Which image of the anchor's class is its positive, where no pairs are listed.
            "positives": _Key("random", choices=("random", "hardest", "easiest")),
            # Transforms of the pool's images; '' for those of `eval.transform`.
            "transform": _Key(""),
        },
        "optimizer": {
            "name": _Key("adam", choices=("adam", "sgd")),
            "learning_rate": _Key(1e-4),  # The highest learning rate.
            # How the rate falls: 'linear' or 'cosine' to 0 at the last step, or not at all.
            "schedule": _Key("linear", choices=("linear", "constant", "cosine")),
            "warmup_steps": _Key(0),  # Steps in which the rate first rises.
            "momentum": _Key(0.9, 0, 1),  # Momentum of 'sgd'.
            # Multiple of the parameters that is added to their gradient, as in torch's optimisers.
            "weight_decay": _Key(0.0),
        },
        "eval": {
            # Steps from one evaluation to the next; 0 for before and after training only.
            "every": _Key(0),
            # Transforms of the images to evaluate on; '' for images as they are.
            "transform": _Key(""),
            # Most images described at once on each device; large images are fewer.
            "batch_size": _Key(32, 1, 65536, changes_numbers=False),
        },
        # PCA whitening, learned from training images at the end of the run and kept with the model.
        "whitening": {
            "name": _Key("train"),  # Name that it is kept under; '' for no whitening.
            # Most images to learn it from, chosen at random; 0 for as many as training has seen.
            "max_images": _Key(0),
            "transform": _Key(""),  # Transforms of these images; '' for those of `eval.transform`.
            # Power of the eigenvalues in the whitened evaluation that the summary reports.
            "power": _Key(0.25, 0, 10),
        },
        "checkpoint": {
            "every": _Key(50, 1, changes_numbers=False),  # Steps from one to the next.
            # How many of the newest checkpoints are kept, besides the best.
            "keep": _Key(2, 1, changes_numbers=False),
        },
        "log_every": _Key(
            1, 1, changes_numbers=False
        ),  # Steps from one row of the log to the next.
    }


def default_config() -> ml_collections.ConfigDict:
    """Every key that training reads, with its default; `config_keys` says what each means."""

    def default(node: Any) -> Any:
        return {k: default(v) for k, v in node.items()} if isinstance(node, dict) else node.default

    return ml_collections.ConfigDict(default(config_keys()))


def validate_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError, naming the keys, unless a config has exactly the keys there are, with
    values of their types, choices and ranges that go together."""
    expected, found = flatten(config_keys()), flatten(config.to_dict())
    if missing := [key for key in expected if key not in found]:
        raise UserError(
            f"the config lacks {len(missing)} keys: {', '.join(f'config.{k}' for k in missing[:5])}"
            f"{', …' * (len(missing) > 5)}; start it from dir_jax.training.config.default_config()"
        )
    for key in found:
        if key not in expected:
            raise UserError(
                f"the config has config.{shown(key)}, which is not a key{did_you_mean(key)}"
            )
    from dir_jax.losses import LOSSES  # not above: a recipe is read before jax is needed

    expected["loss.name"] = _Key("ap", choices=tuple(LOSSES))
    for key, rule in expected.items():
        if not _fits(found[key], rule):
            near = nearest(str(found[key]), rule.choices) if rule.choices else ""
            raise UserError(f"config.{key} is {quoted(found[key])}; expected {_words(rule)}{near}")
    if not found["data.train"]:
        raise UserError(
            "config.data.train names no data set; give one, such as "
            """--config.data.train='ImageListLabels("list.txt", "root")'"""
        )
    if found["sampler.name"] == "mined" and LOSSES[found["loss.name"]].of_triplets is None:
        names = [repr(name) for name, loss in LOSSES.items() if loss.of_triplets]
        raise UserError(
            f"config.sampler.name='mined' makes triplets, which need config.loss.name="
            f"{' or '.join(names)}; it is {found['loss.name']!r}"
        )
    if found["batch_norm"] != "trained" and not found["model.init"]:
        raise UserError(
            f"config.batch_norm={found['batch_norm']!r} keeps BatchNorm's statistics as they "
            "are at the start, and random weights have none; start from a checkpoint "
            "(--config.model.init=FILE) or train BatchNorm, too (--config.batch_norm=trained)"
        )


def _fits(value: Any, rule: _Key) -> bool:
    default = rule.default
    if isinstance(default, tuple):
        same_length = isinstance(value, tuple | list) and len(value) == len(default)
        return same_length and all(_fits(x, rule._replace(default=default[0])) for x in value)
    if isinstance(default, bool | str):
        return isinstance(value, type(default)) and (not rule.choices or value in rule.choices)
    number = int if isinstance(default, int) else int | float
    is_number = isinstance(value, number) and not isinstance(value, bool)
    return is_number and rule.low <= value <= rule.high  # NaN is not


def _words(rule: _Key) -> str:
    """What a value may be."""
    default = rule.default
    if isinstance(default, bool | str):
        text = "one of " + ", ".join(rule.choices) if rule.choices else "a text"
        return "True or False" if isinstance(default, bool) else text
    what = "a whole number" if isinstance(default, int) else "a number"
    what = f"{len(default)} numbers" if isinstance(default, tuple) else what
    return f"{what} from {rule.low:,} to {rule.high:,}"


def expected(key: str) -> str:
    """What the value of a key, such as `loss.name`, may be, in words."""
    return _words(flatten(config_keys())[key])


def did_you_mean(name: str) -> str:
    """A phrase that suggests the key that `name`, such as 'lr' or 'batchsize', most likely means.

    It is spelled almost like `name`, or its last part is that of `name` or is abbreviated by it;
    '' where there is no such key.
    """
    keys = list(flatten(config_keys()))
    parts = {key: key.split(".")[-1] for key in keys}
    last = name.split(".")[-1]
    same = [k for k, own in parts.items() if last in (own, "".join(w[0] for w in own.split("_")))]
    near = difflib.get_close_matches(name, same or keys, n=1) or same
    return f"; did you mean config.{near[0]}?" if near else ""


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys by which two configs, as `config_to_json` gives them, train differently."""
    # A run of an earlier version, which lacked some keys, had their defaults.
    defaults, rules = config_to_json(default_config()), flatten(config_keys())
    a, b = (flatten(defaults) | flatten(config) for config in (old, new))
    return [
        key
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and (key not in rules or rules[key].changes_numbers)
    ]


def config_to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values, which the run's directory keeps."""
    return json.loads(json.dumps(config.to_dict()))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a tree of dicts."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
