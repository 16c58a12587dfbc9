"""The command `python -m experiments.synthetic_landmarks`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any, NoReturn

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # while the rest is imported

from .contact_sheet import save_contact_sheet
from .errors import DrawingError
from .writing import write_synthetic_landmarks


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises DrawingError, so that a mistake in the flags is one line like all others."""
        raise DrawingError(f"{message} (--help lists the flags)")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=f"python -m {__package__}",
        description="Draws a retrieval data set of synthetic landmarks: images, labelled lists and "
        "ground truth. If the folder holds the set already, it does nothing.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="folder to write")
    for name, default, meaning in (
        ("--train-landmarks", 60, "number of landmarks to train on"),
        ("--test-landmarks", 20, "number of other landmarks to test on"),
        ("--views", 20, "pictures of each training landmark"),
        ("--test-views", 15, "pictures of each test landmark"),
        ("--image-size", 128, "longer side of a picture in pixels"),
        ("--seed", 0, "seed of everything random"),
        ("--distractors", 0, "pictures of as many further landmarks, in distractors.txt"),
    ):
        add(name, type=int, default=default, metavar="N", help=f"{meaning} (default: {default})")
    add("--workers", type=int, metavar="N", help="number of processes (default: one per CPU)")
    add("--contact-sheet", metavar="FILE", help="also draw an overview, such as overview.png")
    return parser.parse_args([_dashes(argument) for argument in arguments])


def _interrupt(*_: Any) -> NoReturn:
    """Raises KeyboardInterrupt, once: the files must be cleared away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _dashes(argument: str) -> str:
    """A flag spelled with dashes, which may have been spelled with underscores."""
    name, equals, value = argument.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with `arguments`, by default the process's own. Returns its exit code."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before if before is signal.SIG_IGN else _interrupt)
    try:
        args = _parse(sys.argv[1:] if arguments is None else arguments)
        drawn = write_synthetic_landmarks(
            args.output,
            train_landmarks=args.train_landmarks,
            test_landmarks=args.test_landmarks,
            views=args.views,
            test_views=args.test_views,
            image_size=args.image_size,
            seed=args.seed,
            distractors=args.distractors,
            workers=args.workers,
        )
        if args.contact_sheet:
            save_contact_sheet(args.output, args.contact_sheet)
    except DrawingError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, before)
    if drawn:
        lists = (
            "train.txt, test.txt, distractors.txt" if args.distractors else "train.txt, test.txt"
        )
        print(f"{args.output} holds images/, {lists} and gnd_synthetic.pkl")
    else:
        print(f"{args.output} holds this data set already; there was nothing to draw")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
