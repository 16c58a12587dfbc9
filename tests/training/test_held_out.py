"""The evaluation of a run: the same numbers as the commands', and bad sets refused at once."""

import json
import pickle

import pytest

import dir_jax
from dir_jax.checkpoint import save_model
from dir_jax.describe.extractor import Extractor
from dir_jax.errors import UserError
from dir_jax.models.variables import split_variables
from dir_jax.training import held_out
from dir_jax.training.config import default_config
from dir_jax.training.setup import create_network, create_setup

CLASSIC = [{"ok": [0, 4], "junk": [5]}, {"ok": [1], "junk": [0, 2, 3]}]
REVISITED = [
    {"easy": [0], "hard": [4], "junk": [5]},
    {"easy": [1], "hard": [], "junk": [0, 2, 3]},
]


@pytest.fixture
def relevants(tiny_data, tmp_path):
    """`relevants(truth)`: an Oxford-style set of six images with two others as its queries."""

    def write(truth):
        content = {
            "imlist": [f"{c}{i}.jpg" for c in "de" for i in range(3)],
            "qimlist": ["a0.jpg", "b0.jpg"],
            "gnd": [{"bbx": [3.2, 2, 50, 44], **entry} for entry in truth],
        }
        (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
        return f'ImageListRelevants("{tmp_path}/gnd.pkl", "{tiny_data}", img_dir="")'

    return write


@pytest.fixture
def with_queries(tiny_data, tmp_path):
    """A labelled set with queries apart, in words."""
    (tmp_path / "queries.txt").write_text("d1.jpg d\ne2.jpg d\n")
    return f'ImageListLabelsQ("{tiny_data}/test.txt", "{tmp_path}/queries.txt", "{tiny_data}")'


def config_of(tiny_data, **data):
    config = default_config()
    config.batch_size = 8
    config.model.arch, config.model.out_dim = "resnet18_rmac", 8
    config.data.train = f'ImageListLabels("{tiny_data}/train.txt", "{tiny_data}")'
    config.data.transform = "RandomCrop(40)"
    config.eval.transform = "CenterCrop(40)"
    config.data.update(data)
    return config


@pytest.mark.parametrize("truth", [CLASSIC, REVISITED])
def test_the_numbers_are_those_of_the_evaluator(
    truth, relevants, with_queries, tiny_data, tmp_path, monkeypatch
):
    config = config_of(tiny_data, eval=with_queries, eval_oxford=relevants(truth))
    setup, network = create_setup(config), create_network(config)
    graphdef, params, stats = split_variables(network)
    extractor = Extractor(graphdef, width=8, mean=config.data.mean, std=config.data.std)
    described = setup.held_out.describe(extractor, params, stats)
    found = described.metrics()

    save_model(tmp_path / "model", network)
    model = dir_jax.load(tmp_path / "model")
    labelled = dir_jax.evaluate(with_queries, model, trfs="CenterCrop(40)")
    oxford = dir_jax.evaluate(config.data.eval_oxford, model, trfs="CenterCrop(40)")
    if truth is CLASSIC:
        oxford = {f"{name}-classic": value for name, value in oxford.items()}
        assert "mAP-classic" in oxford
    else:
        assert "mAP-medium" in oxford
    assert found == pytest.approx({**labelled, **oxford}, abs=1e-9)
    # A query of the wrong label keeps this from being what the images find among themselves.
    words = f'ImageListLabels("{tiny_data}/test.txt", "{tiny_data}")'
    assert dir_jax.evaluate(words, model, trfs="CenterCrop(40)")["mAP"] != labelled["mAP"]

    drawn = []
    monkeypatch.setattr(held_out, "save_ranked_results", lambda _, rows: drawn.extend(rows))
    described.save_ranked_picture(tmp_path / "ranked.png")
    assert [row.ap for row in drawn] == sorted(row.ap for row in drawn)
    for row in drawn:
        assert row.query.size == (47, 42)  # its box
        words = [verdict for _, verdict, _ in row.results]
        assert sorted(words) in (
            ["junk", "relevant", "relevant", "wrong", "wrong", "wrong"],
            ["junk", "junk", "junk", "relevant", "wrong", "wrong"],
        )


def test_classic_ground_truth_trains(run_train, relevants, tmp_path):
    done = run_train(
        tmp_path / "run",
        "--config.num_steps=1",
        "--config.whitening.name=",
        f"--config.data.eval_oxford={relevants(CLASSIC)}",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for when in ("before", "after"):
        assert {"mAP", "recall@1", "mAP-classic", "mP@1-classic"} <= summary[when].keys()
    assert (tmp_path / "run" / "ranked.png").exists()


@pytest.mark.parametrize(
    ("key", "words", "message"),
    [
        ("eval", 'ImageList("{folder}/list.txt")', "data.eval=.* has no labels"),
        ("eval", 'ImageListLabels("{folder}/alone.txt")', "data.eval: none of the 2 images"),
        (
            "eval",
            'ImageListLabelsQ("{folder}/alone.txt", "{folder}/others.txt")',
            "data.eval: none of the 1 queries has the label",
        ),
        ("eval_oxford", 'ImageListLabels("{folder}/alone.txt")', "is not Oxford-style"),
    ],
)
def test_refused_before_any_image_is_opened(key, words, message, tiny_data, tmp_path, monkeypatch):
    refuse_images(monkeypatch)
    (tmp_path / "list.txt").write_text("d0.jpg\n")
    (tmp_path / "alone.txt").write_text("d0.jpg d\ne0.jpg e\n")
    (tmp_path / "others.txt").write_text("a0.jpg a\n")
    config = config_of(tiny_data, **{key: words.format(folder=tmp_path)})
    with pytest.raises(UserError, match=message):
        create_setup(config)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([{"ok": [], "junk": [1]}] * 2, "no relevant image for any of its 2 queries"),
        ([CLASSIC[0], REVISITED[1]], "query 1 has no 'ok'"),
    ],
)
def test_ground_truth_is_refused_before_any_image_is_opened(
    truth, message, relevants, tiny_data, monkeypatch
):
    refuse_images(monkeypatch)
    config = config_of(tiny_data, eval_oxford=relevants(truth))
    with pytest.raises(UserError, match=f"config.data.eval_oxford: .*{message}"):
        create_setup(config)


def refuse_images(monkeypatch):
    def refuse(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("dir_jax.data.images.ImageDataset.size", refuse)
    monkeypatch.setattr("dir_jax.data.images.ImageDataset.open", refuse)


def test_a_transform_that_cannot_be_applied_is_refused_before_training(tiny_data):
    config = config_of(tiny_data)
    config.whitening.transform = "RandomCrop(100)"
    with pytest.raises(UserError, match=r"12 of 12 images cannot be used: .*RandomCrop"):
        create_setup(config)
