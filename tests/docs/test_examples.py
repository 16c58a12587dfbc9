"""What README and the site show: Python examples run, command lines have flags that exist."""

import importlib
import pickle
import re
import shlex
import shutil
import tomllib

import numpy as np
import pytest
import yaml
from PIL import Image

import dir_jax
from dir_jax import extract_features
from dir_jax.checkpoint import save_model
from dir_jax.commands.main import COMMANDS
from dir_jax.commands.recipes import load_config
from dir_jax.data.datasets import create_dataset
from dir_jax.models import create_model
from dir_jax.retrieval.whitening import learn_whitening
from dir_jax.search.building import NewImages, create_index, images_of, marks_of
from dir_jax.search.index import describe_model_of

from .markdown import PAGES, ROOT, blocks_of, command_lines, name_of, python_blocks

WITH_PYTHON = [page for page in PAGES if python_blocks(page)]
WITH_COMMANDS = [
    page for page in [*PAGES, *(ROOT / "experiments").glob("*.py")] if command_lines(page)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The files that the examples speak of: photographs, a trained model, synthetic landmarks."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    photos, landmarks = folder / "photos", folder / "runs/synthetic-landmarks"
    for path in (photos / "a", landmarks / "images"):
        path.mkdir(parents=True)

    def draw(path):
        Image.fromarray(rng.integers(0, 256, (56, 72, 3), np.uint8)).save(path)

    for i in range(8):
        draw(photos / f"{i}.jpg")
        draw(landmarks / f"images/{i}.jpg")
    draw(photos / "a/0.jpg")
    (folder / "photos.txt").write_text("0.jpg\n1.jpg\n2.jpg\n")
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("".join(f"{i}.jpg class{i % 2}\n" for i in range(6)))
        rows = (f"images/{i}.jpg class{i % 2}\n" for i in range(8))
        (landmarks / f"{name}.txt").write_text("".join(rows))
    truth = {"bbx": [0, 0, 50, 50], "easy": [0, 1], "hard": [2], "junk": [3]}
    names = [str(i) for i in range(8)]
    content = {"imlist": names[:6], "qimlist": names[6:], "gnd": [truth, truth]}
    (landmarks / "gnd_synthetic.pkl").write_bytes(pickle.dumps(content))
    whitening = learn_whitening(rng.standard_normal((300, 256)))
    network = create_model("resnet18_rmac", out_dim=256)
    save_model(folder / "runs/quickstart/model", network, whitenings={"train": whitening})
    rows = create_dataset(str(photos))
    describer = dir_jax.load(folder / "runs/quickstart")._describer(None, None, "stop", None, 0, {})
    images = images_of(rows, str(photos))
    create_index(
        folder / "my.index",
        NewImages.of(describer.describe([("index", images)]).lists[0], marks_of(images)),
        root=images.root,
        model=describe_model_of(describer, folder / "runs/quickstart", {}),
        recipe=describer.recipe,
    )
    shards = ["--checkpoint", "runs/quickstart", "--output", "descriptors", "--shards", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        photos = 'ImageList("photos.txt", "photos")'
        patch.setattr("sys.argv", ["extract_features", "--dataset", photos, *shards])
        assert extract_features.main() == 0
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_examples_run(page, world, tmp_path, monkeypatch):
    """All those of a page, one after the other, as a reader would type them."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    names = {"__name__": "example"}
    for where, text in python_blocks(page):
        exec(compile(text, where, "exec"), names)


def test_pages_have_examples():
    """Were the pages found elsewhere, or fenced otherwise, the tests above would be empty."""
    assert {"README.md", "docs/own-data.md", "docs/api/losses.md"} <= set(map(name_of, WITH_PYTHON))
    assert {"README.md", "docs/getting-started.md", "experiments/ap_gem.py"} <= set(
        map(name_of, WITH_COMMANDS)
    )


def check_command(line):
    """Raises where a command line could not be what it says: parses it as the command would."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # the environment
        words.pop(0)
    match words:
        case ["make", *rest]:
            assert set(rest) <= _make_targets(), line
        case ["pip", "install", *rest]:
            for extras in re.findall(r"\[(.*?)\]", " ".join(rest)):
                assert set(extras.split(",")) <= _extras(), line
        case ["pytest", path]:
            assert (ROOT / path).exists(), line
        case ["python", "-m", "dirtorch.test_dir" | "dirtorch.extract_features", *_]:
            pass  # the original's, in a table of what replaces them
        case ["python", "-m", "dirtorch.extract_kapture", *_]:
            pass
        case ["dir-jax", name, *flags] | ["python", "-m", "dir_jax", name, *flags]:
            _check_flags(COMMANDS[name].module, flags)
        case ["python", "-m", module, *flags]:
            _check_flags(module, flags)
        case ["python", path, *_]:
            assert (ROOT / path).is_file(), line
        case [tool, *_] if tool.startswith(".venv/bin/"):
            pass
        case ["git" | "cd" | "curl", *_] | []:
            pass  # curl asks what `dir-jax serve` answers: tests/serving
        case _:
            raise AssertionError(f"a command that this test does not know: {line}")


def _check_flags(module, flags):
    if module.startswith(("benchmarks.", "experiments.", "dir_jax.experiments.")):
        _check_script(module.removeprefix("dir_jax."), flags)
        return
    by_module = {c.module.removesuffix(".__main__"): c.module for c in COMMANDS.values()}
    command = importlib.import_module(by_module.get(module, module))
    parsers = []
    original, command.run_parsed = command.run_parsed, lambda parser, *_: parsers.append(parser)
    try:
        command.main()
    finally:
        command.run_parsed = original
    if "--help" in flags:
        return
    args = parsers[0].parse(flags)
    if hasattr(args, "overrides"):
        load_config(args.config, args.overrides)


def _check_script(module, flags):
    """A script that parses for itself: its source names the flags."""
    path = ROOT / module.replace(".", "/")
    files = list(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    source = "".join(file.read_text() for file in files)
    for flag in flags:
        if flag.startswith("--") and flag != "--help":
            assert f'"{flag.split("=")[0]}"' in source, f"{module} has no {flag}"


def _make_targets():
    makefile = (ROOT / "Makefile").read_text()
    return set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())


def _extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_command_lines_can_be_parsed(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for where, line in command_lines(page):
        try:
            check_command(line)
        except Exception as e:
            raise AssertionError(f"{where}: {line}: {e}") from e


def test_command_lines_that_are_wrong_are_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in (
        "make no-such-target",
        "pip install '.[nothing]'",
        "dir-jax test-dir --dataset X --checkpoint Y --no-such-flag",
        "python -m dir_jax.train --config no_such_recipe --workdir x",
        "python -m dir_jax.train --config ap_gem --workdir x --config.no_such_key=1",
        "python -m experiments.synthetic_landmarks --no-such-flag",
        "rm -rf x",
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - each in its own way
            check_command(line)


def test_the_files_for_clusters_are_what_they_seem():
    """Slurm's ends with a command that can be parsed, and so does the container of Kubernetes."""
    files = blocks_of(ROOT / "docs/cluster.md", "sh", "yaml")
    script, job, cluster = files
    lines = script.replace("\\\n", " ").splitlines()
    assert lines[0] == "#!/bin/bash"
    check_command(lines[-1].removeprefix("exec "))
    spec = yaml.safe_load(job)["spec"]
    command = spec["template"]["spec"]["containers"][0]["command"]
    check_command(shlex.join(command))
    assert command[command.index("--shards") + 1] == str(spec["completions"])
    assert "--head" in yaml.safe_load(cluster)["head_start_ray_commands"][-1]


def test_no_page_names_a_data_set_that_is_gone():
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            assert "SyntheticLandmarks(" not in page.read_text(), name_of(page)


def test_every_transform_is_on_its_page():
    from dir_jax.data import transforms

    page = (ROOT / "docs/transforms.md").read_text()
    for name in transforms.TRANSFORMS:
        assert f"\n::: dir_jax.data.transforms.{name}\n" in page


def test_every_loss_is_on_its_page():
    from dir_jax import losses

    page = (ROOT / "docs/api/losses.md").read_text()
    for name in losses.__all__:
        assert re.search(rf"\b{name}\b", page), name


def test_every_command_is_on_its_page():
    page = (ROOT / "docs/commands.md").read_text()
    for name, command in COMMANDS.items():
        assert f"{{{{ help: {name} }}}}" in page
        assert f"`{command.module.removesuffix('.__main__')}`" in page


def test_contributing_names_files_and_tables_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders = "dir_jax|converters|docs|tests|experiments|benchmarks"
    paths = re.findall(rf"`((?:{folders})/[^`*]*)`", text)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path
    for table, path in re.findall(r"`([A-Z]+)`, (?:both )?in `([^`]*)`", text):
        assert re.search(rf"^{table}\b.*=", (ROOT / path).read_text(), re.MULTILINE), table
