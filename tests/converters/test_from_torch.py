"""The three kinds of checkpoints become networks that compute the same."""

import collections
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.decomposition import PCA

from converters.conversion import convert
from converters.file_errors import CheckpointFileError
from converters.to_torch import to_published
from dir_jax.checkpoint import Preprocessing, read_model
from dir_jax.loading import load_model
from dir_jax.models import create_model
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.whitening import apply_whitening
from torch_reference.cirtorch import ImageRetrievalNet, whitened
from torch_reference.networks import create_network
from torch_reference.weights import load_state_dict, randomize

SIZES = ((64, 64), (33, 47))


def pictures(height, width, count=2):
    rng = np.random.default_rng([height, width])
    return rng.standard_normal((count, height, width, 3), np.float32)


def in_torch(network, images):
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def assert_same_function(network, model, tolerance=1e-5):
    for size in SIZES:
        images = pictures(*size)
        found, expected = np.asarray(model(images)), in_torch(network, images)
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert (np.sum(found.astype(float) * expected, axis=1) / lengths).min() > 1 - 1e-6
        assert abs(expected[0] @ expected[1]) < 0.999  # it does tell images apart


@pytest.fixture(scope="module")
def network():
    network = create_network("resnet18_rmac", out_dim=16)
    randomize(network)
    return network


@pytest.fixture(scope="module")
def pca():
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    return PCA(n_components=12, whiten=True).fit(x)


def published(network, pca, **options):
    """The dict that the original saves while training on several GPUs."""
    return {
        "state_dict": collections.OrderedDict(
            (f"module.{name}", value) for name, value in network.state_dict().items()
        ),
        "model_options": {"arch": "resnet18_rmac", "out_dim": 16, "pooling": "gem", **options},
        "preprocess": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "input_size": 224},
        "pca": {"Landmarks_clean": pca},
        "epoch": 3,
        "iter": 200,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]},
    }


@pytest.fixture(scope="module")
def dir_file(network, pca, tmp_path_factory):
    path = tmp_path_factory.mktemp("dir") / "Resnet18.pt"
    torch.save(published(network, pca), path, _use_new_zipfile_serialization=False)
    return path


def test_a_published_checkpoint(network, pca, dir_file):
    converted = convert(dir_file)
    assert converted.kind == "DIR"
    config = converted.model.config
    assert (config.arch, config.out_dim, config.pooling) == ("resnet18_rmac", 16, "gem")
    assert converted.preprocessing == Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert converted.counters == {"epoch": 3, "iter": 200}
    assert dict(converted.skipped).keys() == {
        "optimizer",
        "20 × num_batches_tracked",
    }
    assert converted.warnings == []
    assert_same_function(network, converted.model)
    table = converted.table()
    for part in ("resnet18_rmac", "Landmarks_clean", "16 -> 12", "11,184,721", "optimizer"):
        assert part in table
    # Its whitening is scikit-learn's own transform, normalised.
    x = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    expected = pca.transform(x)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = apply_whitening(x, converted.whitenings["Landmarks_clean"], power=0.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"pooling": "max"}, {}),
        ({"pooling": "avg", "norm_features": True}, {}),
        ({"pooling": "gem_4", "gemp": 4, "center_bias": 0.5}, {}),
        ({"without_fc": True, "dropout_p": 0.3}, {}),
        ({}, {"center_bias": 1.0, "norm_features": True}),
    ],
)
def test_options_of_the_file_and_of_the_caller(options, given, tmp_path):
    defaults = {"pooling": "gem", "out_dim": 8}
    network = create_network("resnet18_rmac", **{**defaults, **options, **given})
    randomize(network)
    state = dict(network.state_dict())
    if options.get("without_fc"):  # the original keeps one even where it does not use it
        state |= {"fc.weight": torch.ones(8, 512), "fc.bias": torch.ones(8)}
    tree = {"state_dict": state, "model_options": {"arch": "resnet18_rmac", **defaults, **options}}
    torch.save(tree, tmp_path / "x.pt")
    converted = convert(tmp_path / "x.pt", **given)
    for name, value in {**options, **given}.items():
        assert getattr(converted.model.config, name) == value
    assert_same_function(network, converted.model)


@pytest.mark.parametrize("arch", ["resnet50_rmac", "resnet101_rmac"])
def test_deeper_networks_are_recognised_by_their_blocks(arch, tmp_path):
    state = create_network(arch, out_dim=4).state_dict()
    torch.save(state, tmp_path / "x.pt")
    converted = convert(tmp_path / "x.pt")
    assert converted.model.config.arch == arch
    expected = create_model(arch, out_dim=4, seed=1)
    load_state_dict(expected, state)
    for old, new in zip(
        split_variables(expected)[1:], split_variables(converted.model)[1:], strict=True
    ):
        assert old.keys() == new.keys()
        for name in old:
            np.testing.assert_array_equal(old[name], new[name])


