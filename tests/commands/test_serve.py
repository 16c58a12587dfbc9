"""`dir-jax serve` from the command line: what it says, what it refuses, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
# The command as it is typed, without compiling for half a minute before it serves.
_PROGRAM = """
import sys, time
from dir_jax.serve import main
from dir_jax.serving.searching import Searcher
search = Searcher.__call__
def slowly(self, queries):
    if queries[0].k == 2:
        print("searching", flush=True)
        time.sleep(2)
    return search(self, queries)
if __name__ == "__main__":
    Searcher.warm_up, Searcher.__call__ = lambda self: None, slowly
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory, model, photos):
    """The index of two photographs, whose descriptors are made up."""
    import dir_jax
    from dir_jax.data.images import ImageDataset
    from dir_jax.search.building import NewImages, create_index, marks_of
    from dir_jax.search.index import describe_model_of

    folder = tmp_path_factory.mktemp("serve")
    (folder / "photos").mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(photos / "0.png", folder / "photos" / name)
    describer = dir_jax.load(model)._describer(None, None, "stop", None, 0, {})
    names = ["0.png", "1.png"]
    marks = marks_of(ImageDataset(names, str(folder / "photos")))
    new = NewImages(names, marks, lambda: [np.eye(2, 8, dtype=np.float32)])
    create_index(folder / "my.index", new, root=str(folder / "photos"), recipe=describer.recipe,
                 model=describe_model_of(describer, model, {}))  # fmt: skip
    return folder / "my.index"


def test_serves_on_a_free_port_until_ctrl_c(index, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(program), str(index), "--port", "0"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("2 images, ")
        address = re.fullmatch(
            r"serving on (http://127.0.0.1:[1-9]\d*) \(Ctrl-C ends it\)\n",
            process.stdout.readline(),
        )[1]
        for path in ("/api/search?image=1.png&top=1", "/"):
            with urllib.request.urlopen(address + path, timeout=60) as answer:
                content = answer.read()
                assert answer.headers["content-security-policy"]
            if path != "/":
                assert json.loads(content)["results"][0]["score"] == pytest.approx(1, abs=1e-5)
        with socket.create_connection(address.removeprefix("http://").split(":")) as waiting:
            waiting.sendall(b"GET /api/search?image=1.png HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert process.stdout.readline() == "searching\n"
            for _ in range(2):  # the first waits for the answer, the second for nothing
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")


def test_what_cannot_be_served_is_one_line(index, run, tmp_path, monkeypatch):
    moved = tmp_path / "moved.index"
    shutil.copytree(index, moved)
    about = json.loads((moved / "index.json").read_text())
    about["model"]["path"] = "no/such/model"
    (moved / "index.json").write_text(json.dumps(about))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for flags, message in (
            ((tmp_path, "--port", 0), "is not an index"),
            (
                (index, "--port", port),
                f"127.0.0.1, port {port}: Address already in use; give another",
            ),
            ((index, "--port", 70000), "--port is 70000; expected"),
            ((index, "--host", "no such host"), "cannot listen on no such host"),
            ((index, "--allow-origin", "*"), "--allow-origin is '*'; expected such as https://"),
            ((index, "--queue", 0), "--queue is 0; expected a number above 0"),
            ((index, "--max-megapixels", "nan"), "--max-megapixels is nan; expected"),
            (
                (moved, "--port", 0),
                "model; if it is elsewhere now, give it by --checkpoint",
            ),
            ((moved / "index.json", "--port", 0), "index.json is a file, not an index"),
        ):
            code, out, err = run("serve", *flags)
            assert (code, out) == (2, ""), flags
            assert message in err
            assert err.count("\n") == 1
    for name in [name for name in sys.modules if name.startswith("dir_jax.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, out, err = run("serve", index, "--port", 0)
    assert (code, out) == (2, "")
    assert "package fastapi, which is not installed: pip install 'dir_jax[serve]'" in err
