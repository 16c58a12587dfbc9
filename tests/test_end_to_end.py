"""From image files to mAP: our commands, and PyTorch one image at a time, with one checkpoint."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from dir_jax import extract_features, test_dir
from dir_jax.commands.running import run_parsed
from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.headers import check_dataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.training.config import default_config
from experiments import quickstart
from experiments.synthetic_landmarks.writing import write_synthetic_landmarks
from torch_reference.evaluation import (
    describe,
    expand,
    labelled_map,
    open_image,
    revisited_maps,
    scaled,
)
from torch_reference.networks import create_network
from torch_reference.retrieval import whiten
from torch_reference.training import train_steps
from torch_reference.weights import randomize

# The bounds. Entries are about 0.2; what float32 leaves is some 1e-6.
DESCRIPTOR, MAP = 2e-5, 1e-6
OPTIONS = {"arch": "resnet18_rmac", "out_dim": 32}


def save(network, path, **extra):
    """Writes a network as the published files are."""
    torch.save({"state_dict": network.state_dict(), "model_options": OPTIONS, **extra}, path)
    return path


@pytest.fixture(scope="module")
def random_network():
    network = create_network(**OPTIONS)
    randomize(network, seed=1)
    return network.eval()


@pytest.fixture(scope="module")
def trained_network(shared_data):
    """Some steps of PyTorch's from the random weights, on small crops of real photographs."""
    network = create_network(**OPTIONS)
    randomize(network, seed=1)
    root = shared_data / "caltech101"
    rows = [row.rsplit(maxsplit=1) for row in (root / "train.txt").read_text().splitlines()[::97]]
    images = [open_image(root / name).resize((64, 64)) for name, _ in rows[:24]]
    pixels = (np.array([np.asarray(image) for image in images], np.float32) / 255 - 0.45) / 0.225
    labels = np.arange(24) % 8
    config = default_config().optimizer
    losses, state = train_steps(
        network,
        pixels,
        labels,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=config.weight_decay,
        momentum=0.9,
        num_steps=8,
        num_bins=10,
    )
    assert losses[-1] < losses[0]
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command in this process, conversions kept in the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(command, *flags):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
        assert run_parsed(command._parser(), command._main) == 0

    return call


def test_real_photographs(run, trained_network, shared_data, tmp_path):
    root = shared_data / "caltech101"
    rows = (root / "test.txt").read_text().splitlines()[:1300:20]
    (tmp_path / "list.txt").write_text("\n".join(rows) + "\n")
    names, labels = zip(*(row.rsplit(maxsplit=1) for row in rows), strict=True)
    expected = describe(trained_network, [open_image(root / name) for name in names])
    dataset = f'ImageListLabels("{tmp_path}/list.txt", "{root}")'
    flags = ["--dataset", dataset, "--checkpoint", save(trained_network, tmp_path / "net.pt")]
    run(extract_features, *flags, "--output", tmp_path / "x.npy")
    found = np.load(tmp_path / "x.npy")
    assert found.shape == (len(names), 32)
    # They tell the images apart: were all alike, they would agree with anything.
    assert np.quantile(expected @ expected.T, 0.9) < 0.99
    difference = np.abs(found - expected).max()
    run(test_dir, *flags, "--whiten", "", "--out-json", tmp_path / "r.json")
    ours = json.loads((tmp_path / "r.json").read_text())[dataset]["mAP"]
    theirs = labelled_map(expected, labels)
    print(f"descriptors {difference:.1e}, mAP {ours:.6f} and {theirs:.6f}")
    assert difference <= DESCRIPTOR
    assert ours == pytest.approx(theirs, abs=MAP)


def test_landmarks_with_boxes_scales_whitening_and_expansion(run, random_network, tmp_path):
    folder = tmp_path / "landmarks"
    write_synthetic_landmarks(
        str(folder),
        train_landmarks=1,
        test_landmarks=6,
        views=2,
        test_views=8,
        image_size=96,
        workers=1,
    )
    with (folder / "gnd_synthetic.pkl").open("rb") as file:
        truth = pickle.load(file)
    pictures = folder / "images"
    database = [open_image(pictures / f"{name}.jpg") for name in truth["imlist"]]
    queries = [
        open_image(pictures / f"{name}.jpg", entry["bbx"])
        for name, entry in zip(truth["qimlist"], truth["gnd"], strict=True)
    ]
    scales = (lambda image: image, scaled(0.7071))
    x, q = (describe(random_network, images, scales) for images in (database, queries))

    noise = np.random.default_rng(0).standard_normal((200, 32)) * np.linspace(0.5, 2, 32)
    pca = PCA(n_components=24, whiten=True).fit(x.mean(axis=0) + 0.1 * noise)
    checkpoint = save(random_network, tmp_path / "net.pt", pca={"Landmarks_clean": pca})
    fields = (pca.mean_, pca.components_, pca.explained_variance_)
    x, q = (whiten(each, *fields, power=0.25, dims=20, m=1.0) for each in (x, q))
    unaugmented = x
    x = expand(x, x, 3, 1, exclude_self=True)
    q = expand(q, x, 4, 2)
    expected = revisited_maps(q, x, truth["gnd"])

    dataset = f'ImageListRelevants("{folder}/gnd_synthetic.pkl", "{folder}", "images")'
    flags = ["--dataset", dataset, "--checkpoint", checkpoint, "--trfs", "", "Scale(0.7071)"]
    whitening = ["--whiten", "Landmarks_clean", "--whitenp", 0.25, "--whitenv", 20]
    run(test_dir, *flags, *whitening, "--aqe", 4, 2, "--adba", 3, 1,
        "--out-json", tmp_path / "r.json")  # fmt: skip
    found = json.loads((tmp_path / "r.json").read_text())[dataset]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=MAP)
    assert 0.1 < expected["mAP-medium"] < 0.99  # neither hopeless nor trivial

    run(extract_features, *flags, *whitening, "--output", tmp_path / "x.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "x.dbdescs.npy"), unaugmented, rtol=0, atol=DESCRIPTOR
    )


def test_quickstart_names_what_is_drawn_for_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_synthetic_landmarks(
        "runs/synthetic-landmarks",
        train_landmarks=1,
        test_landmarks=2,
        views=2,
        test_views=4,
        image_size=32,
        workers=1,
    )
    data = quickstart.get_config().data
    train, test, oxford = map(create_dataset, (data.train, data.eval, data.eval_oxford))
    assert isinstance(train, LabelledDataset)
    assert isinstance(test, LabelledDataset)
    assert isinstance(oxford, RelevantsDataset)
    assert (len(train), len(train.classes)) == (2, 1)
    assert (len(test), len(test.classes)) == (8, 2)
    assert not set(train.classes) & set(test.classes)
    assert len(oxford.queries) == len(oxford.ground_truth) == 2
    assert set(oxford.ground_truth[0]) == {"easy", "hard", "junk"}
    assert oxford.queries.boxes is not None
    for dataset in (train, test, oxford, oxford.queries):
        check_dataset(dataset)
