"""The texts that describe transforms and data sets: what is read, what is refused, and how."""

import dataclasses
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dir_jax.data.calls import parse_calls
from dir_jax.errors import UserError


@dataclasses.dataclass
class Scale:
    size: object
    largest: bool = False


def sized(size=0, **options):
    if size == 13:
        raise ValueError("size=13 brings bad luck")
    if size == 404:
        raise UserError("no file 404.txt")
    if size == 500:
        raise KeyError("a bug")
    return size, options


CONSTRUCTORS = {
    "Scale": Scale,
    "Sized": sized,
    "Bound": functools.partial(sized, 7),
    "Crash": lambda: 1 / 0,
}
NAMES = {"BILINEAR": 2, "Image.BILINEAR": 2}


def parse(text):
    return parse_calls(text, CONSTRUCTORS, what="thing", names=NAMES)


def complaint(text):
    """The message that a text earns, and the part of the text that its caret points to."""
    with pytest.raises(UserError) as caught:
        parse(text)
    message, shown, caret, *_ = str(caught.value).split("\n")
    assert caret.strip() == "^"
    return str(caught.value), message, shown[caret.index("^") :]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("Scale(1)", [Scale(1)]),
        ("Scale(1), Scale(2, True)", [Scale(1), Scale(2, True)]),
        (" Scale( 1 ),\r\n\tScale(size=2, largest=False), ", [Scale(1), Scale(2)]),
        ("Scale(-1.5)", [Scale(-1.5)]),
        ("Scale(+3)", [Scale(3)]),
        ("Scale('é, Scale(1) # 1')", [Scale("é, Scale(1) # 1")]),
        ('Scale("a" "b")', [Scale("ab")]),
        ("Scale((1, -2.0, [None, (), 'x']))", [Scale((1, -2.0, [None, (), "x"]))]),
        ("Scale(BILINEAR), Scale(Image.BILINEAR)", [Scale(2), Scale(2)]),
        ("Sized(a=1, b='c')", [(0, {"a": 1, "b": "c"})]),
        ("Bound(c=1)", [(7, {"c": 1})]),
    ],
)
def test_read(text, expected):
    assert parse(text) == expected


LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Line breaks count as spaces, also in texts; repr writes those it knows as \n.
    | st.text(st.characters(blacklist_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
)


@given(LITERALS, LITERALS)
def test_literals_come_back(first, second):
    assert parse(f"Scale({first!r}, largest={second!r})") == [Scale(first, second)]


@pytest.mark.parametrize(
    ("text", "words", "at"),
    [
        # syntax
        ("Scale(1), Scale(2", "never closed", "(2"),
        ("Scale(1))", "unmatched ')'", ")"),
        ("Scale(1) Scale(2)", "syntax", "Scale(2)"),
        ("Scale(1);Scale(2)", "syntax", ";Scale(2)"),
        (", Scale(1)", "syntax", ", Scale(1)"),
        ("Scale('é', largest=)", "syntax", ")"),
        ("Scale(1, largest=", "never closed", "(1, largest="),
        ("Scale(size=1, size=2)", "repeated", "size=2)"),
        ("Scale('a)", "unterminated", "'a)"),
        ("Scale(1), # Scale(2)", "comments", "# Scale(2)"),
        ("Scale(1), # one\nScale(2)", "comments", "# one Scale(2)"),
        ("(" * 300, "nested", None),
        ("-" * 10_000 + "1", "nested", None),
        ("-" * 100_000 + "1", "too long", None),
        ("Scale(1\0)", "character is not allowed", "\ufffd)"),
        ("Scale('\ud800')", "character is not allowed", "\ufffd')"),
        ("Scale('é\x1b[2J')", "character is not allowed", "\ufffd[2J')"),
        # names
        ("Scale(1), Skale(2)", "no thing named Skale; did you mean Scale?", "Skale(2)"),
        ("Scale('é'), scale(2)", "did you mean Scale?", "scale(2)"),
        ("Xyzzy()", "no thing named Xyzzy", "Xyzzy()"),
        ("Scale", "Scale needs parentheses", "Scale"),
        ("Scale(1), Xyzzy", "expected a thing such as Name(…), found Xyzzy", "Xyzzy"),
        ("Scale(1), 2", "found 2", "2"),
        ("[Scale(1)]", "found [Scale(1)]", "[Scale(1)]"),
        ("*Scale(1), Scale(2)", "syntax", "*Scale(1), Scale(2)"),
        ("Scale(1) + Scale(2)", "found Scale(1) + Scale(2)", "Scale(1) + Scale(2)"),
        ("os.Scale(1)", "found os.Scale(1)", "os.Scale(1)"),
        ("Scale(1)(2)", "found Scale(1)(2)", "Scale(1)(2)"),
        ("lambda: Scale(1)", "found lambda", "lambda: Scale(1)"),
        # arguments
        ("Scale(1), Scale()", "missing a required argument: 'size'", "Scale()"),
        ("Scale(1, 2, 3)", "too many positional arguments", "Scale(1, 2, 3)"),
        ("Scale(1, size=2)", "multiple values for argument 'size'", "Scale(1, size=2)"),
        ("Scale(1, largst=2)", "no argument largst; did you mean largest?", "largst=2)"),
        ("Scale(1, BILINAR)", "named BILINAR; did you mean BILINEAR?", "BILINAR)"),
        ("Scale(list.txt)", "named list.txt; a text must be in quotes", "list.txt)"),
        ("Scale(1 + 1)", "found 1 + 1", "1 + 1)"),
        ("Scale(-True)", "found -True", "-True)"),
        ("Scale(--1)", "found --1", "--1)"),
        ("Scale(1j)", "found 1j", "1j)"),
        ("Scale(b'a')", "found b'a'", "b'a')"),
        ("Scale(...)", "found ...", "...)"),
        ("Scale(f'{1}')", "found f'{1}'", "f'{1}')"),
        ("Scale({1: 2})", "found {1: 2}", "{1: 2})"),
        ("Scale((1, Scale(2)))", "found Scale(2)", "Scale(2)))"),
        ("Scale(*[1])", "found *[1]", "*[1])"),
        ("Scale(**{'size': 1})", "** is not allowed", "{'size': 1})"),
        ("Scale(x := 1)", "found x := 1", "x := 1)"),
        ("Scale(1 if 1 else 2)", "found 1 if 1 else 2", "1 if 1 else 2)"),
        ("Scale(1), Sized(13)", "Sized: size=13 brings bad luck", "Sized(13)"),
    ],
)
def test_refused(text, words, at):
    _, message, pointed = complaint(text)
    assert words in message
    if at is not None:
        assert pointed == at


def test_known_names_and_usage_are_shown():
    assert complaint("Xyzzy()")[0].endswith("\nknown: Scale, Sized, Bound, Crash")
    assert complaint("Scale")[0].endswith("\nusage: Scale(size, largest=False)")
    assert complaint("Scale()")[0].endswith("\nusage: Scale(size, largest=False)")
    assert complaint("Bound(1)")[0].endswith("\nusage: Bound(**options)")
    assert complaint("Scale(BILINAR)")[0].endswith("\nknown: BILINEAR")
    assert complaint("Sized(13)")[0].endswith("\nusage: Sized(size=0, **options)")


def test_long_texts_are_cut_around_the_place():
    text = ", ".join(["Scale(1)"] * 100 + ["Skale(2)"] + ["Scale(3)"] * 100)
    message, _, pointed = complaint(text)
    assert pointed.startswith("Skale(2), Scale(3)")
    assert pointed.endswith("…")
    assert max(map(len, message.split("\n"))) < 200


def test_nothing_is_evaluated(tmp_path):
    witness = tmp_path / "witness"
    for text in (
        f"__import__('os').system('touch {witness}')",
        f"Scale(1), __import__('os').system('touch {witness}')",
        f"Scale(__import__('os').system('touch {witness}'))",
        f"Scale([].append(open('{witness}', 'w')))",
        f"Scale(size=(lambda: open('{witness}', 'w'))())",
        f"Scale(f\"{{open('{witness}', 'w')}}\")",
        f"Scale([open('{witness}', 'w') for _ in (1,)])",
    ):
        complaint(text)
        assert not witness.exists()


def test_nothing_is_made_before_all_is_read():
    # Crash() would raise another error if it were called.
    assert "Skale" in complaint("Crash(), Skale(1)")[1]


def test_other_errors_of_constructors_pass():
    with pytest.raises(UserError, match=r"^no file 404\.txt$"):
        parse("Sized(404)")
    with pytest.raises(KeyError, match="a bug"):
        parse("Sized(500)")