def test_weights_of_other_types_are_kept_as_float32(network, tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    converted = convert(tmp_path / "half.pt")
    assert any("float16" in warning for warning in converted.warnings)
    kernel = split_variables(converted.model)[1]["layer2.0.conv1.kernel"]
    assert kernel.dtype == np.float32
    expected = half["layer2.0.conv1.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    network = create_network("resnet18_rmac", pooling="avg", out_dim=1000)
    randomize(network)
    path = tmp_path_factory.mktemp("torchvision") / "resnet18-5c106cde.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_imagenet_weights(torchvision_file):
    network, path = torchvision_file
    converted = convert(path)
    assert converted.kind == "torchvision"
    assert converted.model.config.without_fc
    assert any("1000" in why for _, why in converted.skipped)
    network.fc = None
    assert_same_function(network, converted.model)
    gem = convert(path, pooling="gem", gemp=4)  # which has no weights in the file
    np.testing.assert_array_equal(split_variables(gem.model)[1]["adpool.p"], [4])


WRAPPED = {
    "DataParallel": ("state_dict", "module."),
    "compiled": ("model", "_orig_mod."),
    "twice": ("net", "module.module."),
    "both": ("model_state_dict", "module._orig_mod."),
    "a trainer's": ("state_dict", "model.backbone."),
    "bare": (None, "backbone."),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_networks(name, network, tmp_path):
    key, prefix = WRAPPED[name]
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    torch.save({key: state, "scheduler": {"gamma": 0.1}} if key else state, tmp_path / "x.pt")
    converted = convert(tmp_path / "x.pt")
    np.testing.assert_array_equal(
        converted.state_dict["conv1.weight"], network.state_dict()["conv1.weight"]
    )
    assert converted.model.config.out_dim == 16


def test_names_that_do_not_fit_are_compared(network, tmp_path):
    state = network.state_dict()
    torch.save({f"encoder.trunk.{name}": value for name, value in state.items()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointFileError) as error:
        convert(tmp_path / "x.pt")
    assert "all begin with encoder.trunk." in str(error.value)
    assert "nearest to conv1.weight is encoder.trunk.conv1.weight" in str(error.value)
    state["layer4.1.conv_2.weight"] = state.pop("layer4.1.conv2.weight")
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointFileError, match=r"is layer4\.1\.conv_2\.weight") as error:
        convert(tmp_path / "x.pt")
    assert "without-fc" not in str(error.value)


def test_safetensors(torchvision_file, network, tmp_path):
    path = torchvision_file[1]
    state = torch.load(path)
    safetensors.torch.save_file(state, tmp_path / "timm.safetensors", {"format": "pt"})
    expected, found = convert(path), convert(tmp_path / "timm.safetensors")
    assert (found.kind, found.model.config) == (expected.kind, expected.model.config)
    assert found.skipped == expected.skipped
    for name, array in expected.state_dict.items():
        np.testing.assert_array_equal(found.state_dict[name], array)
    metadata = {
        "model_options": json.dumps({"arch": "resnet18_rmac", "out_dim": 16, "center_bias": 0.5}),
        "preprocess": json.dumps({"mean": [0.4, 0.5, 0.6]}),
    }
    half = {name: value.clone().bfloat16() for name, value in network.state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "dir.safetensors", metadata)
    found = convert(tmp_path / "dir.safetensors")
    assert found.model.config.center_bias == 0.5
    assert found.preprocessing.mean == (0.4, 0.5, 0.6)
    np.testing.assert_array_equal(found.state_dict["fc.weight"], half["fc.weight"].float())


def test_bare_features_of_cirtorch(tmp_path):
    network = ImageRetrievalNet("resnet18", "gem", whiten=False).eval()
    randomize(network)
    torch.save(network.features.state_dict(), tmp_path / "imagenet-caffe-resnet18-features.pth")
    path = tmp_path / "imagenet-caffe-resnet18-features.pth"
    plain = convert(path)
    assert plain.kind == "cirtorch features"
    assert (plain.model.config.pooling, plain.model.config.without_fc) == ("avg", True)
    pooled = convert(path, pooling="gem", gemp=float(network.pool.p.detach()))
    assert_same_function(network, pooled.model)


@pytest.mark.parametrize("as_directory", [False, True])
def test_training_starts_from_imagenet_weights(
    as_directory, torchvision_file, tmp_path, monkeypatch
):
    from dir_jax.training.config import default_config
    from dir_jax.training.setup import create_network as create_initial

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    network, path = torchvision_file
    if as_directory:
        convert(path).save(tmp_path / "converted")
        path = tmp_path / "converted"
    config = default_config()
    config.model.update({"arch": "resnet18_rmac", "out_dim": 4, "gemp": 2.0, "init": str(path)})
    params = split_variables(create_initial(config))[1]
    expected = network.state_dict()["layer4.1.conv2.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["layer4.1.conv2.kernel"], expected)
    assert params["fc.kernel"].shape == (512, 4)
    assert params["adpool.p"] == 2.0  # the config's: those weights have none


@pytest.mark.parametrize(
    ("pooling", "whiten"), [("gem", True), ("gem", False), ("mac", True), ("spoc", False)]
)
def test_cirtorch_networks(pooling, whiten, tmp_path):
    network = ImageRetrievalNet("resnet18", pooling, whiten=whiten).eval()
    randomize(network)
    rng = np.random.default_rng(0)
    lw = {
        scale: {"m": rng.standard_normal((512, 1)), "P": rng.standard_normal((512, 512))}
        for scale in ("ss", "ms")
    }
    meta = {
        "architecture": "resnet18",
        "local_whitening": False,
        "pooling": pooling,
        "regional": False,
        "whitening": whiten,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "outputdim": 512,
        "Lw": {"retrieval-SfM-120k": lw},
    }
    torch.save({"meta": meta, "state_dict": network.state_dict()}, tmp_path / "x.pth")
    converted = convert(tmp_path / "x.pth")
    assert converted.kind == "cirtorch"
    assert converted.preprocessing.mean == (0.4, 0.5, 0.6)
    # Scales are pooled by the network's power, unless it has another pooling or a projection.
    if pooling == "gem" and not whiten:
        power = float(network.pool.p)
        assert (converted.recipe.pooling, converted.recipe.gemp) == ("cirtorch", power)
    else:
        assert converted.recipe.pooling == "mean"
    converted.save(tmp_path / "ours")
    assert read_model(tmp_path / "ours").recipe == converted.recipe
    # They divide by ‖x‖ + 1e-6, which is a relative difference of 1e-6 for a vector of length 1,
    # and more for the pooled one.
    assert_same_function(network, converted.model)
    assert sorted(converted.whitenings) == ["retrieval-SfM-120k-ms", "retrieval-SfM-120k-ss"]
    descriptors = in_torch(network, pictures(64, 64))
    expected = whitened(
        torch.from_numpy(descriptors).double(),
        *(torch.from_numpy(lw["ss"][name]) for name in ("m", "P")),
    )
    found = apply_whitening(descriptors, converted.whitenings["retrieval-SfM-120k-ss"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_whitening_as_a_dict(network, pca, tmp_path):
    rng = np.random.default_rng(0)
    means, w = rng.standard_normal(16), rng.standard_normal((16, 16))
    tree = published(network, pca) | {"pca": {"old": {"means": means, "W": w}}}
    torch.save(tree, tmp_path / "x.pt")
    whitening = convert(tmp_path / "x.pt").whitenings["old"]
    x = rng.standard_normal((5, 16))
    expected = (x - means) @ w
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for power in (0.25, 0.5):  # it has no variances to take a power of
        found = apply_whitening(x, whitening, power=power)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_layout_of_2019_where_scikit_learn_is_not(dir_file, network, pca, tmp_path):
    old = dir_file.read_bytes().replace(
        b"csklearn.decomposition._pca\nPCA\n", b"csklearn.decomposition.pca\nPCA\n"
    )
    old = old.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old.count(b"sklearn.decomposition.pca\n") == 1
    (tmp_path / "old.pt").write_bytes(old)
    code = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv[0] = "converters.from_torch"
import runpy
try:
    import sklearn
except ImportError:
    print("no scikit-learn")
runpy.run_module("converters.from_torch", run_name="__main__")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, "--checkpoint", tmp_path / "old.pt",
         "--output", tmp_path / "out"], capture_output=True, text=True
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no scikit-learn")
    assert "16 -> 12 dimensions" in result.stdout
    loaded = load_model(tmp_path / "out")
    whitening = loaded.whitenings["Landmarks_clean"]
    for name in ("mean_", "components_", "explained_variance_"):
        np.testing.assert_array_equal(getattr(whitening, name), getattr(pca, name))
    assert whitening.whiten is True
    assert_same_function(network, loaded.model)
    description = json.loads((tmp_path / "out" / "model" / "model.json").read_text())
    assert description["converted"] == {"file": "old.pt", "kind": "DIR", "epoch": 3, "iter": 200}


def test_a_file_is_taken_where_a_checkpoint_is(dir_file, network, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load_model(dir_file)
    assert_same_function(network, first.model)
    (kept,) = (tmp_path / "cache" / "dir_jax" / "converted").iterdir()
    copy = tmp_path / "other_name.pt"
    copy.write_bytes(dir_file.read_bytes())
    written = kept.stat().st_mtime_ns
    again = load_model(copy)  # the same content
    assert kept.stat().st_mtime_ns == written
    assert list(kept.parent.iterdir()) == [kept]
    for damage in (lambda: (kept / "model" / "model.json").write_text("{"),
                   lambda: shutil.rmtree(kept / "arrays")):  # fmt: skip
        damage()
        caplog.clear()
        assert_same_function(network, load_model(copy).model)
        assert f"converting {copy} again" in caplog.text
        assert list(kept.parent.iterdir()) == [kept]
    old, new = split_variables(first.model)[1], split_variables(again.model)[1]
    for name in old:
        np.testing.assert_array_equal(old[name], new[name])
    changed = to_published(first)
    changed["state_dict"]["fc.bias"] += 1
    torch.save(changed, copy)
    load_model(copy)
    assert len(list(kept.parent.iterdir())) == 2
