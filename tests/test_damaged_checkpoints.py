"""Damage to a checkpoint's files never changes a number without a word, and ends in one line."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from dir_jax.checkpoint import read_model, save_model
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe
from dir_jax.models import create_model
from dir_jax.models.architectures import ARCHITECTURES, Architecture
from dir_jax.models.layers import BatchNorm, Linear
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.whitening import learn_whitening
from dir_jax.training.run_checkpoints import RunCheckpoints


class SmallNetwork(nnx.Module):
    """As much of a network as a checkpoint looks at; a ResNet is 45 MB."""

    def __init__(self, config, backbone, *, rng):
        self.config = config
        self.fc = Linear(6, config.out_dim, precision="highest", rng=rng)
        self.norm = BatchNorm(config.out_dim)

    @classmethod
    def default_out_dim(cls, backbone):
        return 4


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "small_rmac", Architecture("resnet18", SmallNetwork))
    return create_model("small_rmac")


@pytest.fixture
def saved(network, tmp_path):
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((9, 4)))
    save_model(tmp_path / "model", network, whitenings={"train": whitening}, notes={"step": 7})
    return tmp_path / "model"


def flips(folder, count):
    """(file, place, bit): `count` places in the files of a folder, each file at least once."""
    rng = np.random.default_rng(0)
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size]
    for i in range(max(count, len(files))):
        file = files[i % len(files)]
        yield file, rng.integers(file.stat().st_size), 1 << rng.integers(8)


def everything(folder):
    found = read_model(folder)
    arrays = [*split_variables(found.model)[1:]]
    arrays.append({name: w.to_arrays() for name, w in found.whitenings.items()})
    return arrays, (found.preprocessing, found.model.config)


def assert_same(first, second):
    a, b = jax.tree.flatten(first), jax.tree.flatten(second)
    assert a[1] == b[1]
    for one, other in zip(a[0], b[0], strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def one_line(read):
    """What reading gives, or None where it is refused, which takes one short line."""
    message = ""
    try:
        return read()
    except UserError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 700
    return None


def refuses_or_reads_the_same(read, expected, damages):
    """How many of the damages are refused. They are made one at a time and taken back."""
    refused = 0
    for file, place, bit in damages:
        content = file.read_bytes()
        changed = bytearray(content)
        changed[place] ^= bit
        file.write_bytes(changed)
        found = one_line(read)
        refused += found is None
        if found is not None:
            assert_same(found[0], expected[0])
            assert found[1] == expected[1], file
        file.write_bytes(content)
    return refused


def test_a_flipped_bit_in_a_model(saved):
    expected = everything(saved)
    refused = refuses_or_reads_the_same(lambda: everything(saved), expected, flips(saved, 90))
    assert refused > 10  # most bits are in metadata that nothing depends on


def test_a_flipped_bit_in_a_training_state(network, tmp_path):
    checkpoints = RunCheckpoints(tmp_path / "run", keep=1)
    train = {"optimizer": {"count": np.int32(3), "mu": np.random.default_rng(1).random((6, 4))}}
    checkpoints.save(
        3,
        network,
        train,
        preprocessing=Preprocessing(),
        recipe=Recipe(),
        mean_average_precision=0.5,
    )
    checkpoints.close()

    def read():
        checkpoints = RunCheckpoints(tmp_path / "run", keep=1)
        try:
            return checkpoints.restore_newest() or (), None
        finally:
            checkpoints.close()

    expected = read()
    assert_same(expected[0][3], train)
    refused = refuses_or_reads_the_same(read, expected, flips(tmp_path / "run" / "3", 50))
    assert refused > 7


ODD = (None, True, -1, 0, 3.5, 10**30, -1e300, float("nan"), float("inf"), "", "x" * 5000, "\ud800",
       "a\nb", [], [[]], [1, 2, 3], {}, {"a": 1}, json.loads("[" * 200 + "]" * 200))  # fmt: skip


def mutated(rng, tree):
    """A copy of JSON data in which one value is another, is missing, or is one too many."""
    tree = json.loads(json.dumps(tree))
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[rng.integers(len(keys))]
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            break
        node = node[key]
    odd = ODD[rng.integers(len(ODD))]
    match rng.integers(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node["surplus"] = odd
        case _:
            node[key] = odd
    return tree


def test_a_mutated_description_is_one_line(saved):
    file = saved / "model" / "model.json"
    good = json.loads(file.read_text())
    rng = np.random.default_rng(0)
    texts = ["", "[" * 100_000, "{", "5", "[]", "{}", '{"model": 5}', "nul", "9" * 5000,
             "\ud800", "ÿ"]  # fmt: skip
    contents = [text.encode("latin1", "replace") for text in texts]
    contents.append(b" " * (9 << 20))
    without_digests = {name: value for name, value in good.items() if name != "digests"}
    for i in range(150):
        tree = mutated(rng, without_digests if i % 3 else good)
        contents.append(json.dumps(tree).encode())
    refused = 0
    for content in contents:
        file.write_bytes(content)
        refused += one_line(lambda: read_model(saved)) is None
    assert refused > 100


@pytest.mark.parametrize(
    ("part", "field", "value", "expected"),
    [
        ("model", "out_dim", 10**12, r"its model: out_dim is 1000000000000; expected a whole num"),
        ("model", "gemp", "3", r"its model: gemp is '3'; expected a number above 0"),
        ("model", "gemq", 3, r"its model: gemq is not a field; did you mean gemp"),
        ("preprocess", "mean", [1, 2], r"its preprocess: mean is \[1, 2\]; expected three numbers"),
        ("preprocess", "std", [1, 1, 0], r"its preprocess: std is \[1, 1, 0\]; expected three num"),
        (None, "model", 5, r"it: model is 5; expected an object"),
        (None, "format_version", "1", r"it: format_version is '1'; expected a whole number"),
        (None, "whitening", {}, r"it: whitening is {}; expected a list of names"),
    ],
)
def test_a_field_is_named_with_its_value_and_what_is_expected(saved, part, field, value, expected):
    file = saved / "model" / "model.json"
    description = json.loads(file.read_text())
    (description[part] if part else description)[field] = value
    file.write_text(json.dumps(description))
    with pytest.raises(UserError, match=f"model.json does not describe a model: {expected}"):
        read_model(saved)


def test_a_changed_description_is_refused(saved):
    """The network's input would be another one, and nothing else would notice."""
    file = saved / "model" / "model.json"
    file.write_text(file.read_text().replace("0.485", "0.585"))
    with pytest.raises(UserError, match="it is not what was written"):
        read_model(saved)


