"""Every mistake is one line, exit code 2, and nothing written."""

import collections
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from converters import conversion, from_torch
from dir_jax.checkpoint import save_model
from dir_jax.errors import UserError
from dir_jax.loading import load_model
from dir_jax.models import create_model
from torch_reference.networks import create_network


@pytest.fixture(scope="module")
def state():
    return create_network("resnet18_rmac", out_dim=8).state_dict()


def tree(state, **changes):
    """A checkpoint; a change of None leaves a tensor out."""
    changed = collections.OrderedDict(state) | changes
    return {
        "state_dict": {k: v for k, v in changed.items() if v is not None},
        "model_options": {"arch": "resnet18_rmac", "out_dim": 8, "pooling": "gem"},
    }


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def command(content, *flags):
        """Runs the command on a file (a tree for torch.save, or bytes)."""
        path = tmp_path / "in" / "file.pt"
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        out = tmp_path / "out" / "model"
        out.parent.mkdir(exist_ok=True)
        argv = ["from_torch", "--checkpoint", str(path), "--output", str(out), *flags]
        monkeypatch.setattr(sys, "argv", argv)
        code = from_torch.main()
        return code, capsys.readouterr(), out

    return command


def test_bad_files(run, state):
    arch = {"arch": "resnet18_rmac", "pooling": "gem"}
    good, five = tree(state), {f"extra{i}.weight": torch.ones(1) for i in range(7)}
    wrong = {"layer1.0.conv1.weight": torch.ones(64, 64, 5, 5), "bn1.bias": torch.ones(65)}
    for content, expected in [
        (b"hello", "not a file that torch.save writes"),
        ([1, 2], "holds a list"),
        ({"epoch": 3, "weights": 1}, "no state_dict; its keys are epoch, weights"),
        ({}, "no state_dict"),
        ({"state_dict": {}}, "empty"),
        ({"state_dict": {"a": 1}}, "a in its state_dict is a int"),
        (good | {"state_dict": [1]}, "not a dict of tensors"),
        (tree(state, **{"bn1.bias": None, "layer4.1.conv2.weight": None}),
         "lacks 2 tensors (bn1.bias, layer4.1.conv2.weight)"),
        (tree(state, **five), "has surplus 7 tensors (extra0.weight, "),
        (tree(state, **five), "extra4.weight, …)"),
        (tree(state, **{"adpool.p": None}), "adpool.p); give --gemp"),
        (tree(state, **wrong), "expected (64,) (and 1 more)"),
        (tree(state, **{"fc.bias": torch.ones(8, dtype=torch.int64)}), "fc.bias is of type int64"),
        (tree(state, **{"fc.weight": None}), "lacks fc.weight"),
        (good | {"model_options": arch | {"out_dim": 9}}, "fc.weight has shape (8, 512)"),
        (good | {"model_options": arch | {"out_dim": 1 << 40}}, "out_dim is 1099511627776; exp"),
        (good | {"model_options": arch | {"out_dim": "8"}}, "out_dim is '8'; expected a whole"),
        (good | {"model_options": arch | {"arch": "resnet34_rmac"}}, "resnet34_rmac"),
        (good | {"model_options": arch | {"arch": "se_resnet50_rmac"}}, "se_resnet50_rmac"),
        (good | {"model_options": arch | {"pooling": "rmac"}}, "pooling is 'rmac'"),
        (good | {"model_options": arch | {"regional": True}}, "have regional"),
        (good | {"model_options": [1]}, "model_options are a list"),
        (good | {"preprocess": {"mean": [1, 2]}}, "its preprocess: mean is [1, 2]; exp"),
        (good | {"preprocess": {"std": [1, 2, 0]}}, "std is [1, 2, 0]; expected three"),
        (good | {"preprocess": {"mean": [10**400] * 3}}, "its preprocess: mean is [1000"),
        (good | {"preprocess": np.ones(3)}, "preprocess is a ndarray"),
        (good | {"model_options": arch | {"extra": np.ones(3)}}, "model_options have extra"),
        (good | {"model_options": arch | {"gemp": np.nan}}, "its model_options: gemp is nan; exp"),
        (good | {"dir_jax": {"dtype": 3}}, "its dir_jax: dtype is 3; expected 'float32'"),
        (good | {"pca": np.ones(3)}, "pca is a ndarray"),
        (good | {"pca": {"a": PCA()}}, "whitening a has no mean_ and no components_ and no expl"),
        (good | {"pca": {"a": {"means": np.ones(2), "W": np.ones((2, 0))}}}, "K of at least 1"),
        (good | {"pca": [1]}, "pca is a list"),
        (good | {"pca": {"a": 1}}, "the whitening a is a int"),
        (good | {"pca": {"a/../b": {"means": np.ones(2), "W": np.ones((2, 2))}}}, "a/../b"),
        (good | {"pca": {"a": {"means": np.ones(3), "W": np.ones((2, 2))}}}, "do not fit"),
        (good | {"pca": {"a": {"means": np.arange(2), "W": np.ones((2, 2))}}}, "floating point"),
        ({"state_dict": {"features.0.weight": torch.ones(1)}, "meta": {"architecture": "vgg16"}},
         "cirtorch network on vgg16"),
        ({"state_dict": {"features.0.weight": torch.ones(1)}, "meta": {"regional": True}},
         "regional"),
        ({"state_dict": {"features.0.weight": torch.ones(1)}, "meta": {"regional": np.ones(2)}},
         "regional"),
        ({"state_dict": {"features.0.weight": torch.ones(1)},
          "meta": {"architecture": np.ones(2)}}, "cirtorch network on a ndarray"),
        ({"state_dict": {"features.0.weight": torch.ones(1)}, "meta": {"pooling": "rmac"}},
         "with rmac pooling"),
        ({"state_dict": {"conv1.weight": torch.ones(1), "fc.weight": torch.ones(8, 2)}}, "--arch"),
    ]:  # fmt: skip
        code, printed, out = run(content)
        assert code == 2, expected
        assert expected in printed.err
        assert len(printed.err.splitlines()) == 1
        assert printed.err.startswith("error: ")
        assert "file.pt" in printed.err
        assert list(out.parent.iterdir()) == []


