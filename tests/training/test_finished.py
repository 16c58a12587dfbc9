"""A complete run says so at once."""

import json
import subprocess
import sys

import pytest

from dir_jax.commands.recipes import load_config
from dir_jax.training.config import config_to_json
from dir_jax.training.finished import SUMMARY, is_finished


@pytest.fixture
def run(tmp_path):
    """A config, and the directory of its complete run."""
    config = load_config("quickstart")
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    (tmp_path / SUMMARY).write_text(json.dumps({"steps": config.num_steps}))
    return config, tmp_path


def test_only_with_the_same_config_and_its_results(run):
    config, workdir = run
    assert is_finished(config, workdir)
    config.log_every += 1  # changes no numbers
    assert is_finished(config, workdir)
    for key in ("seed", "num_steps"):
        config[key] += 1
        assert not is_finished(config, workdir)
        config[key] -= 1
    (workdir / SUMMARY).write_text("{")
    assert not is_finished(config, workdir)
    (workdir / SUMMARY).unlink()
    assert not is_finished(config, workdir)


def test_neither_jax_nor_orbax_is_imported_for_it(run):
    code = (
        "import sys; sys.argv[1:] = ['--config', 'quickstart', '--workdir', sys.argv[1]]\n"
        "from dir_jax import train; assert train.main() == 0\n"
        "print(sorted({'jax', 'flax', 'orbax', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run[1])], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert f"this run is complete: {run[1]}" in done.stderr
