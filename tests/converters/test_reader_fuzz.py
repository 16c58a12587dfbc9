"""Whatever bytes a file has, reading it gives a tree or the reader's own error."""

import io
import pickle
import zipfile

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from converters.file_errors import CheckpointFileError
from converters.reader import read_file
from converters.sources import recognise
from converters.torch_pickles import Rehearsal
from torch_reference.checkpoint_files import legacy_file, zip_file

RELAXED = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_all(path):
    """Reads a file and all that a conversion would read of it, or fails as the reader may."""
    message = ""
    try:
        tree = read_file(path)
        recognise(tree)
    except CheckpointFileError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@st.composite
def changes(draw):
    """A function that damages bytes in a few places."""
    count = draw(st.integers(1, 4))
    kinds = ("flip", "set", "insert", "delete", "repeat", "number")
    plan = [
        (draw(st.sampled_from(kinds)), draw(st.floats(0, 1, exclude_max=True)),
         draw(st.binary(min_size=1, max_size=9)))
        for _ in range(count)
    ]  # fmt: skip

    def apply(content):
        content = bytearray(content)
        for kind, place, data in plan:
            i = int(place * len(content))
            if kind == "flip":
                content[i] ^= data[0] or 1
            elif kind == "set":
                content[i : i + len(data)] = data
            elif kind == "insert":
                content[i:i] = data
            elif kind == "delete":
                del content[i : i + len(data)]
            elif kind == "repeat":
                content[i:i] = content[i : i + 50 * len(data)]
            else:
                content[i : i + 4] = b"\xff\xff\xff\x7f"
            content = content or bytearray(1)
        return bytes(content)

    return apply


@RELAXED
@given(change=changes(), layout=st.sampled_from(["legacy", "zip"]))
def test_damaged_files(change, layout, small_files, tmp_path):
    path = tmp_path / "damaged.pt"
    path.write_bytes(change(small_files[layout].read_bytes()))
    read_all(path)


@RELAXED
@given(change=changes(), layout=st.sampled_from(["legacy", "zip"]))
def test_damaged_pickles_in_sound_files(change, layout, small_files, tmp_path):
    # The checksum of a zip would notice most damage before the pickle is looked at.
    content, path = small_files[layout].read_bytes(), tmp_path / "damaged.pt"
    if layout.startswith("legacy"):
        start = content.index(b"X\x0a\x00\x00\x00state_dict") - 10
        end = content.index(b"\x80\x02]q")
        path.write_bytes(content[:start] + change(content[start:end]) + content[end:])
    else:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                data = old.read(info)
                new.writestr(info.filename, change(data) if "data.pkl" in info.filename else data)
    read_all(path)


OPCODES = [getattr(pickle, name) for name in dir(pickle) if len(name) > 2 and name.isupper()]
OPCODES = [code for code in OPCODES if isinstance(code, bytes) and len(code) == 1]
GLOBALS = ["c{}\n{}\n".format(*name.rpartition(".")[::2]).encode()
           for name in Rehearsal(b"", 0, 0, legacy=False).names]  # fmt: skip
VALUES = [b"K\x01", b"K\x00", b"N", b"\x88", b")", b"]", b"}", b"(", b"C\x04abcd", b"\x8c\x01a",
          b"\x8c\x02f4", b"\x8c\x01<", b"\x8c\x07storage", b"\x8c\x03cpu", b"K\x02\x85",
          b"\x8c\x06latin1"]  # fmt: skip


@RELAXED
@given(st.lists(st.sampled_from(OPCODES + 3 * VALUES + GLOBALS), max_size=40))
@example([b"cnumpy\ndtype\n", b"\x8c\x02f4", b"\x85", b"R"])
def test_pickles_of_random_instructions(tmp_path, parts):
    pickled = b"\x80\x04" + b"".join(parts) + b"."
    read_all(zip_file(tmp_path / "random.pt", pickled, {"a": b"abcd"}))
    (tmp_path / "random.pt").write_bytes(legacy_file(pickled, ["a"], b"\x01" + bytes(7) + b"abcd"))
    read_all(tmp_path / "random.pt")
