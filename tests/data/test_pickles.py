"""Pickles by an allow-list: plain data and arrays load, programs do not run."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dir_jax.data.pickles import Unpickler, load_pickle
from dir_jax.errors import UserError

PLAIN = {
    "numbers": [1, -2, 3.5, True, None, 10**30],
    "text": ("naïve", b"\x00\xff", ""),
    "sets": {1, 2},
    "frozen": frozenset("ab"),
    "ordered": collections.OrderedDict(b=1, a=2),
}
ARRAYS = {
    "int": np.arange(6).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">u2"),
    "bool": np.array([True, False]),
    "text": np.array(["all_souls", "oriel"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array(["a", None, 3], dtype=object),
    "empty": np.zeros((0, 4), np.float32),
    "complex": np.array(1 + 2j),
}


def save(path: Path, data: object, protocol: int) -> str:
    path.write_bytes(pickle.dumps(data, protocol))
    return str(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data(tmp_path, protocol):
    file = save(tmp_path / "a.pkl", PLAIN, protocol)
    assert load_pickle(file) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path, protocol, name):
    expected = ARRAYS[name]
    array = load_pickle(save(tmp_path / "a.pkl", expected, protocol))
    assert isinstance(array, np.ndarray)
    # NumPy swaps bytes as it loads, up to protocol 4.
    assert array.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_scalars(tmp_path, protocol):
    data = [np.float32(1.5), np.int64(-3), np.bool_(True)]
    loaded = load_pickle(save(tmp_path / "a.pkl", data, protocol))
    assert loaded == data
    assert [x.dtype for x in loaded] == [x.dtype for x in data]


def test_shared_objects_stay_shared(tmp_path):
    array = np.arange(3)
    first, second = load_pickle(save(tmp_path / "a.pkl", [array, array], 4))
    assert first is second


def test_python_2(tmp_path):
    """As Python 2 with NumPy 1 wrote them: protocol 2, byte strings as text."""
    content = (
        b"\x80\x02}q\x00(U\x01xq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02i2q\n"
        b"K\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb"
        b"\x89U\x04\xff\x00\x01\x02q\x0ftq\x10bU\x01yq\x11c__builtin__\nset\nq\x12]q\x13K\x01a\x85Rq"
        b"\x14u."
    )
    (tmp_path / "a.pkl").write_bytes(content)
    loaded = load_pickle(str(tmp_path / "a.pkl"))
    assert loaded["x"].tolist() == [255, 513]
    assert loaded["y"] == {1}


def test_the_real_ground_truth(shared_data):
    truth = load_pickle(str(shared_data / "revisitop" / "gnd_roxford5k.pkl"))
    assert len(truth["imlist"]) == 4993
    assert len(truth["qimlist"]) == len(truth["gnd"]) == 70


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(marker: str) -> dict[str, object]:
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, f"open({marker!r}, 'w')"),
        "exec": Calls(exec, f"open({marker!r}, 'w')"),
        "open": Calls(open, marker, "w"),
        "getattr": Calls(getattr, "text", "upper"),
        "import": Calls(__import__, "this"),
        "nested": {"imlist": [{"a": (1, Calls(os.mkdir, marker))}]},
        "in an array": np.array([Calls(os.mkdir, marker)], dtype=object),
        "type": Calls(type, "A", (), {}),
        "class": Path,
        "partial": Calls(__import__("functools").partial, os.mkdir),
        "numpy's own loader": Calls(np.load, marker),
        "bytes of any size": Calls(bytes, 10**15),
        "bytearray of any size": Calls(bytearray, 10**15),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", hostile(""))
def test_hostile_calls(tmp_path, name, protocol):
    marker = tmp_path / "executed"
    file = save(tmp_path / "a.pkl", hostile(str(marker))[name], protocol)
    with pytest.raises(UserError, match=r"a\.pkl .* nothing else is loaded"):
        load_pickle(file)
    assert not marker.exists()


def raw(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


HOSTILE_BYTES = {
    "posix.system": raw(b"cposix\nsystem\n", b"(X\x05\x00\x00\x00falsetR"),
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0cload.__call__\x93.",
    "attribute of an allowed module": raw(b"cnumpy\nfromfile\n"),
    "persistent id": raw(b"Pid\n"),
    "extension": raw(b"\x82\x01"),
    "not a pickle": b"hello",
    "empty": b"",
    "cut": pickle.dumps(PLAIN)[:-9],
    "missing memo": raw(b"h\x07"),
    # numpy.ndarray((2,), 'O', buffer): bytes that would be taken for pointers.
    "array over a buffer": raw(
        b"cnumpy\nndarray\n(K\x02\x85X\x01\x00\x00\x00OU\x10" + b"\x41" * 16 + b"tR"
    ),
    "pointers in a scalar": raw(
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x01\x00\x00\x00OtRU\x08"
        + struct.pack("<q", 1)
        + b"tR"
    ),
    "pointers in an array": raw(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x01\x85cnumpy\ndtype\n(X\x01\x00\x00\x00OtR\x89U\x08" + b"\x41" * 8 + b"tb"
    ),
    "array longer than its bytes": raw(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01J\x00\x00\x00\x40\x85cnumpy\ndtype\n(X\x02\x00\x00\x00i8tR\x89U\x08"
        + b"\x41" * 8
        + b"tb"
    ),
    "record type": raw(b"cnumpy\ndtype\n(X\x05\x00\x00\x00i4,O8tR"),
    "type of a state that lies": raw(
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8tR(K\x03X\x01\x00\x00\x00xNNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x3ftb"
    ),
}


@pytest.mark.parametrize("name", HOSTILE_BYTES)
def test_hostile_bytes(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(HOSTILE_BYTES[name])
    with pytest.raises(UserError, match=r"a\.pkl"):
        load_pickle(str(tmp_path / "a.pkl"))


SELF = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btRq\x00(K\x01K\x02\x85"
    b"cnumpy\ndtype\n(U\x01OtR\x89"
)
BOMBS = {
    "too many sets": b"\x8f" * 100_000,
    "too many marks": b"(" * 100_000,
    "too many nested lists": b"]" * 100_000 + b"a" * 99_999,
    "nested lists": b"]" * 1_000 + b"a" * 999,
    "a string of 2^31 bytes": b"X\xff\xff\xff\x7fa",
    "bytes of 2^60": b"\x8e" + struct.pack("<Q", 1 << 60) + b"a",
    "a bytearray of 2^60": b"\x96" + struct.pack("<Q", 1 << 60) + b"a",
    "an integer of a megabyte": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    "a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a tuple nested 2^60 times as a key": b"}N" + b"2\x86" * 60 + b"Ns",
    "a tuple nested 2^60 times in a set": b"\x8f(N" + b"2\x86" * 60 + b"\x90",
    "a tuple nested 2^60 times, called": b"N" + b"2\x86" * 60 + b")R",
    "a tuple nested 2^60 times as a shape": SELF.replace(b"K\x02\x85", b"N" + b"2\x86" * 60)
    + b"]tb",
    "a number as a key": b"}K\x01Ns",
    "copies": b"X\x40\x42\x0f\x00" + b"a" * 1_000_000
    + b"q\x00(" + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 2000 + b"l",
    "wide text": b"X" + struct.pack("<I", 1_000_004) + b"a" * 1_000_000 + "\U0001f600".encode(),
    "wide text of protocol 0": b"V" + b"a" * 1_000_000 + b"\\U0001f600\n",
    "text beyond Unicode": SELF.replace(b"U\x01Ot", b"U\x02U1t") + b"U\x08" + b"\xff" * 8 + b"tb",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_bounds(tmp_path, name, monkeypatch):
    monkeypatch.setattr(Unpickler, "most_steps", 80_000)  # tracing memory makes steps slow
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + BOMBS[name] + b".")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"a\.pkl") as error:
            load_pickle(str(tmp_path / "a.pkl"))
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 500


def test_what_is_shared_costs_once(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\xff.")  # a memo index of 2^32 - 1
    assert load_pickle(str(tmp_path / "a.pkl")) is None
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02N" + b"2\x86" * 60 + b".")
    nested = load_pickle(str(tmp_path / "a.pkl"))  # 2^60 times
    assert nested[0] is nested[1]
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + SELF + b"]q\x01(h\x00h\x00etb.")
    assert load_pickle(str(tmp_path / "a.pkl")).tolist() == [None, None]


def test_what_is_not_a_file_of_bounded_size(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="not a regular file"):
        load_pickle(str(tmp_path / "fifo"))
    with open(tmp_path / "large", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match="at most 64 are read"):
        load_pickle(str(tmp_path / "large"))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.pkl cannot be read: No such file"):
        load_pickle(str(tmp_path / "none.pkl"))
