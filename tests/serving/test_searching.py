"""What is served by few programs is what the index finds, with the network that made it."""

import numpy as np
import pytest
from PIL import Image

import dir_jax
from dir_jax.checkpoint import save_model
from dir_jax.describe.padded_shapes import Shape
from dir_jax.models import create_model
from dir_jax.search.building import NewImages, create_index, images_of, marks_of
from dir_jax.search.index import describe_model_of
from dir_jax.serving import searching
from dir_jax.serving.searching import Query, Searcher


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(3)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / name)
    save_model(folder / "model", create_model("resnet18_rmac", out_dim=16, seed=0))
    describer = dir_jax.load(folder / "model")._describer(None, None, "stop", None, 0, {})
    images = images_of(dir_jax.data.images.ImageDataset(names, str(folder)), str(folder))
    described = describer.describe([("index", images)]).lists[0]
    model = describe_model_of(describer, folder / "model", {})
    create_index(folder / "my.index", NewImages.of(described, marks_of(images)), root=str(folder),
                 model=model, recipe=describer.recipe)  # fmt: skip
    return dir_jax.open_index(folder / "my.index")


def test_pictures_find_what_the_index_finds(index, monkeypatch):
    searcher = Searcher(index)
    pictures = [np.asarray(Image.open(index.image_path(i))) for i in range(3)]
    pictures.append(pictures[0][:30, :44])  # which the same canvas holds
    shapes = []
    describe = type(index.describer()).describe

    def spy(self, datasets, **options):
        shapes.append(options["shapes"])
        return describe(self, datasets, **options)

    monkeypatch.setattr(type(index.describer()), "describe", spy)
    answers = searcher([Query(picture, 3) for picture in pictures])
    answers += searcher([Query(index.descriptors[1], 2)])
    assert [answer.rows[0] for answer in answers] == [0, 1, 2, 0, 1]
    assert [len(answer.rows) for answer in answers] == [3, 3, 3, 3, 2]
    for i in range(3):
        np.testing.assert_allclose(answers[i].descriptor, index.descriptors[i], atol=1e-5)
        expected = np.sort(index.descriptors @ index.descriptors[i])[::-1]
        np.testing.assert_allclose(answers[i].scores, expected, atol=1e-5)
    # One program for all of them, the one that was chosen when it started; a square is there, too.
    assert shapes == [[Shape(48, 40, 4, False), Shape(48, 48, 4, False)]]
    assert searcher._canvas((48, 48)) == (48, 48)
    assert searcher._canvas((49, 40)) == (64, 64)
    assert searcher._canvas((300, 1000)) == (368, 1024)


def test_canvases_are_of_a_sample_of_a_large_index(index, monkeypatch):
    monkeypatch.setattr(searching, "_SAMPLE", 2)  # of the three images
    assert Searcher(index)._originals == [[48, 40], [48, 40], [48, 48]]
