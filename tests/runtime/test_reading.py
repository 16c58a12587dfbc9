"""Small files of others: text and JSON, or one line."""

import os

import pytest

from dir_jax.errors import UserError
from dir_jax.runtime.reading import parse_json, read_json, read_text


def test_text_and_json(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes('\ufeff{"é": [1, NaN, "\\ud83d\\ude00"]}'.encode())
    assert read_text(file).startswith("{")
    value = read_json(file)
    assert value["é"][::2] == [1, "😀"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n\xff", "line 3: it is not UTF-8 text"),
        (b"x" * 101, "has 0 MiB; at most 0 are read"),
        (b"{\n5", "not JSON: line 2: "),
        (b"", "not JSON: line 1: "),
        (b"[" * 100_000, "MiB"),
    ],
)
def test_bad_files(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(file, most=100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"\\uDFFF": 1}', "half a character"),
        ("9" * 5000, "4,300 digits"),
        ("nul", "line 1"),
    ],
)
def test_bad_json(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match="cannot be read: "):
            read_text(path)
