"""Published models by name, from their file to descriptors: real layouts, random weights."""

import logging
import sys
import zipfile

import numpy as np
import pytest
import torch

import dir_jax
from dir_jax.commands import main as commands
from dir_jax.errors import UserError
from dir_jax.model_recipe import published_recipe
from dir_jax.models.variables import split_variables
from dir_jax.published import PUBLISHED
from torch_reference.networks import create_network

DIR, TORCHVISION = "Resnet101-AP-GeM", "resnet18-imagenet"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> the content of a file of the published layout, of a small network."""
    folder = tmp_path_factory.mktemp("files")
    network = create_network("resnet18_rmac", out_dim=8)
    state = network.state_dict()
    whitening = {"means": np.zeros(8), "W": np.eye(8)}
    tree = {
        "state_dict": state,
        "model_options": {"arch": "resnet18_rmac", "out_dim": 8},
        "pca": {"Landmarks_clean": whitening},
    }
    torch.save(tree, folder / "inner.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "dir.zip", "w") as archive:
        archive.write(folder / "inner.pt", "Resnet-101-AP-GeM.pt")
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    torch.save({k: v for k, v in state.items() if k != "adpool.p"}, folder / "torchvision.pth")
    return {
        DIR: (folder / "dir.zip").read_bytes(),
        TORCHVISION: (folder / "torchvision.pth").read_bytes(),
    }


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dir-jax", *arguments])
        code = commands.main()
        return code, *capsys.readouterr()

    return run


def test_is_fetched_and_converted_once(world, files, caplog, tmp_path, monkeypatch):
    world.publish(DIR, files[DIR])
    with caplog.at_level(logging.WARNING):
        model = dir_jax.load(DIR)
    assert model.recipe == PUBLISHED[DIR].used == published_recipe(["Landmarks_clean"])
    assert model.checkpoint.model.config.out_dim == 8
    assert [m.split()[0] for m in caplog.messages] == ["fetching", "converted"]
    caplog.clear()
    dir_jax.load(DIR, dtype="bfloat16")
    assert caplog.messages == []
    assert len(world.server.requests) == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / DIR).mkdir()  # a path comes before a name
    with pytest.raises(UserError, match="is not a checkpoint"):
        dir_jax.load(DIR)


def test_training_starts_from_a_name(world, files):
    from dir_jax.training.config import default_config
    from dir_jax.training.setup import create_network as create_initial

    world.publish(TORCHVISION, files[TORCHVISION])
    config = default_config()
    config.model.update({"arch": "resnet18_rmac", "out_dim": 4, "init": TORCHVISION})
    params = split_variables(create_initial(config))[1]
    assert params["fc.kernel"].shape == (512, 4)
    again = split_variables(dir_jax.load(TORCHVISION).checkpoint.model)[1]
    np.testing.assert_array_equal(params["conv1.kernel"], again["conv1.kernel"])


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Resnet101-AP-GEM", "did you mean Resnet101-AP-GeM?; dir-jax models lists"),
        ("Resnet101-AP-GeM.pt", "did you mean Resnet101-AP-GeM?"),
        ("resnet101-imagenet-v3", "did you mean resnet101-imagenet-v2?"),
        ("nothing_near", "nothing_near; dir-jax models lists"),
        ("models/nothing_near", "models/nothing_near"),
    ],
)
def test_unknown_names(text, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        dir_jax.load(text)
    assert str(e.value).startswith(f"there is no checkpoint {tmp_path / text}")
    assert near in str(e.value)
    assert ("dir-jax models" in str(e.value)) == ("models/" not in text)


def test_command_lists_what_is_here(world, files, call):
    world.publish(DIR, files[DIR])
    code, out, _ = call("models")
    assert code == 0
    assert "BSD-3-Clause" in out
    assert set(PUBLISHED) <= {line.split()[0] for line in out.splitlines() if line}
    row = f"\n  {DIR:33}  {{:4}}  89.1; 93.0; 67.1/42.3; 80.3/60.9\n"
    assert row.format("-") in out
    assert call("models", "--fetch", DIR)[:2] == (0, f"{world.cache / DIR}.zip\n")
    assert row.format("here") in call("models")[1]


def test_command_tells_everything_about_one(world, call):
    code, out, _ = call("models", "--name", "gl18-tl-resnet101-gem-w-a4d43db")
    assert code == 0
    for part in ("gl18/gl18-tl-resnet101-gem-w-a4d43db.pth", "a4d43db…", "MIT", "1024", "67.3/44.3",
                 "mean (0.485, 0.456, 0.406)"):  # fmt: skip
        assert part in out
    code, _, err = call("models", "--name", "gl18-tl-resnet101-gem")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean gl18-tl-resnet101-gem-w?" in err