def replaced(file, how):
    file.unlink()
    if how == "pipe":
        os.mkfifo(file)
    elif how == "device":
        file.symlink_to("/dev/zero")
    else:
        file.touch()
        os.truncate(file, 1 << 40)


@pytest.mark.parametrize("how", ["pipe", "device", "1 TB"])
@pytest.mark.parametrize("name", ["model/model.json", "arrays/_METADATA", "arrays/d/*"])
def test_files_that_never_end_are_not_opened(how, name, saved):
    file = next(saved.glob(name))
    replaced(file, how)
    expected = r"is not a |cannot be read|has [\d,]+|is damaged"
    with pytest.raises(UserError, match=expected) as error:
        read_model(saved)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["pipe", "[]", "[" * 100_000, "\ud800"])
def test_a_step_that_keeps_orbax_from_opening_the_run(content, network, tmp_path, caplog):
    run, train = tmp_path / "run", {"optimizer": {"count": np.int32(3)}}
    checkpoints = RunCheckpoints(run, keep=2)
    for step in (3, 4):
        checkpoints.save(step, network, train, preprocessing=Preprocessing(), recipe=Recipe())
    checkpoints.close()

    def damage(step):
        file = run / step / "_CHECKPOINT_METADATA"
        if content == "pipe":
            replaced(file, "pipe")
        else:
            file.write_text(content, "utf-8", "surrogatepass")

    damage("4")
    checkpoints = RunCheckpoints(run, keep=2)
    assert checkpoints.restore_newest()[0] == 3
    checkpoints.close()
    assert f"the step is now {run / 'damaged-4'}" in caplog.text
    damage("3")
    with pytest.raises(UserError, match="no other step to continue from"):
        RunCheckpoints(run, keep=2)
    assert (run / "3").is_dir()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_arrays_that_are_not_finite_are_refused(value, network, tmp_path):
    network.norm.var.set_value(network.norm.var[...].at[2].set(value))
    save_model(tmp_path / "model", network)
    with pytest.raises(UserError, match=r"1 of its arrays have values .* such as norm\.var"):
        read_model(tmp_path / "model")


def test_the_old_model_is_read_where_its_writer_was_killed(saved, caplog):
    expected = everything(saved)
    scratch = saved.with_name(".model.abc.writing")
    scratch.mkdir()
    saved.rename(scratch / "old")
    assert_same(everything(saved)[0], expected[0])
    assert "was killed" in caplog.text
    with pytest.raises(UserError, match="exists"):
        save_model(saved, create_model("small_rmac"))
    assert_same(everything(saved)[0], expected[0])
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


# Saves in the way that is named, while the disk is full, and after that while it is not.
FULL_DISK = """
import argparse, resource, sys
from pathlib import Path
import jax
import numpy as np
from dir_jax.checkpoint import read_model, save_model
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.model_recipe import Recipe
from dir_jax.models import create_model
from dir_jax.models.preprocess import Preprocessing
from dir_jax.training.recipe import _set_up_logging
from dir_jax.training.run_checkpoints import RunCheckpoints

how, folder, ballast = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
del sys.argv[1:]
model = create_model("resnet18_rmac", out_dim=8)
train = {"optimizer": {"mu": np.random.default_rng(0).random(500_000)}}

def save_step(step):
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=1)
    try:
        checkpoints.save(step, model, train, preprocessing=Preprocessing(), recipe=Recipe())
        checkpoints.wait()
    finally:
        checkpoints.close()

def save(step):
    if how == "training":
        save_step(step)
    else:
        save_model(folder / "checkpoints" / "1", model, notes={"step": step}, overwrite=True)

def limit(bytes_of_a_file):
    if ballast.exists():  # a small file system, filled or not
        ballast.write_bytes(b"" if bytes_of_a_file < 0 else bytes(110 << 20))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, resource.RLIM_INFINITY))

if how == "training":
    _set_up_logging()
save(1)
limit(1 << 20)
code = run_parsed(Parser("full", ""), lambda args: save(2))
limit(-1)
assert code == 2, code
assert read_model(folder).description["step"] == 1
save(2)
assert read_model(folder).description["step"] == 2
print(sorted(p.name for p in (folder / "checkpoints").iterdir()))
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 180 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=180m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("how", ["training", "model"])
@pytest.mark.parametrize("why", ["File too large", "No space left on device"])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(how, why, tmp_path, request):
    folder = tmp_path
    if why.startswith("No space"):
        folder = request.getfixturevalue("small_disk")
        (folder / "ballast").touch()
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, how, folder, folder / "ballast"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert result.returncode == 0, result.stderr
    assert f": {why}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ("['2']\n" if how == "training" else "['1']\n")
