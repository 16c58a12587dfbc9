"""What torch and safetensors wrote is what we read."""

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import uuid
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from converters.file_errors import CheckpointFileError
from converters.reader import read_file
from converters.torch_pickles import InertPCA
from converters.whitenings import numbers
from torch_reference.checkpoint_files import legacy_file, small_tree, tensor_pickle, zip_file


def assert_same_tensors(found, expected):
    assert list(found) == list(expected)  # the order, too
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        numbers = tensor.detach().float().numpy()
        np.testing.assert_array_equal(found[name].astype(np.float32), numbers)


@pytest.mark.parametrize("layout", ["legacy", "zip"])
def test_reads_all_that_a_checkpoint_may_hold(small_files, layout):
    expected, found = small_tree(), read_file(small_files[layout])
    assert found.keys() == expected.keys()
    assert_same_tensors(found["state_dict"], expected["state_dict"])
    assert found["model_options"] == expected["model_options"]
    whitening, pca = found["pca"]["Landmarks_clean"], expected["pca"]["Landmarks_clean"]
    assert isinstance(whitening, InertPCA)
    for name in ("mean_", "components_", "explained_variance_"):
        np.testing.assert_array_equal(numbers(whitening.state[name], name), getattr(pca, name))
    assert whitening.state["whiten"] is True
    lw = found["meta"]["Lw"]["a"]["ss"]
    for name in ("m", "P"):
        np.testing.assert_array_equal(lw[name], expected["meta"]["Lw"]["a"]["ss"][name])
    moments = found["optimizer"]["state"][0]["exp_avg"]
    np.testing.assert_array_equal(moments, expected["optimizer"]["state"][0]["exp_avg"].numpy())
    assert (found["best"], found["iter"]) == (0.5, 7)
    assert (found["set"], found["bytes"]) == ({1, 2}, b"\x00\xff")
    np.testing.assert_array_equal(found["big"], np.arange(4))
    assert found["big"].dtype == np.int32


@pytest.mark.parametrize("legacy", [True, False])
def test_other_protocols_are_refused_with_the_remedy(tmp_path, legacy):
    for protocol in (3, 4, 5):
        torch.save(
            small_tree(), tmp_path / "x.pt", pickle_protocol=protocol,
            _use_new_zipfile_serialization=not legacy,
        )  # fmt: skip
        with pytest.raises(CheckpointFileError, match=r"only protocol 2 is.* pickle_protocol"):
            read_file(tmp_path / "x.pt")


def test_storages_are_in_the_byte_order_that_the_file_states(tmp_path):
    numbers = np.arange(4, dtype=np.float32)
    path = zip_file(tmp_path / "zip.pt", tensor_pickle(), {"0": numbers.astype(">f4").tobytes()})
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("archive/byteorder", "big")
    np.testing.assert_array_equal(read_file(path)["state_dict"]["w"], numbers.reshape(2, 2))


def test_reads_what_python_2_and_the_first_torches_wrote(tmp_path):
    def text(s):  # Python 2's str
        return b"U" + bytes([len(s)]) + s

    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"9")
    storage += text(b"cpu") + b"K\x04"
    view = storage + b"(" + text(b"8") + b"K\x01K\x03ttQ"  # three elements from the second on
    old_tensor = b"ctorch\nFloatTensor\n)R(" + view + b"K\x01K\x02\x85K\x01\x85tb"
    variable = b"ctorch.nn.parameter\nParameter\n)\x81(" + old_tensor + b"N}\x88\x89tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b")
    kind = b"cnumpy\ndtype\n(" + text(b"f8") + b"K\x00K\x01tR(K\x03" + text(b"<")
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += b"tR(K\x01K\x02\x85" + kind + b"\x89" + text(np.float64([1, -2]).tobytes()) + b"tb"
    pca = (
        b"ccopy_reg\n_reconstructor\n(csklearn.decomposition.pca\nPCA\nc__builtin__\nobject\nNtR}("
    )
    pca += text(b"mean_") + array + text(b"whiten") + b"\x88ub"
    pickled = b"\x80\x02}(" + text(b"w") + variable + text(b"pca") + pca
    pickled += (
        text(b"ordered") + b"ccollections\nOrderedDict\n](](" + text(b"a") + b"K\x01ee\x85Ru."
    )
    storage = np.arange(4, dtype=np.float32).tobytes()
    file = tmp_path / "old.pt"
    file.write_bytes(legacy_file(pickled, ["9"], (4).to_bytes(8, "little") + storage))
    found = read_file(file)
    np.testing.assert_array_equal(found["w"], [2, 3])
    assert isinstance(found["pca"], InertPCA)
    np.testing.assert_array_equal(numbers(found["pca"].state["mean_"], "mean_"), [1, -2])
    assert found["pca"].state["whiten"] is True
    assert found["ordered"] == {"a": 1}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("layout", ["legacy", "zip"])
