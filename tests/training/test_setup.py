"""What a run starts from."""

import numpy as np
import pytest

from dir_jax.checkpoint import save_model
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.models.variables import split_variables
from dir_jax.training.config import default_config
from dir_jax.training.setup import create_network


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