def test_bad_flags(run, state):
    for flags, expected in {
        ("--pooling", "max"): "the file says pooling='gem', but you said 'max'",
        ("--arch", "resnet50_rmac"): "but you said 'resnet50_rmac'",
        ("--out-dim", "x"): "--out-dim: invalid int value: 'x'",
        ("--colour", "red"): "there is no flag --colour",
        ("--center-bias", "inf"): "center_bias",
        ("--dropout-p", "2"): "dropout_p",
    }.items():
        code, printed, out = run(tree(state), *flags)
        assert code == 2
        assert expected in printed.err
        assert len(printed.err.splitlines()) == 1
        assert list(out.parent.iterdir()) == []
    imagenet = {**state, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}
    del imagenet["adpool.p"]
    assert "classifier of ImageNet" in run(imagenet, "--out-dim", "8")[1].err


def test_values_that_are_not_finite_are_named(run, state):
    bad = state["layer2.0.bn1.weight"].clone()
    bad[3] = float("nan")
    code, printed, out = run(tree(state, **{"layer2.0.bn1.weight": bad}))
    assert code == 2
    assert "file.pt cannot be used: layer2.0.bn1.weight has values that are not fin" in printed.err
    assert list(out.parent.iterdir()) == []
    # A model can be used without its whitening.
    w = {"means": np.full(8, np.inf), "W": np.ones((8, 8))}
    code, printed, out = run(tree(state) | {"pca": {"a": w}})
    assert code == 0
    assert "warning: mean_ of the whitening a has values that are not finite" in printed.err
    with pytest.raises(UserError, match="mean_ of the whitening 'a' has values that are not fin"):
        load_model(out).whitening("a")


def test_an_existing_directory_is_replaced_only_when_asked(run, state):
    code, _, out = run(tree(state))
    assert code == 0
    before = (out / "model" / "model.json").read_bytes()
    code, printed, _ = run(tree(state), "--center-bias", "0.5")
    assert code == 2
    assert "--overwrite" in printed.err
    assert (out / "model" / "model.json").read_bytes() == before
    assert run(tree(state), "--center-bias", "0.5", "--overwrite")[0] == 0
    assert load_model(out).model.config.center_bias == 0.5
    # A file that fails leaves the old one there, too.
    assert run(b"hello", "--overwrite")[0] == 2
    assert load_model(out).model.config.center_bias == 0.5


def test_verify_compares_with_torch(run, state, monkeypatch):
    code, printed, _ = run(tree(state), "--verify")
    assert code == 0
    assert printed.out.count("largest difference to PyTorch") == 3
    from converters import verification

    monkeypatch.setattr(verification, "_SIZES", ((33, 47),))
    monkeypatch.setattr(verification, "_TOLERANCE", 1e-12)
    code, printed, out = run(tree(state), "--verify", "--overwrite", "--center-bias", "1")
    assert code == 2
    assert "differs from PyTorch's" in printed.err
    assert load_model(out).model.config.center_bias == 0  # it was not replaced


def test_without_a_cache_that_can_be_written_a_file_is_used_all_the_same(
    state, tmp_path, monkeypatch, caplog
):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save(tree(state), tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").model.config.out_dim == 8
    assert "cache" in caplog.records[0].message


def test_convert_names_options_that_do_not_exist(state, tmp_path):
    torch.save(tree(state), tmp_path / "x.pt")
    with pytest.raises(UserError, match="colour"):
        conversion.convert(tmp_path / "x.pt", colour="red")


@pytest.mark.parametrize("name", ["from_torch", "to_torch"])
def test_help_is_quick(name):
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", f"converters.{name}", "--help"], capture_output=True, text=True
    )
    took = time.perf_counter() - started
    assert result.returncode == 0
    assert "--checkpoint" in result.stdout
    assert took < 1, "imports jax or torch where only the flags are read"


def test_a_directory_of_ours_is_not_converted_again(tmp_path):
    save_model(tmp_path / "ours", create_model("resnet18_rmac", out_dim=4))
    with pytest.raises(UserError, match="is a folder"):
        conversion.convert(tmp_path / "ours")
