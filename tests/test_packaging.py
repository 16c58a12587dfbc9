"""What `pip install` brings: the wheel is built as pip builds it, without the network."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser as MetadataParser
from pathlib import Path

import pytest
import yaml

import dir_jax
from dir_jax.commands.main import COMMANDS
from dir_jax.commands.recipes import recipes

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("dir_jax", "converters", "experiments")
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, so that no build folder is left behind here."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SHIPPED:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(output)],
        cwd=source, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def contents(wheel):
    """name -> bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder such as site-packages, with the wheel unpacked in it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def dist_info(contents, file):
    return next(c.decode() for n, c in contents.items() if n.endswith(f".dist-info/{file}"))


def test_wheel_holds_every_file_of_the_packages_and_no_other(contents):
    expected = set()
    for name in SHIPPED:
        for path in (ROOT / name).rglob("*"):
            inside = path.relative_to(ROOT)
            if path.is_dir() or "__pycache__" in inside.parts or path.suffix in (".md", ".pyc"):
                continue
            shipped = Path("dir_jax") / inside if name == "experiments" else inside
            expected.add(shipped.as_posix())
    assert {name for name in contents if ".dist-info/" not in name} == expected
    assert "dir_jax/py.typed" in contents
    assert "dir_jax/experiments/ap_gem.py" in contents


def test_only_our_own_names_are_put_beside_other_packages(contents):
    assert set(dist_info(contents, "top_level.txt").split()) == {"converters", "dir_jax"}


def test_metadata(contents):
    metadata = MetadataParser().parsestr(dist_info(contents, "METADATA"))
    assert metadata["Name"] == "dir_jax"
    assert metadata["Version"] == dir_jax.__version__
    assert metadata["Author"] == "dir_jax developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in dist_info(contents, "licenses/LICENSE")
    assert {"cuda", "tpu", "torch", "docs"} <= set(metadata.get_all("Provides-Extra"))


def test_one_console_command(contents):
    scripts = configparser.ConfigParser()
    scripts.read_string(dist_info(contents, "entry_points.txt"))
    assert dict(scripts["console_scripts"]) == {"dir-jax": "dir_jax.commands.main:script"}


def test_version_is_said_once_and_repeated_right():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dir_jax.__version__
    assert citation["license"] == project["license"]
    assert len(citation["references"]) == 2
    released = re.search(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released is not None
    assert released[1] == dir_jax.__version__


def run(installed, folder, *arguments):
    """Runs Python where only `installed` has our packages."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    environment["PYTHONPATH"] = str(installed)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_installed_package_has_its_commands_and_recipes(installed, tmp_path):
    program = (
        "import sys, dir_jax.commands.recipes as c; from pathlib import Path;"
        "print(sorted(c.recipes()));"
        "print(all(Path(sys.argv[1]) in p.parents for p in c.recipes().values()));"
        "print(c.load_config('ap_gem', ['--config.batch_size=7']).batch_size)"
    )
    done = run(installed, tmp_path, "-c", program, str(installed.resolve()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(sorted(recipes())), "True", "7"]
    listed = run(installed, tmp_path, "-m", "dir_jax")
    assert all(f"  {name} " in listed.stdout for name in COMMANDS)
    shown = run(installed, tmp_path, "-m", "dir_jax", "train", "--config", "quickstart", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--workdir DIR" in shown.stdout


def test_a_makefile_target_is_listed_by_help():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert targets == set(re.findall(r"^([a-z-]+):.*## \w", makefile, re.MULTILINE))
    if shutil.which("make") and shutil.which("awk"):
        listed = subprocess.run(
            # Below another make, this one would say which folder it enters.
            ["make", "--no-print-directory"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {row.split()[1] for row in listed.splitlines()} == targets


def test_hosted_ci_runs_the_targets_of_ours():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [s["run"] for s in workflow["jobs"]["checks"]["steps"] if "run" in s]
    ours = [row for row in (ROOT / ".ci/run").read_text().splitlines() if row.startswith("make ")]
    assert steps == ["make setup-dev", *ours]
