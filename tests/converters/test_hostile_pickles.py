"""A checkpoint is data: files that want more get an error of one line, and nothing else."""

import os
import pickle
import struct

import numpy as np
import pytest

from converters.reader import read_file
from converters.torch_pickles import Rehearsal
from torch_reference.checkpoint_files import FLOATS, legacy_file, tensor_pickle, zip_file


def text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def call(module, name, *args):
    """GLOBAL, arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


# Each makes the directory CANARY where Python's own unpickler reads it.
CANARY = "canary"
LIVE = {
    "os.system": call("os", "system", text(f"mkdir {CANARY}")),
    "posix.system": call("posix", "system", text(f"mkdir {CANARY}")),
    "stack global": text("os") + text("system") + b"\x93" + text(f"mkdir {CANARY}") + b"\x85R",
    "memoised names": text("os") + b"q\x00" + text("mkdir") + b"q\x010h\x00h\x01\x93"
    + text(CANARY) + b"\x85R",
    "inst": b"(" + text(f"mkdir {CANARY}") + b"ios\nsystem\n",
    "obj": b"(cos\nsystem\n" + text(f"mkdir {CANARY}") + b"o",
    "reduce of a class": call("subprocess", "Popen", b"](" + text("mkdir") + text(CANARY) + b"e"),
    "eval": call("builtins", "eval", text(f"__import__('os').mkdir('{CANARY}')")),
    "exec": call("builtins", "exec", text(f"import os; os.mkdir('{CANARY}')")),
    "getattr chain": call(
        "builtins",
        "getattr",
        call("builtins", "__import__", text("os")),
        text("mkdir"),
    ) + text(CANARY) + b"\x85R",
    "importlib": call(
        "builtins", "getattr", call("importlib", "import_module", text("os")), text("mkdir")
    ) + text(CANARY) + b"\x85R",
    "dotted name": text("os") + text("path.os.mkdir") + b"\x93" + text(CANARY) + b"\x85R",
    "dotted name of an allowed module": text("collections")
    + text("OrderedDict.__doc__.__len__") + b"\x93)R0" + call("os", "mkdir", text(CANARY)),
    "functools.partial": call(
        "functools", "partial", b"cos\nmkdir\n", text(CANARY)
    ) + b")R",
    "map": call(
        "builtins", "list", call("builtins", "map", b"cos\nmkdir\n", b"](" + text(CANARY) + b"e")
    ),
    "nested loads": call(
        "pickle", "loads", b"C" + bytes([len(n := b"cos\nmkdir\n(X\x06\x00\x00\x00canarytR.")]) + n
    ),
    "timeit": call("timeit", "timeit", text(f"import os; os.makedirs('{CANARY}', exist_ok=True)"),
                   text("pass"), b"ctime\ntime\n", b"K\x01"),
    "a harmless call before": call("code", "InteractiveInterpreter") + b"0"
    + call("os", "makedirs", text(CANARY)),
    "in an ordered dict": b"ccollections\nOrderedDict\n)R(" + text("a")
    + call("os", "mkdir", text(CANARY)) + b"u",
    "in the state of a dict": b"ccollections\nOrderedDict\n)R}(" + text("_metadata")
    + call("os", "mkdir", text(CANARY)) + b"ub",
    "in a numpy object array": b"cnumpy._core.multiarray\n_reconstruct\n"
    b"(cnumpy\nndarray\nK\x00\x85C\x01btR"
    + b"(K\x01K\x01\x85" + call("numpy", "dtype", text("O8"), b"\x89", b"\x88")
    + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]"
    + call("os", "mkdir", text(CANARY)) + b"atb",
}  # fmt: skip
# Refused, too; what Python would do with them is not tried here.
MORE = {
    "python 2 eval": call("__builtin__", "eval", text(f"__import__('os').mkdir('{CANARY}')")),
    "newobj": b"csubprocess\nPopen\n" + b"](" + text("mkdir") + text(CANARY) + b"e\x85\x81",
    "newobj_ex": b"csubprocess\nPopen\n](" + text("mkdir") + text(CANARY) + b"e\x85}\x92",
    "in the state of a PCA": b"csklearn.decomposition.pca\nPCA\n)\x81}(" + text("mean_")
    + call("os", "system", text("true")) + b"ub",
    "a PCA that is another class": b"ccopy_reg\n_reconstructor\n(csubprocess\nPopen\n"
    b"c__builtin__\nobject\nNtR",
    "another object that is rebuilt": b"ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\n"
    b"c__builtin__\nobject\nNtR",
    "a PCA built on another base": b"ccopy_reg\n_reconstructor\n(csklearn.decomposition.pca\nPCA\n"
    b"c__builtin__\nset\nNtR",
    "a PCA whose state is no dict": b"csklearn.decomposition._pca\nPCA\n)\x81](K\x01eb",
    "hooks of a tensor": call("torch._utils", "_rebuild_tensor_v2", b"N", b"K\x00", b")", b")",
                              b"\x89", call("os", "system", text("true"))),
    "torch.load": call("torch", "load", text("http://example.org")),
    "torch.hub": call("torch.hub", "load_state_dict_from_url", text("http://example.org")),
    "torch.storage": call("torch.storage", "_load_from_bytes", b"C\x01x"),
    "numpy.load": call("numpy", "load", text("x.npy")),
    "a numpy array of another class": call(
        "numpy.core.multiarray", "_reconstruct", b"cbuiltins\nobject\n", b"K\x00\x85", b"C\x01b"
    ),
    "numpy records": call("numpy", "dtype", text("f8")) + b"(K\x03" + text("<")
    + b"N" + text("a") * 1 + b"}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    "numpy pointers": call("numpy", "dtype", text("O")),
    "_codecs.encode of another codec": call("_codecs", "encode", text("x"), text("zlib")),
    "_codecs.decode": call("_codecs", "decode", text("x"), text("zlib")),
    "calling a storage type": call("torch", "FloatStorage", b"K\x01"),
    "calling ndarray": call("numpy", "ndarray", b"\x8a\x05\x00\x00\x00\x00\x10\x85"),
    "extension registry": b"\x82\x01",
    "extension registry, 4 bytes": b"\x84\x01\x00\x00\x00",
    "textual persistent id": b"Pstorage\n",
    "persistent id of a module": b"(" + text("module") + b"csubprocess\nPopen\n"
    + text("a.py") + text("import os") + b"tQ",
    "persistent id of a pickled module": b"(" + text("module") + text("m") + text("a.py")
    + text("import os") + b"tQ",
    "out-of-band buffer": b"\x97",
    "state for a list": b"]}b",
    "a call of a list": b"])R",
    "a name that breaks the line": text("os\nsystem\x1b[31m") + text("x" * 3000) + b"\x93",
    "ctypes": call("ctypes", "CDLL", text("libc.so.6")),
    "types": call("types", "FunctionType"),
    "marshal": call("marshal", "loads", b"C\x01c"),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["legacy", "zip"])
@pytest.mark.parametrize("name", [*LIVE, *MORE])
def test_nothing_in_a_pickle_is_run(refused, name, layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = b"\x80\x04}" + text("state_dict") + (LIVE | MORE)[name] + b"s."
    path = tmp_path / "hostile.pt"
    if layout == "legacy":
        path.write_bytes(legacy_file(pickled))
    else:
        zip_file(path, pickled)
    refused(path)
    assert os.listdir() == ["hostile.pt"]


@pytest.mark.parametrize("name", LIVE)
def test_those_pickles_are_dangerous_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = pickle.loads(b"\x80\x04" + LIVE[name] + b".")  # what the tests above are about
    if hasattr(made, "wait"):
        made.wait()
    assert os.path.isdir(CANARY)


BOMBS = {
    "memo index of 2^32 - 1": b"Nr\xff\xff\xff\xff0j\xff\xff\xff\x7f",
    "string of 2^31 bytes": b"X\xff\xff\xff\x7fa",
    "string of 2^60 bytes": b"\x8d" + struct.pack("<Q", 1 << 60) + b"a",
    "bytes of 2^60": b"\x8e" + struct.pack("<Q", 1 << 60) + b"a",
    "bytearray of 2^60": b"\x96" + struct.pack("<Q", 1 << 60) + b"a",
    "negative string": b"T\xff\xff\xff\xffa",
    "integer of 2^31 bytes": b"\x8b\xff\xff\xff\x7f1",
    "integer of a megabyte": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    "negative integer length": b"\x8b\xff\xff\xff\xff1",
    "too many empty sets": b"\x8f" * 100_000,
    "too many marks": b"(" * 100_000,
    "too many nested lists": b"]" * 100_000 + b"a" * 99_999,
    "an argument nested 20,000 deep": b"]" * 20_000 + b"a" * 19_999 + b")R",
    "hash of a tuple nested 2^40 times": b"N" + b"2\x86" * 40 + b"q\x00}h\x00Ns",
    "set of such tuples": b"\x8f(N" + b"2\x86" * 40 + b"\x90",
    "representation of a list nested 2^40 times": b"N" + b"2\x86" * 40 + b")R",
    "the same as a dtype": call("numpy", "dtype", b"N" + b"2\x86" * 40),
    "the same as an option": b"}" + text("a") + b"N" + b"2\x86" * 40 + b"s" + b"K\x01a",
    "colliding keys": b"}("
    + b"".join(
        b"\x8a\x0f" + (k * ((1 << 61) - 1)).to_bytes(15, "little") + b"N" for k in range(1, 20000)
    )
    + b"u",
    "copies of copies": text("a" * 1_000_000)
    + b"q\x000("
    + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 2000
    + b"l",
    "sets of sets": b"](" + b"K\x01" * 50_000 + b"eq\x000("
    + b"cbuiltins\nset\nh\x00\x85R" * 5000 + b"l",
    "nested names": text("latin1") + b"q\x00" + b"N" + b"2\x86" * 40 + b"q\x01c_codecs\nencode\n"
    b"(h\x00h\x01tR",
    "hex of hex": text("a") + b"q\x000" + b"".join(
        b"c_codecs\nencode\n(h" + bytes([i]) + text("hex") + b"tRq" + bytes([i + 1]) + b"0"
        for i in range(60)
    ),
    "punycode": call("_codecs", "encode", text("\xe9" * 100_000), text("punycode")),
    "a counter of tuples": b"](N" + b"2\x86" * 40 + b"eq\x00ccollections\nCounter\nh\x00\x85R",
    "an array that holds itself": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00"
    b"\x85U\x01btRq\x00(K\x01K\x02\x85cnumpy\ndtype\n(U\x01OtR\x89]q\x01(h\x00h\x00etb",
    "bytearray of any size": call("builtins", "bytearray", b"\x8a\x06\x00\x00\x00\x00\x00\x10"),
    "a tensor of any size": call("torch", "FloatTensor", b"\x8a\x06\x00\x00\x00\x00\x00\x10"),
    "an item of a tensor": b"ctorch\nFloatTensor\n)RK\x00K\x01s",
    "wide text": text("a" * 5_000_000 + "\U0001f600"),
    "stack underflow": b"0" * 10,
    "mark underflow": b"t",
    "odd items": b"}(K\x01u",
    "recall of nothing": b"h\x07",
    "a global's name without end": b"c" + b"a" * 100_000,
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_no_pickle_takes_more_than_the_file(refused, name, tmp_path, monkeypatch):
    monkeypatch.setattr(Rehearsal, "most_steps", 80_000)  # tracing memory makes steps slow
    path = tmp_path / "bomb.pt"
    path.write_bytes(legacy_file(b"\x80\x04" + BOMBS[name] + b"."))
    refused(path, memory=100 << 20)


STORAGES = {
    "2^60 elements": {"numel": 1 << 60},
    "2^200 elements": {"numel": 1 << 200},
    "negative number of elements": {"numel": -4},
    "more than there are": {"numel": 5},
    "fewer than there are": {"numel": 3, "shape": (1,), "stride": (1,)},
    "offset beyond the end": {"offset": 4},
    "offset of 2^62": {"offset": 1 << 62},
    "negative offset": {"offset": -1},
    "shape beyond the end": {"shape": (3, 2)},
    "shape of 2^60": {"shape": (1 << 60,), "stride": (1,)},
    "shape whose product overflows": {"shape": (1 << 32, 1 << 32), "stride": (1, 1)},
    "a number repeated 2^40 times": {"shape": (1 << 40,), "stride": (0,)},
    "five repeated numbers": {"shape": (5,), "stride": (0,)},
    "stride beyond the end": {"stride": (3, 1)},
    "stride that overflows": {"stride": (1 << 63, 1 << 63)},
    "negative stride": {"stride": (-1, 1)},
    "negative side": {"shape": (-2, -2)},
    "strides of another rank": {"stride": (1,)},
    "a hundred dimensions": {"shape": (1,) * 100, "stride": (1,) * 100},
    "empty, but of 2^70": {"shape": (1 << 70, 0), "stride": (1, 1)},
    "unknown type": {"kind": "QInt8Storage"},
    "a type that is none": {"kind": "FloatTensor"},
    "name with ..": {"key": "../../etc/passwd"},
}


@pytest.mark.parametrize("layout", ["legacy", "zip"])
@pytest.mark.parametrize("name", STORAGES)
def test_tensors_stay_within_their_storages(refused, name, layout, tmp_path):
    pickled = tensor_pickle(**STORAGES[name])
    path = tmp_path / "tensor.pt"
    if layout == "legacy":
        key = STORAGES[name].get("key", "0")
        content = FLOATS if "key" not in STORAGES[name] else FLOATS[:8]
        path.write_bytes(legacy_file(pickled, [key], (4).to_bytes(8, "little") + content))
    else:
        zip_file(path, pickled, {"0": FLOATS})
    refused(path)


def test_the_tensor_that_those_distort_is_read(tmp_path):
    path = zip_file(tmp_path / "good.pt", tensor_pickle(), {"0": FLOATS})
    np.testing.assert_array_equal(read_file(path)["state_dict"]["w"], np.arange(4).reshape(2, 2))


def test_views_do_not_stand_for_other_storages(refused, tmp_path):
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n"
    small = storage + text("1") + text("cpu") + b"K\x01NtQ"
    view = storage + text("0") + text("cpu") + b"K\x04(" + text("1") + b"K\x00K\x04ttQ"
    tensor = call("torch._utils", "_rebuild_tensor_v2", view, b"K\x00", b"K\x04\x85", b"K\x01\x85",
                  b"\x89", b"}")  # fmt: skip
    pickled = b"\x80\x02}(" + text("a") + small + text("w") + tensor + b"u."
    content = (4).to_bytes(8, "little") + FLOATS + (1).to_bytes(8, "little") + FLOATS[:4]
    (tmp_path / "x.pt").write_bytes(legacy_file(pickled, ["0", "1"], content))
    refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("keys", "storages"),
    [
        ([], b""),
        (["0", "0"], b"\x04" + bytes(7) + FLOATS),
        (["1"], b"\x04" + bytes(7) + FLOATS),
        (["0"], b"\x05" + bytes(7) + FLOATS + FLOATS),
        (["0"], b"\xff" * 8 + FLOATS),
    ],
)
def test_legacy_storages_are_those_that_the_pickle_names(refused, keys, storages, tmp_path):
    (tmp_path / "x.pt").write_bytes(legacy_file(tensor_pickle(), keys, storages))
    refused(tmp_path / "x.pt")
