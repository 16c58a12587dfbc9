"""`dir-jax publish`, and what it wrote read back: from a folder, and from a hub of this machine."""

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import safetensors.torch
import yaml

import dir_jax
from dir_jax.checkpoint import save_model
from dir_jax.commands import main as commands
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe
from dir_jax.models import create_model
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.variables import split_variables
from dir_jax.published.hub import send_to_hub
from dir_jax.retrieval.whitening import learn_whitening
from torch_reference.networks import create_network

hub = pytest.importorskip("huggingface_hub")
RECIPE = Recipe(("Scale(64)", "Scale(48)"), whiten="train", whitenp=0.5)
CONFIG = {
    "num_steps": 7, "batch_size": 64, "loss": {"name": "ap"}, "model": {"init": "/home/me/r.pth"},
    "data": {"train": 'ImageListLabels("/home/me/train.txt", "/home/me/photos")', "eval": ""},
    "optimizer": {"learning_rate": 0.001},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a training run leaves, as far as it matters here."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((40, 8)))
    save_model(
        folder / "model",
        create_model("resnet18_rmac", out_dim=8, center_bias=0.5, dtype="bfloat16", seed=1),
        preprocessing=Preprocessing((0.4, 0.5, 0.6), (0.2, 0.2, 0.25)),
        whitenings={"train": whitening},
        recipe=RECIPE,
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    summary = {"before": {"mAP": 0.25}, "after": {"mAP": 0.5, "top1": 0.75}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "ours"
    assert publish(run, "--to", folder, "--license", "cc-by-4.0") == 0
    return folder


def publish(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dir-jax", "publish", *map(str, arguments)])
        return commands.main()


def assert_same_model(found, expected):
    assert found.recipe == expected.recipe
    found, expected = found.checkpoint, expected.checkpoint
    assert found.model.config == expected.model.config
    assert found.preprocessing == expected.preprocessing
    for ours, theirs in zip(split_variables(found.model), split_variables(expected.model)):  # noqa: B905
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
    assert found.whitenings.keys() == expected.whitenings.keys()
    for name, whitening in found.whitenings.items():
        for field, array in whitening.to_arrays().items():
            np.testing.assert_array_equal(array, expected.whitenings[name].to_arrays()[field])


def test_folder_is_the_same_model(published, run):
    assert_same_model(dir_jax.load(published), dir_jax.load(run))
    assert dir_jax.load(published, dtype="float32").checkpoint.model.config.dtype == "float32"


def test_weights_have_the_names_of_torch(published):
    network = create_network("resnet18_rmac", out_dim=8)
    found = safetensors.torch.load_file(published / "model.safetensors")
    network.load_state_dict(found, strict=True)
    ours = split_variables(dir_jax.load(published).checkpoint.model)[1]["layer1.0.conv1.kernel"]
    theirs = network.state_dict()["layer1.0.conv1.weight"].numpy()
    np.testing.assert_array_equal(theirs.transpose(2, 3, 1, 0), ours)


def test_model_card(published):
    header, text = (published / "README.md").read_text().split("---\n")[1:3]
    header = yaml.safe_load(header)
    assert (header["license"], header["library_name"]) == ("cc-by-4.0", "dir_jax")
    assert "# ours" in text
    assert "2 scales (Scale(64) | Scale(48)) pooled by gem 3; whitening 'train', power 0.5" in text
    assert 'training data: `ImageListLabels("train.txt", "photos")`' in text
    for part in ("loss: `ap`", "steps: `7`", "learning rate: `0.001`", "start: `r.pth`"):
        assert part in text
    assert "| mAP | 0.2500 | 0.5000 |\n| top1 |  | 0.7500 |" in text
    assert "/home/me" not in text
    assert sorted(file.name for file in published.iterdir()) == [
        "README.md", "model.json", "model.safetensors", "whitening.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "{folder}"], "exists; choose another folder, or add --overwrite"),
        (
            ["--to", "hf://one/two/three"],
            "'hf://one/two/three' is not a model on the hub",
        ),
        (["--to", "x", "--license", "a: b"], "--license a: b is not a name such as"),
        (["--to", "{folder}/README.md/x", "--overwrite"], "cannot write"),
        (["--to", "{folder}/..", "--overwrite"], "is not a published model"),
        ([], "the following arguments are required: --to"),
    ],
)
def test_refusals(published, run, arguments, message, capsys):
    before = (published / "model.json").read_bytes()
    assert publish(run, *(a.format(folder=published) for a in arguments)) == 2
    assert message in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert (published / "model.json").read_bytes() == before


def copied(published, folder, name, content):
    folder.mkdir()
    for file in published.iterdir():
        (folder / file.name).write_bytes(content if file.name == name else file.read_bytes())
    return folder


def test_damaged_folders(published, tmp_path):
    weights = bytearray((published / "model.safetensors").read_bytes())
    weights[-40] ^= 1
    with pytest.raises(UserError, match=r"is damaged: 1 of its arrays are not what was written"):
        dir_jax.load(copied(published, tmp_path / "a", "model.safetensors", bytes(weights)))
    folder = copied(published, tmp_path / "b", "whitening.safetensors", b"short")
    with pytest.raises(UserError, match=r"whitening\.safetensors"):
        dir_jax.load(folder)
    (folder / "whitening.safetensors").unlink()
    with pytest.raises(UserError, match=r"whitening\.safetensors does not exist"):
        dir_jax.load(folder)


class Hub:
    """As much of the Hugging Face hub as reading a model takes."""

    sha = "1" * 40

    def __init__(self, folder, name):
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.requests, there = [], self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                there.answer(self, name, body=False)

            def do_GET(self):
                there.answer(self, name, body=True)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, handler, name, *, body):
        self.requests.append(path := handler.path.partition("?")[0])
        status, content, headers = 404, b'{"error": "Repository not found"}', {}
        if not path.startswith((f"/api/models/{name}", f"/{name}/")):
            headers = {"X-Error-Code": "RepoNotFound"}
        elif "/resolve/" in path and (file := path.rpartition("/")[2]) in self.files:
            status, content = 200, self.files[file]
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": self.sha,
            }
        elif "/tree/" in path:
            rows = [{"type": "file", "path": file, "size": len(c), "oid": "0" * 40}
                    for file, c in self.files.items()]  # fmt: skip
            status, content = 200, json.dumps(rows).encode()
        elif path.startswith("/api/"):
            rows = [{"rfilename": file} for file in self.files]
            status = 200
            content = json.dumps({"id": name, "sha": self.sha, "siblings": rows}).encode()
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": len(content)}.items():
            handler.send_header(key, str(value))
        handler.end_headers()
        if body:
            handler.wfile.write(content)


@pytest.fixture
def endpoint(published, tmp_path, monkeypatch):
    there = Hub(published, "me/ours")
    monkeypatch.setenv("no_proxy", "*")
    # What $HF_ENDPOINT and $HF_HUB_CACHE were when huggingface_hub was imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", there.address)
    template = f"{there.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module in list(sys.modules.values()):
        if module.__name__.startswith("huggingface_hub") and hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield there
    there.http.shutdown()


def test_hub_gives_the_same_model(endpoint, run):
    assert_same_model(dir_jax.load("hf://me/ours"), dir_jax.load(run))
    fetched = [path for path in endpoint.requests if "/resolve/" in path]
    assert {path.rpartition("/")[2] for path in fetched} == {
        "model.json", "model.safetensors", "whitening.safetensors"
    }  # fmt: skip


def test_hub_without_the_model(endpoint):
    with pytest.raises(UserError) as e:
        dir_jax.load("hf://me/others")
    assert re.match("hf://me/others cannot be used: ", str(e.value))
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 500


def test_hub_gets_the_folder(run, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(hub, "create_repo", lambda *a, **k: calls.append((a, k)))

    def upload(**options):
        calls.append(sorted(f.name for f in options["folder_path"].iterdir()))
        return type("Commit", (), {"commit_url": f"https://hub/{options['repo_id']}"})

    monkeypatch.setattr(hub, "upload_folder", upload)
    assert publish(run, "--to", "hf://me/ours") == 0
    assert calls[0] == (("me/ours",), {"exist_ok": True})
    assert calls[1] == ["README.md", "model.json", "model.safetensors", "whitening.safetensors"]
    assert capsys.readouterr().out == "wrote https://hub/me/ours\n"


def test_hub_refuses(tmp_path, monkeypatch):
    class RefusedError(Exception):
        response = type("Response", (), {"status_code": 401})

    def refuse(*arguments, **options):
        raise RefusedError("401 Client Error.\n\nInvalid username or password.")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(UserError) as e:
        send_to_hub(tmp_path, "hf://me/ours")
    assert str(e.value) == (
        "hf://me/ours cannot be used: 401 Client Error. Invalid username or password.; log in with "
        "`hf auth login`"
    )