def test_reads_the_zip_that_a_checkpoint_is_distributed_in(small_files, tmp_path, method, layout):
    path = tmp_path / "Resnet101-AP-GeM.pt.zip"
    with zipfile.ZipFile(path, "w", method) as z:
        z.write(small_files[layout], "Resnet101-AP-GeM.pt")
        z.writestr("__MACOSX/._Resnet101-AP-GeM.pt", "resource fork")
        z.writestr("README.txt", "how to use it")
    found = read_file(path)
    expected = small_tree()["state_dict"]["shared"].numpy()
    np.testing.assert_array_equal(found["state_dict"]["shared"], expected)


def test_files_written_without_checksums_are_read(tmp_path):
    computed = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"state_dict": {"w": torch.ones(3)}}, tmp_path / "no.pt")
    finally:
        torch.serialization.set_crc32_options(computed)
    np.testing.assert_array_equal(read_file(tmp_path / "no.pt")["state_dict"]["w"], 1)


def test_a_flipped_bit_in_a_weight_is_noticed_in_a_zip(tmp_path):
    torch.save({"w": torch.arange(100.0)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    content[content.index(np.arange(100, dtype=np.float32).tobytes()) + 50] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointFileError, match=r"Bad CRC-32.*data/0"):
        read_file(tmp_path / "w.pt")


class Trainer:
    """An object of a class that only the file's author has."""

    def __init__(self):
        self.names = ["a"]


def test_other_objects_beside_the_weights_do_not_matter(tmp_path):
    tree = {
        "state_dict": {"w": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), type=torch.float32),
        "counts": collections.Counter("aab"),
        "lists": collections.defaultdict(list, a=[1]),
        "path": pathlib.PurePosixPath("a/b"),
        "random": np.random.RandomState(0),
        "generator": np.random.default_rng(0),
        "trainer": Trainer(),
        "lists again": collections.deque([1, 2]),
        "others": [decimal.Decimal("1.5"), uuid.uuid4(), fractions.Fraction(1, 2), range(3), 2j,
                   datetime.datetime.now(datetime.UTC), re.compile("a"), collections.UserDict(a=1),
                   functools.partial(int, "3"), ValueError("x"), signal.SIGINT, int, str],
        "optimiser": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1),
        "NumPy's": [np.ma.array([1]), np.matrix([[1]]), np.array(["2020"], "M8[s]"),
                    np.zeros(2, [("a", "f4")])],
    }  # fmt: skip
    for legacy in (True, False):
        torch.save(tree, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        found = read_file(tmp_path / "x.pt")
        assert found.keys() == tree.keys()
        assert found["counts"] == {"a": 2, "b": 1}
        assert not hasattr(found["trainer"], "names")


def test_reads_safetensors(tmp_path):
    state = {name: x.contiguous().clone() for name, x in small_tree()["state_dict"].items()}
    options = json.dumps({"arch": "resnet18_rmac"})
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path, {"format": "pt", "model_options": options})
    found = read_file(path)
    assert found["safetensors"] == {"format": "pt", "model_options": options}
    assert_same_tensors({name: found["state_dict"][name] for name in state}, state)
    assert found["state_dict"]["bfloat16"].dtype == ml_dtypes.bfloat16
    content = path.read_bytes()
    path.rename(tmp_path / "renamed.bin")  # it is told by its content
    assert read_file(tmp_path / "renamed.bin")["state_dict"].keys() == state.keys()
    for length in range(1, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointFileError):
            read_file(path)
    path = tmp_path / "sparse.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    for size, expected in ((1 << 33, "does not end where the file"), (1 << 40, "1024 GB, more")):
        os.truncate(path, size)
        with pytest.raises(CheckpointFileError, match=expected):
            read_file(path)
    for header in (b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}',
                   b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', b"{" * 100_000,
                   b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9]}}'):  # fmt: skip
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(CheckpointFileError) as error:
            read_file(path)
        assert "\n" not in str(error.value)
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointFileError, match="its header"):
        read_file(path)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantised"),
        (torch.ones(2, 2).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (torch.ones(2, device="meta"), "meta"),
        (torch.ones(1).expand(5), "repeats a storage"),
    ],
)
def test_tensors_that_are_not_plain_numbers_are_refused(tensor, expected, tmp_path):
    for legacy in (True, False):
        torch.save({"w": tensor}, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointFileError, match=expected):
            read_file(tmp_path / "x.pt")


def test_only_files_of_pytorch_need_pytorch(small_files, tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    code = """
import sys
sys.modules["torch"] = None
from converters.reader import read_file
from dir_jax.errors import UserError
print(read_file(sys.argv[2])["state_dict"]["w"].tolist())
try:
    read_file(sys.argv[1])
except UserError as e:
    print(e)
print([m for m in ("sklearn", "jax") if m in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code, small_files["legacy"], tmp_path / "x.safetensors"],
        capture_output=True, text=True,
    )  # fmt: skip
    read, message, imported = result.stdout.splitlines()
    assert (read, imported) == ("[1.0, 1.0]", "[]")
    assert "legacy.pt" in message
    assert "pip install 'dir_jax[torch]'" in message
