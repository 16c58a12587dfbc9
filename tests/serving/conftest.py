"""An index of small photographs, and what serves it; no network describes them."""

import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from PIL import Image

import dir_jax
from dir_jax.data.images import ImageDataset
from dir_jax.describe.padded_shapes import Room
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe
from dir_jax.search.building import NewImages, create_index, marks_of
from dir_jax.serving.app import create_app
from dir_jax.serving.searching import Searcher
from dir_jax.serving.service import Limits, Service

COUNT = 90
MODEL = {"path": "no/model", "arch": "resnet18_rmac", "digest": "0" * 64, "options": {}}


class StandIn:
    """In the place of a describer, which would compile for many seconds: coarse colours."""

    room = Room(1 << 20)

    def stay_on_devices(self):
        pass

    def output_sizes(self, sizes):
        return np.asarray(sizes)[None]

    def describe(self, datasets, shapes=None):
        images, rows = datasets[0][1], []
        for i in range(len(images)):
            width, height = images.size(i)
            if width > 1000:
                raise UserError(f"the image has {width} x {height} pixels")
            small = images.open(i).resize((4, 3), Image.Resampling.BOX)
            rows.append((np.asarray(small, np.float32) - 128).ravel())
        x = np.stack(rows)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return SimpleNamespace(lists=[SimpleNamespace(array=lambda: x)])


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder of photographs, and their index; of two of its images the index gives no copy."""
    folder = tmp_path_factory.mktemp("world")
    root = folder / "photos"
    (root / "a b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"a b/{i}.png" for i in range(COUNT)] + ["gone.png", str(folder / "outside.png")]
    for i, name in enumerate(names):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((64, 48) if i % 2 else (48, 64)).save(root / name)
    images = ImageDataset(names, str(root))
    x = StandIn().describe([("", images)]).lists[0].array()
    new = NewImages(names, marks_of(images), lambda: [x])
    create_index(folder / "my.index", new, root=str(root), model=MODEL, recipe=Recipe())
    (root / "gone.png").unlink()
    return folder


@pytest.fixture(scope="session")
def searcher(world):
    index = dir_jax.open_index(world / "my.index")
    index._describer = StandIn()
    return Searcher(index)


@pytest.fixture(scope="session")
def service(searcher):
    service = Service(searcher, Limits(size=100_000, pixels=90_000))
    yield service
    service.close()


@pytest.fixture(scope="session")
def address(service):
    """Where a server listens, as `http://127.0.0.1:PORT/`."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(service, host="127.0.0.1"), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    listening.close()
