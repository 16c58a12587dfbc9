"""Reads texts such as `Scale(1050), Pad(800)` as lists of calls, without evaluating anything.

Python's own grammar parses the text, and only calls of known names with literal arguments are
accepted. Everything else is refused, with a caret under the place.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from dir_jax.errors import UserError, did_you_mean, shown
from dir_jax.fields import is_number

T = TypeVar("T")

_LONGEST = 20_000  # characters of a text: Python reads a very long one slowly, or crashes
_LARGEST = 10**9  # of the factors of a product
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN_BEFORE, _SHOWN_AFTER = 100, 60  # characters around a mistake in a long text


def parse_calls(
    text: str,
    constructors: Mapping[str, Callable[..., T]],
    *,
    what: str,
    names: Mapping[str, object] | None = None,
) -> list[T]:
    """Makes the objects that a comma-separated list of calls describes.

    Arguments may be numbers and their products, strings, True, False, None, tuples and lists of
    these, and `names`. Line breaks count as spaces. All calls are read before the first object is
    made.

    Args:
      text: the calls, such as 'Scale(1050, largest=True), Pad(800)'; a blank text has none.
      constructors: the function that each name calls. If it raises a ValueError, that is reported
        as a mistake in the arguments; its other errors are passed on.
      what: the word for such a call in error messages, such as 'transform'.
      names: constants that arguments may use, such as BILINEAR; a name may contain dots.

    Raises:
      UserError: the text is something else; the message shows where, and what would be right.
    """
    reader = _Reader(re.sub(r"[\n\r\t]", " ", text).strip(), what, names or {})
    makers = [reader.maker(node, constructors) for node in reader.elements()]
    return [make() for make in makers]


class _Reader:
    """A text that is being read; it can report a mistake at any place in it."""

    def __init__(self, text: str, what: str, names: Mapping[str, object]):
        self.text, self.what, self.names = text, what, names

    def elements(self) -> list[ast.expr]:
        if not self.text:
            return []
        if len(self.text) > _LONGEST:
            self.fail(0, f"the text is too long: at most {_LONGEST:,} characters are read")
        if strange := _NOT_TEXT.search(self.text):
            self.fail(strange.start(), "this character is not allowed")
        try:
            tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as e:
            # Python counts from 1, and from 0 where it has no place to show.
            self.fail(max((e.offset or 1) - 1, 0), f"syntax error: {shown(e.msg)}")
        except ValueError as e:
            self.fail(0, f"syntax error: {shown(e)}")
        except (RecursionError, MemoryError):
            self.fail(0, "syntax error: too deeply nested")
        # Line breaks are gone, so a comment would swallow all that follows it.
        end = self.position(tree.end_lineno, tree.end_col_offset)
        comment = self.text.find("#", end)
        if comment >= 0:
            self.fail(comment, "comments are not allowed here")
        return tree.elts if isinstance(tree, ast.Tuple) else [tree]

    def maker(
        self, node: ast.expr, constructors: Mapping[str, Callable[..., T]]
    ) -> Callable[[], T]:
        """Checks one element, a call of a known name with suitable arguments; makes nothing yet."""
        known = f"known: {', '.join(constructors)}"
        if isinstance(node, ast.Name) and node.id in constructors:
            usage = _usage(node.id, constructors[node.id], self.names)
            self.fail_at(node, f"{node.id} needs parentheses", usage)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            message = f"expected a {self.what} such as Name(…), found {self.source(node)}"
            self.fail_at(node, message, known)
        name = node.func.id
        if name not in constructors:
            near = did_you_mean(name, constructors)
            self.fail_at(node, f"there is no {self.what} named {shown(name)}{near}", known)
        constructor = constructors[name]
        usage = _usage(name, constructor, self.names)
        signature = inspect.signature(constructor)
        parameters = signature.parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        positional = [self.literal(argument) for argument in node.args]
        keywords: dict[str, object] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                self.fail_at(keyword.value, "** is not allowed here")
            if keyword.arg not in parameters and not takes_any:
                near = did_you_mean(keyword.arg, parameters)
                self.fail_at(keyword, f"{name} has no argument {shown(keyword.arg)}{near}", usage)
            if keyword.arg in keywords:
                self.fail_at(keyword, f"the argument {shown(keyword.arg)} is repeated", usage)
            keywords[keyword.arg] = self.literal(keyword.value)
        try:
            signature.bind(*positional, **keywords)
        except TypeError as e:
            self.fail_at(node, f"{name}: {e}", usage)

        def make() -> T:
            try:
                return constructor(*positional, **keywords)
            except ValueError as e:
                self.fail_at(node, f"{name}: {e}", usage)

        return make

    def literal(self, node: ast.expr) -> object:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.UnaryOp(
                op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as v)
            ) if not isinstance(v, bool):
                return -v if isinstance(sign, ast.USub) else v
            case ast.BinOp(op=ast.Mult(), left=left, right=right) if len(self.source(node)) < 40:
                factors = self.literal(left), self.literal(right)
                if all(is_number(factor, -_LARGEST, _LARGEST) for factor in factors):
                    return factors[0] * factors[1]  # type: ignore[operator]
                self.fail_at(node, f"expected a product of numbers up to {_LARGEST:,}")
            case ast.Tuple(elts=elements):
                return tuple(self.literal(element) for element in elements)
            case ast.List(elts=elements):
                return [self.literal(element) for element in elements]
            case ast.Name() | ast.Attribute():
                name = self.source(node)
                if name in self.names:
                    return self.names[name]
                plain = [known for known in self.names if "." not in known]
                near = did_you_mean(name, plain) or "; a text must be in quotes"
                known = f"known: {', '.join(plain)}" if plain else ""
                self.fail_at(node, f"there is no constant named {name}{near}", known)
        expected = "expected a number, a quoted text, True, False or None"
        self.fail_at(node, f"{expected}, found {self.source(node)}")

    def source(self, node: ast.expr) -> str:
        """The part of the text that a node was read from."""
        start = self.position(node.lineno, node.col_offset)
        source = self.text[start : self.position(node.end_lineno, node.end_col_offset)]
        return source if len(source) <= _SHOWN_AFTER else f"{source[:_SHOWN_AFTER]}…"

    def position(self, line: int | None, byte: int | None) -> int:
        """The index of a character, from the line (always the first) and byte where ast sees it."""
        assert line == 1
        return len(self.text.encode()[:byte].decode())

    def fail_at(self, node: ast.expr | ast.keyword, message: str, hint: str = "") -> NoReturn:
        self.fail(self.position(node.lineno, node.col_offset), message, hint)

    def fail(self, position: int, message: str, hint: str = "") -> NoReturn:
        # A caret can stand just behind the text, where something is missing.
        position = min(position, len(self.text))
        start, end = max(position - _SHOWN_BEFORE, 0), position + _SHOWN_AFTER
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in self.text)
        before = "…" * (start > 0) + text[start:position]
        after = text[position:end] + "…" * (end < len(text))
        lines = [message, f"  {before}{after}", f"  {' ' * len(before)}^"]
        raise UserError("\n".join([*lines, hint] if hint else lines)) from None


def _usage(name: str, constructor: Callable[..., object], names: Mapping[str, object]) -> str:
    """Shows how a call is written: the signature without types, with constants by their names."""
    shown = []
    for p in inspect.signature(constructor).parameters.values():
        shown.append(str(p.replace(annotation=p.empty, default=p.empty)))
        if p.default is not p.empty:
            # By identity: an enumeration's member may equal a plain number.
            constants = (key for key, value in names.items() if value is p.default)
            shown[-1] += f"={next(constants, repr(p.default))}"
    return f"usage: {name}({', '.join(shown)})"
