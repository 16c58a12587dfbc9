"""The config: its keys, what is refused, and which key a wrong one was meant to be."""

import importlib
from pathlib import Path

import pytest

from dir_jax.errors import UserError
from dir_jax.training.config import (
    config_differences,
    config_to_json,
    default_config,
    did_you_mean,
    validate_config,
)

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")


def valid_config():
    config = default_config()
    config.data.train = 'ImageListLabels("list.txt")'
    config.batch_norm = "trained"
    return config


def test_there_are_recipes():
    assert {"ap_gem", "triplet_gem", "caltech101", "quickstart"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_valid_config(name):
    config = importlib.import_module(f"experiments.{name}").get_config()
    if config.batch_norm != "trained":
        config.model.init = "checkpoint"
    config.data.train = config.data.train or "photos"
    validate_config(config)


def test_finetune_has_a_variant_for_the_cpu():
    from experiments.finetune import get_config

    sizes = {}
    for device in ("gpu", "cpu"):
        config = get_config(device)
        assert config.batch_norm == "frozen"  # so that it is refused without config.model.init
        sizes[device] = config.num_steps * config.batch_size
    assert sizes == {"gpu": 76_800, "cpu": 6_400}  # of which the docstring gives the cost
    with pytest.raises(ValueError, match="'gpu' or 'cpu', not 'tpu'"):
        get_config("tpu")


def test_the_folder_of_caltech_is_one_key():
    from experiments.caltech101 import get_config

    config = get_config()
    config.data.root = "/photos"
    assert config.data.train == 'ImageListLabels("/photos/train.txt", "/photos")'
    assert config.data.eval == 'ImageListLabels("/photos/test.txt", "/photos")'
    assert config_to_json(config)["data"]["eval"] == config.data.eval


def test_lists_of_caltech_are_written_from_its_folder(tmp_path, capsys):
    from experiments.caltech101 import TEST, TRAIN, write_lists

    train, test = set(TRAIN.split()), set(TEST.split())
    assert len(train) == len(test) == 37
    assert not train & test
    for name in ("bass", "ant", "airplanes"):
        folder = tmp_path / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for number in (2, 1):
            (folder / f"image_000{number}.jpg").touch()
    write_lists(tmp_path)
    rows = (tmp_path / "train.txt").read_text().splitlines()
    assert rows == [f"101_ObjectCategories/bass/image_000{i}.jpg bass" for i in (1, 2)]
    rows = (tmp_path / "test.txt").read_text().splitlines()
    assert rows == [f"101_ObjectCategories/ant/image_000{i}.jpg ant" for i in (1, 2)]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("loss.name", "app", ["config.loss.name", "tie_aware_ap"]),
        ("loss.name", "smoothap", ["did you mean smooth_ap?"]),
        ("batch_size", 0, ["config.batch_size is 0", "whole number from 1 to 1,048,576"]),
        ("batch_size", 10**18, ["config.batch_size", "whole number from 1 to 1,048,576"]),
        ("num_steps", 2**40, ["config.num_steps", "whole number from 0 to 2,147,483,647"]),
        ("whitening.power", float("nan"), ["config.whitening.power is nan", "from 0 to 10"]),
        ("optimizer.learning_rate", float("inf"), ["config.optimizer.learning_rate is inf"]),
        ("data.mean", (0.5, 0.5), ["config.data.mean is (0.5, 0.5)", "3 numbers"]),
        ("data.std", (0.2, 0, 0.2), ["config.data.std", "3 numbers from 1e-06"]),
        ("model.gemp", -1.0, ["config.model.gemp", "a number from 0.01"]),
        ("model.dropout_p", 1.0, ["config.model.dropout_p", "from 0 to 0.99"]),
        ("model.without_fc", 1, ["config.model.without_fc", "True or False"]),
        ("model.arch", 5, ["config.model.arch is 5", "a text"]),
        ("seed", True, ["config.seed is True", "a whole number"]),
        ("batch_norm", "frozen", ["config.model.init", "config.batch_norm=trained"]),
        ("batch_norm", "frozen_statistics", ["config.model.init", "config.batch_norm=trained"]),
        ("data.train", "", ["config.data.train", "ImageListLabels"]),
        ("sampler.name", "mined", ["triplet"]),
    ],
)
def test_bad_values_are_refused(key, value, words):
    config = valid_config()
    validate_config(config)
    group, _, name = key.rpartition(".")
    with config.ignore_type():
        (config[group] if group else config)[name] = value
    with pytest.raises(UserError) as refused:
        validate_config(config)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("batchsize", "batch_size"),
        ("loss.bins", "loss.num_bins"),
        ("optimiser.name", "optimizer.name"),
        ("qqqqqq", None),
    ],
)
def test_the_nearest_key(name, meant):
    assert did_you_mean(name) == (f"; did you mean config.{meant}?" if meant else "")


def test_a_key_that_is_misspelt_in_a_recipe():
    config = valid_config()
    config.lr = 1.0
    with pytest.raises(UserError, match=r"config\.lr,.* did you mean config.optimizer"):
        validate_config(config)


def test_what_a_resumed_run_may_change():
    old, new = valid_config(), valid_config()
    new.checkpoint.every = new.data.num_workers = new.log_every = 7
    assert not config_differences(config_to_json(old), config_to_json(new))
    earlier = config_to_json(old)
    del earlier["model"]["init_partial"]  # a key that came later
    assert not config_differences(earlier, config_to_json(new))
    new.loss.num_bins = 7
    assert config_differences(config_to_json(old), config_to_json(new)) == ["loss.num_bins"]


def test_categories_to_validate_on_are_training_categories():
    from experiments.caltech101 import TRAIN, VALIDATION

    validation = set(VALIDATION.split())
    assert validation < set(TRAIN.split())
    assert len(validation) == 9
