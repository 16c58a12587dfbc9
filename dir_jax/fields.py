"""Values that somebody else wrote, checked against a table: field -> what it may be."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dir_jax.errors import UserError, did_you_mean, shown


class Rule(NamedTuple):
    """What a field may be: as a test, which must not raise, and in words."""

    allows: Callable[[Any], bool]
    expected: str
    required: bool = True


def check_fields(
    where: str, fields: Any, rules: Mapping[str, Rule], *, closed: bool = True
) -> None:
    """Raises UserError, naming the field, its value and what is expected, unless all rules hold.

    `where` says whose fields they are. Others than those of `rules` are refused if `closed`.
    """
    if not isinstance(fields, Mapping):
        raise UserError(f"{where} is {shown(reprlib.repr(fields))}; expected fields with names")
    for name in fields if closed else ():
        if name not in rules:
            raise UserError(f"{where}: {shown(name)} is not a field{did_you_mean(name, rules)}")
    for name, (allows, expected, required) in rules.items():
        if name not in fields and required:
            raise UserError(f"{where}: {name} is missing; expected {expected}")
        if name in fields and not allows(fields[name]):
            value = shown(reprlib.repr(fields[name]))
            raise UserError(f"{where}: {name} is {value}; expected {expected}")


def is_whole(value: object, low: int, high: int) -> bool:
    """Whether it is an integer in [low, high], and not a truth value."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and low <= int(value) <= high  # type: ignore[call-overload]


def is_number(value: object, low: float, below: float = 1e38) -> bool:
    """Whether it is a real number in [low, below), and not a truth value.

    By default it is one that float32 can hold.
    """
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and low <= value < below  # type: ignore[operator]
