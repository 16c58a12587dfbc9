"""What torch wrote is what we read, in either layout and without torch's help."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from converters.arrays import Array, Tensor
from converters.constructors import Record
from converters.errors import CheckpointFileError
from converters.reader import read_file
from torch_reference.checkpoint_files import legacy_file, small_tree, tensor_pickle, zip_file


def to_numpy(tensor):
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("layout", ["legacy", "zip"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_all_that_a_checkpoint_may_hold(small_files, layout, protocol):
    expected, found = small_tree(), read_file(small_files[f"{layout}{protocol}"])
    assert found.keys() == expected.keys()
    assert list(found["state_dict"]) == list(expected["state_dict"])  # the order, too
    for name, tensor in expected["state_dict"].items():
        array = found["state_dict"][name].numpy()
        assert array.shape == tuple(tensor.shape)
        assert array.flags.c_contiguous
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(array.astype(to_numpy(tensor).dtype), to_numpy(tensor))
    assert found["model_options"] == expected["model_options"]
    whitening, pca = found["pca"]["Landmarks_clean"], expected["pca"]["Landmarks_clean"]
    assert isinstance(whitening, Record)
    assert whitening.path == "sklearn.decomposition._pca.PCA"
    for name in ("mean_", "components_", "explained_variance_"):
        np.testing.assert_array_equal(whitening.state[name].numpy(), getattr(pca, name))
    assert whitening.state["whiten"] is True
    lw = found["meta"]["Lw"]["a"]["ss"]
    for name in ("m", "P"):
        np.testing.assert_array_equal(lw[name].numpy(), expected["meta"]["Lw"]["a"]["ss"][name])
    moments = found["optimizer"]["state"][0]["exp_avg"]
    np.testing.assert_array_equal(
        moments.numpy(), expected["optimizer"]["state"][0]["exp_avg"].numpy()
    )
    assert (found["best"], found["iter"]) == (0.5, 7)
    assert (found["set"], found["bytes"]) == ({1, 2}, b"\x00\xff")
    np.testing.assert_array_equal(found["big"].numpy(), np.arange(4))
    assert found["big"].numpy().dtype == np.int32


def test_storages_are_in_the_byte_order_that_the_file_states(tmp_path):
    numbers = np.arange(4, dtype=np.float32)
    big = legacy_file(
        tensor_pickle(), ["0"], (4).to_bytes(8, "big") + numbers.astype(">f4").tobytes()
    ).replace(b"little_endian\x88", b"little_endian\x89")
    (tmp_path / "big.pt").write_bytes(big)
    found = read_file(tmp_path / "big.pt")["state_dict"]["w"].numpy()
    np.testing.assert_array_equal(found, numbers.reshape(2, 2))
    path = zip_file(tmp_path / "zip.pt", tensor_pickle(), {"0": numbers.astype(">f4").tobytes()})
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("archive/byteorder", "big")
    found = read_file(path)["state_dict"]["w"].numpy()
    np.testing.assert_array_equal(found, numbers.reshape(2, 2))


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
    numbers = np.arange(4, dtype=np.float32)
    file = tmp_path / "old.pt"
    file.write_bytes(legacy_file(pickled, ["9"], (4).to_bytes(8, "little") + numbers.tobytes()))
    found = read_file(file)
    np.testing.assert_array_equal(found["w"].numpy(), [2, 3])
    assert found["pca"].path == "sklearn.decomposition.pca.PCA"
    np.testing.assert_array_equal(found["pca"].state["mean_"].numpy(), [1, -2])
    assert found["pca"].state["whiten"] is True
    assert found["ordered"] == {"a": 1}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("layout", ["legacy2", "zip2"])
def test_reads_the_zip_that_a_checkpoint_is_distributed_in(small_files, tmp_path, method, layout):
    path = tmp_path / "Resnet101-AP-GeM.pt.zip"
    with zipfile.ZipFile(path, "w", method) as z:
        z.write(small_files[layout], "Resnet101-AP-GeM.pt")
        z.writestr("__MACOSX/._Resnet101-AP-GeM.pt", "resource fork")
        z.writestr("README.txt", "how to use it")
    found = read_file(path)
    expected = small_tree()["state_dict"]["shared"].numpy()
    np.testing.assert_array_equal(found["state_dict"]["shared"].numpy(), expected)


def test_files_written_without_checksums_are_read(tmp_path):
    computed = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"state_dict": {"w": torch.ones(3)}}, tmp_path / "no.pt")
    finally:
        torch.serialization.set_crc32_options(computed)
    np.testing.assert_array_equal(read_file(tmp_path / "no.pt")["state_dict"]["w"].numpy(), 1)


def test_a_flipped_bit_in_a_weight_is_noticed_in_a_zip(tmp_path):
    torch.save({"w": torch.arange(100.0)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    content[content.index(np.arange(100, dtype=np.float32).tobytes()) + 50] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointFileError, match="data/0 cannot be read"):
        read_file(tmp_path / "w.pt")


def test_numbers_are_copies_and_leave_the_file_alone(small_files):
    tree = read_file(small_files["zip2"])
    first = tree["state_dict"]["shared"].numpy()
    first += 1
    again = tree["state_dict"]["shared"].numpy()
    np.testing.assert_allclose(again + 1, first)
    assert isinstance(tree["state_dict"]["shared"], Tensor)
    assert isinstance(tree["big"], Array)


def test_reading_imports_neither_torch_nor_scikit_learn_nor_jax(small_files):
    code = (
        "import sys; from converters.reader import read_file; read_file(sys.argv[1]);"
        "print([m for m in ('torch', 'sklearn', 'jax', 'pickle5') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, small_files["legacy2"]], capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]", result.stderr
