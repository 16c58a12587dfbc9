"""What we export is what the original toolbox loads, and converts back to the same bits."""

import pickle
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from converters import to_torch
from converters.conversion import Conversion, convert
from converters.to_torch import export
from dir_jax.checkpoint import Preprocessing, save_model
from dir_jax.loading import load_model
from dir_jax.models import create_model
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.retrieval.whitening import Whitening, apply_whitening, learn_whitening
from torch_reference.networks import create_network

OPTIONS = (
    {"arch": "resnet18_rmac", "out_dim": 8, "gemp": 2.5, "dropout_p": 0.25, "dtype": "bfloat16"},
    {"arch": "resnet18_rmac", "pooling": "max", "norm_features": True, "center_bias": 0.5},
    {"arch": "resnet50_rmac", "pooling": "avg", "without_fc": True, "precision": "high"},
)


def whitenings():
    rng = np.random.default_rng(0)
    learned = learn_whitening(rng.standard_normal((40, 8)))  # float64
    plain = Whitening(
        rng.standard_normal(8).astype(np.float32),
        rng.standard_normal((3, 8)).astype(np.float32),
        np.ones(3, np.float32),
        False,
    )
    return {"Landmarks_clean": learned, "projection": plain}


def randomized(**options):
    """A network all of whose variables differ from what they begin as."""
    graphdef, params, stats = split_variables(create_model(**options, seed=3))
    rng = np.random.default_rng(7)
    params, stats = (
        {k: np.abs(rng.standard_normal(v.shape, np.float32)) + 0.1 for k, v in variables.items()}
        for variables in (params, stats)
    )
    return merge_variables(graphdef, params, stats)


def assert_same_checkpoint(first, second):
    assert first.model.config == second.model.config
    assert first.preprocessing == second.preprocessing
    for old, new in zip(
        split_variables(first.model)[1:], split_variables(second.model)[1:], strict=True
    ):
        assert old.keys() == new.keys()
        for name in old:
            a, b = np.asarray(old[name]), np.asarray(new[name])
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), name
    assert first.whitenings.keys() == second.whitenings.keys()
    for name, whitening in first.whitenings.items():
        for field, array in whitening.to_arrays().items():
            other = second.whitenings[name].to_arrays()[field]
            assert array.dtype == other.dtype
            np.testing.assert_array_equal(array, other)


@pytest.fixture(scope="module", params=OPTIONS, ids=lambda o: f"{o['arch']}-{o.get('pooling')}")
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    save_model(
        folder / "model",
        randomized(**request.param),
        preprocessing=Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        whitenings=whitenings(),
    )
    export(folder / "model", folder / "model.pt")
    return folder, request.param


def test_there_and_back_is_the_same_to_the_bit(exported):
    folder, _ = exported
    original = load_model(folder / "model")
    assert_same_checkpoint(original, convert(folder / "model.pt"))
    convert(folder / "model.pt").save(folder / "again", overwrite=True)
    assert_same_checkpoint(original, load_model(folder / "again"))


def test_the_original_loads_it(exported):
    folder, options = exported
    tree = torch.load(folder / "model.pt", map_location="cpu", weights_only=False)
    assert tree["model_options"].keys() == {
        "arch", "out_dim", "norm_features", "pooling", "gemp", "center_bias", "dropout_p",
        "without_fc",
    }  # fmt: skip
    assert tree["preprocess"] == {
        "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": 224
    }  # fmt: skip
    # It makes the projection whether or not it uses it, and loads strictly.
    network = create_network(**{**tree["model_options"], "without_fc": False})
    network.load_state_dict(tree["state_dict"])
    assert all(type(value) is torch.Tensor for value in tree["state_dict"].values())
    pca = tree["pca"]["Landmarks_clean"]
    assert isinstance(pca, PCA)
    x = np.random.default_rng(1).standard_normal((4, 8))
    expected = pca.transform(x)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = apply_whitening(x, whitenings()["Landmarks_clean"], power=0.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if not options.get("without_fc") and options.get("dtype") != "bfloat16":
        images = np.random.default_rng(2).standard_normal((1, 40, 50, 3), np.float32)
        with torch.no_grad():
            described = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        ours = load_model(folder / "model").model(images)
        np.testing.assert_allclose(ours, described, atol=1e-5)


@pytest.mark.parametrize("exported", OPTIONS[:1], indirect=True)
@pytest.mark.parametrize("is_installed", [True, False])
def test_without_scikit_learn_a_whitening_is_a_dict(is_installed, exported, tmp_path, monkeypatch):
    """By --no-sklearn, or where it is missing; torch.load then reads the file by default."""
    folder, _ = exported
    if not is_installed:
        monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    argv = ["to_torch", "--checkpoint", str(folder / "model"), "--output", str(tmp_path / "x.pt")]
    monkeypatch.setattr(sys, "argv", argv + ["--no-sklearn"] * is_installed)
    assert to_torch.main() == 0
    tree = torch.load(tmp_path / "x.pt")
    whitening, original = tree["pca"]["Landmarks_clean"], whitenings()["Landmarks_clean"]
    x = np.random.default_rng(1).standard_normal((4, 8))
    expected = (x - whitening["means"].numpy()) @ whitening["W"].numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(apply_whitening(x, original, power=0.5), expected, atol=1e-6)
    assert_same_checkpoint(load_model(folder / "model"), convert(tmp_path / "x.pt"))


@pytest.mark.parametrize("exported", OPTIONS[:1], indirect=True)
def test_with_scikit_learn_torch_has_to_be_told(exported):
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(exported[0] / "model.pt")


@pytest.mark.parametrize("exported", OPTIONS[:1], indirect=True)
def test_the_command(exported, tmp_path, monkeypatch, capsys):
    folder, _ = exported

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["to_torch", *map(str, args)])
        code = to_torch.main()
        return code, capsys.readouterr()

    out = tmp_path / "x.pt"
    assert run("--checkpoint", folder / "model", "--output", out)[0] == 0
    assert out.read_bytes()[:2] == b"\x80\x02"  # the layout that every torch reads
    assert isinstance(convert(out), Conversion)
    for args, expected in {
        ("--checkpoint", folder / "model", "--output", out): "exists",
        ("--checkpoint", folder / "none", "--output", tmp_path / "y.pt"): "no checkpoint",
        ("--checkpoint", folder / "model", "--output", tmp_path / "n" / "y.pt"): "no folder",
        ("--checkpoint", folder / "model"): "--output",
    }.items():
        code, printed = run(*args)
        assert code == 2
        assert expected in printed.err
        assert len(printed.err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]
