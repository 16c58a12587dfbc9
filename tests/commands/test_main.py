"""`dir-jax COMMAND` and `python -m dir_jax COMMAND`: what they list, run and refuse."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dir_jax
from dir_jax.commands import main as commands
from dir_jax.commands.recipes import load_config, recipes
from dir_jax.commands.running import Parser, with_hyphens
from dir_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("jax", "jaxlib", "torch", "flax", "optax", "orbax", "scipy", "matplotlib", "grain",
         "tensorflow_datasets", "kapture", "h5py", "sklearn")  # fmt: skip


@pytest.fixture
def call(monkeypatch, capfd):
    """Calls dir-jax in this process: `call(*arguments) -> (exit code, output, error)`."""

    def run(*arguments, prog="dir-jax"):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/dir-jax", *arguments])
        monkeypatch.setenv("GLIBC_TUNABLES", "")  # set, so that this process is not started again
        capfd.readouterr()
        try:
            code = commands.main(prog)
        except SystemExit as e:
            code = e.code
        return code, *capfd.readouterr()

    return run


def process(*arguments, cwd):
    """Runs Python as a user does, in another folder."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "GLIBC_TUNABLES")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_lists_the_commands_with_a_line_each(call, arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    for name in ("train", "test-dir", "extract-features", "extract-kapture", "download",
                 "from-torch", "to-torch"):  # fmt: skip
        assert re.search(rf"^  {name} +\w", out, re.MULTILINE)


def test_version(call):
    assert call("--version") == (0, f"dir_jax {dir_jax.__version__}\n", "")


