"""What a run starts from."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image

from dir_jax.checkpoint import save_model
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.models.variables import split_variables
from dir_jax.training.config import default_config
from dir_jax.training.setup import create_network, create_setup
from tests.data.truths import write_truth


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "net"
    save_model(path, create_model("resnet18_rmac", out_dim=8, seed=5))
    return str(path)


def test_only_the_layers_after_the_backbone_may_be_new(resnet18, caplog):
    config = default_config()
    config.model.update({"arch": "resnet18_rmac", "out_dim": 4, "init": resnet18})
    network = create_network(config)
    assert "2 of 103 arrays of resnet18_rmac (2 of fc): they stay as they begin" in caplog.text
    expected = split_variables(create_model("resnet18_rmac", out_dim=8, seed=5))[1]
    found = split_variables(network)[1]
    np.testing.assert_array_equal(found["layer4.1.conv2.kernel"], expected["layer4.1.conv2.kernel"])


def test_another_backbone_is_refused_unless_asked_for(resnet18, caplog):
    config = default_config()
    config.model.update({"arch": "resnet50_rmac", "out_dim": 8, "init": resnet18})
    with pytest.raises(UserError) as refused:
        create_network(config)
    assert "arrays of resnet50_rmac (" in str(refused.value)
    assert "of layer4" in str(refused.value)
    assert "--config.model.init_partial=True" in str(refused.value)
    config.model.init_partial = True
    create_network(config)
    assert "they stay as they begin" in caplog.text


def test_exif_is_a_part_of_the_recipe_and_of_all_images(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for i in range(8):
        Image.new("RGB", (40, 30), (30 * i, 0, 0)).save(tmp_path / f"{i}.jpg", exif=exif)
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg {i % 2}\n" for i in range(8)))
    truth = [{"bbx": [0, 10, 30, 40], "easy": [1], "hard": [], "junk": []}]
    names = {"imlist": ["0.jpg", "1.jpg"], "qimlist": ["2.jpg"]}
    gnd = write_truth(tmp_path / "gnd.pkl", gnd=truth, **names)
    config = default_config()
    words = f'ImageListLabels("{tmp_path}/list.txt", "{tmp_path}")'
    config.data.update({"train": words, "eval": words, "transform": "CenterCrop(24)"})
    config.data.eval_oxford = f'ImageListRelevants("{gnd}", "{tmp_path}", "")'
    config.batch_size = 8
    assert create_setup(config).images.sizes.tolist() == [[40, 30]] * 8
    config.data.exif = True
    setup = create_setup(config)
    assert setup.recipe.exif
    assert setup.images.sizes.tolist() == [[30, 40]] * 8
    assert setup.dataset.open(0).size == setup.held_out.labelled.open(0).size == (30, 40)
    oxford = setup.held_out.sets["eval_oxford"]
    assert oxford.size(0) == (30, 40)
    assert oxford.queries.size(0) == oxford.queries.open(0).size == (30, 30)


def test_processes_have_equally_many_devices(monkeypatch):
    devices = [SimpleNamespace(process_index=process) for process in (0, 0, 1)]
    monkeypatch.setattr("jax.devices", lambda: devices)
    monkeypatch.setattr("jax.device_count", lambda: len(devices))
    with pytest.raises(UserError, match=r"different numbers of devices \(2, 1\)"):
        create_setup(default_config())