def test_unknown_command_suggests_the_nearest(call):
    code, out, err = call("trian")
    assert (code, out) == (2, "")
    assert (
        err
        == "error: there is no command trian; did you mean train? (dir-jax lists the commands)\n"
    )
    assert "did you mean" not in call("zzz")[2]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_says_how_the_command_was_called(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0
    assert out.startswith(f"usage: dir-jax {name} ")
    assert "python -m" not in out.split("\n\n", 2)[1]
    _, out, _ = call(name, "--help", prog="python -m dir_jax")
    assert out.startswith(f"usage: python -m dir_jax {name} ")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_imports_nothing_heavy_and_is_that_of_the_module(call, name, tmp_path):
    """In a process of its own, in a folder that is not the checkout, by either name."""
    module = commands.COMMANDS[name].module.removesuffix(".__main__")
    direct = process("-X", "importtime", "-m", module, "--help", cwd=tmp_path)
    assert direct.returncode == 0, direct.stderr
    assert direct.stdout.startswith(f"usage: python -m {module} ")
    imported = {row.split("|")[-1].strip() for row in direct.stderr.splitlines()}
    assert not imported & set(HEAVY)
    listed = set(re.findall(r"^  (--[\w.-]+)", direct.stdout, re.MULTILINE))
    assert listed == set(re.findall(r"^  (--[\w.-]+)", call(name, "--help")[1], re.MULTILINE))
    assert not any("_" in flag for flag in listed)


def test_python_m_dir_jax_runs_a_command(tmp_path):
    """Through the restart with the allocator's settings, up to the command's own mistake."""
    done = process("-m", "dir_jax", "train", "--config", "no such", "--workdir", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config: there is no recipe named 'no such'")


def test_console_script_survives_the_restart(tmp_path):
    """A script as pip writes it: Python is started again with the script and its arguments."""
    script = tmp_path / "dir-jax"
    script.write_text(
        "import os, sys\n"
        "from dir_jax.commands.main import script\n"
        "if __name__ == '__main__':\n"
        "    print(os.environ.get('GLIBC_TUNABLES', 'unset'), flush=True)\n"
        "    sys.exit(script())\n"
    )
    done = process(str(script), "train", "--config", "no such", "--workdir", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "no such" in done.stderr
    settings = done.stdout.split()
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        assert len(settings) == 2
        assert settings[0] == "unset"
        assert "malloc" in settings[1]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_misspelt_flag_is_reported_before_missing_ones(call, name):
    code, out, err = call(name, "--hepl", "x")
    assert (code, out) == (2, "")
    assert "there is no flag --hepl" in err
    assert len(err.splitlines()) == 1


def test_misspelt_flag_suggests_the_nearest(call):
    assert "did you mean --output?" in call("extract-features", "--outptu", "x.npy")[2]
    assert "did you mean --workdir?" in call("train", "--work_dri=x")[2]
    err = call("train", "--confg.batch_size=3")[2]
    assert "did you mean --config.batch_size?" in err


@pytest.mark.parametrize("name", sorted(commands.COMMANDS.keys() - {"models"}))  # which needs none
def test_required_flags_are_named(call, name):
    code, _, err = call(name)
    assert code == 2
    assert re.search(r"required: (--|INDEX|RUN)|give one data set", err)


def test_flags_have_hyphens_or_underscores():
    assert with_hyphens("--out_dim") == "--out-dim"
    assert with_hyphens("--out_dim=a_b") == "--out-dim=a_b"
    assert with_hyphens("--config.batch_size=1") == "--config.batch_size=1"
    for other in ("a_b", "-a_b", "--", "Scale(a_b)", "-1_000"):
        assert with_hyphens(other) == other
    parser = Parser("m", "doc")
    parser.add_argument("--out-dim", type=int)
    parser.add_argument("--name")
    for spelling in ("--out_dim", "--out-dim"):
        args = parser.parse([spelling, "3", "--name=a_b"])
        assert (args.out_dim, args.name) == (3, "a_b")


def test_values_that_look_like_flags():
    parser = Parser("m", "doc")
    parser.add_argument("--gpu", type=int, nargs="+")
    parser.add_argument("--trfs", nargs="+")
    parser.add_argument("-d")
    args = parser.parse(["--gpu", "-1", "--trfs", "", "Scale(3)", "-dx"])
    assert (args.gpu, args.trfs, args.d) == ([-1], ["", "Scale(3)"], "x")
    with pytest.raises(UserError, match=r"unexpected argument 'stray': flags begin with --$"):
        parser.parse(["-d", "x", "stray"])
    with pytest.raises(UserError, match=r"argument .*; put a pattern such as .* in quotes"):
        parser.parse(["-d", "x", __file__])  # a shell has made files of a pattern


@pytest.mark.parametrize("name", recipes())
def test_recipes_have_names(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    by_name = load_config(name)
    by_path = load_config(str(ROOT / "experiments" / f"{name}.py"))
    assert by_name.to_dict() == by_path.to_dict()


def test_recipes_are_the_files_of_experiments():
    assert {"ap_gem", "triplet_gem", "quickstart", "caltech101"} <= set(recipes())
    for path in recipes().values():
        functions = [
            n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)
        ]
        assert "get_config" in functions


def test_overrides_change_keys_of_every_type():
    config = load_config(
        "ap_gem",
        ["--config.batch_size=8", "--config.optimizer.learning_rate", "0.5",
         "--config.model.arch=resnet18_rmac", "--config.model.without_fc",
         "--noconfig.loss.class_weighted", "--config.data.mean=(0.1, 0.2, 0.3)"],
    )  # fmt: skip
    assert config.batch_size == 8
    assert config.optimizer.learning_rate == 0.5
    assert config.model.arch == "resnet18_rmac"
    assert config.model.without_fc is True
    assert config.loss.class_weighted is False
    assert tuple(config.data.mean) == (0.1, 0.2, 0.3)


def test_recipe_takes_an_argument(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dir_jax.training.config import default_config\n"
        "def get_config(arch='resnet18_rmac'):\n"
        "    config = default_config()\n"
        "    config.model.arch = arch\n"
        "    return config\n"
    )
    assert load_config(str(file)).model.arch == "resnet18_rmac"
    assert load_config(f"{file}:resnet50_rmac").model.arch == "resnet50_rmac"


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("ap_gm", [], ["'ap_gm'", "did you mean ap_gem?", "quickstart"]),
        ("os", [], ["'os'", "ap_gem"]),  # a module's name imports nothing
        ("nowhere.py", [], ["no file nowhere.py"]),
        ("folder/ap_gem", [], ["no file folder/ap_gem"]),
        ("ap_gem:x", [], ["ap_gem:x", "TypeError", "1 was given"]),
        (
            "ap_gem",
            ["--config.lr=1"],
            ["config.lr", "did you mean config.optimizer.learning_rate?"],
        ),
        ("ap_gem", ["--config.model=x"], ["config.model is a group", "config.model.arch"]),
        ("ap_gem", ["--config.num_bins=1"], ["did you mean config.loss.num_bins?"]),
        ("ap_gem", ["--config.modl.arch=x"], ["did you mean config.model.arch?"]),
        (
            "ap_gem",
            ["--config.batch_size=many"],
            ["config.batch_size is 'many'; expected a whole number from 1 to"],
        ),
        ("ap_gem", ["--config.optimizer.learning_rate", "1:x"], ["is '1:x'; expected a number"]),
        ("ap_gem", ["--config.data.exif=perhaps"], ["is 'perhaps'; expected True or False"]),
        ("ap_gem", ["--config.batch_size"], ["batch_size"]),
        ("ap_gem", ["--config.model.without_fc", "stray"], ["'stray'"]),
    ],
)
def test_bad_configs_are_one_line(recipe, overrides, words):
    with pytest.raises(UserError) as error:
        load_config(recipe, overrides)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("x = 1", "get_config"),
        ("def get_config(): raise RuntimeError('mine')", "mine"),
        ("def get_config(): return open('no_such_file')", "no_such_file"),
        ("def get_config(): return None", "NoneType"),
        ("def get_config(): raise ValueError('two\\nlines')", "two lines"),
    ],
)
def test_broken_recipes_are_one_line(body, word, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(body)
    with pytest.raises(UserError) as error:
        load_config(str(file))
    assert len(str(error.value).splitlines()) == 1
    assert word in str(error.value)


def test_flags_of_the_original_that_have_no_effect():
    test = importlib.import_module("dir_jax.test_dir")._parser()
    assert test.parse(["--dataset", "x", "--dbg", "a", "b"]).dbg == ["a", "b"]
    extract = importlib.import_module("dir_jax.extract_features")._parser()
    flags = ["--dataset", "x", "--checkpoint", "y", "--output", "z", "--dbg"]
    assert extract.parse([*flags, "--out-json", "r.json", "--detailed"]).output == "z"
