"""Converts a PyTorch checkpoint: `python -m converters.from_torch --checkpoint FILE --output DIR`.

FILE is a checkpoint of Deep Image Retrieval as published (.pt, or the .zip it comes in), ImageNet
weights of torchvision, or a GeM network of CNN Image Retrieval in PyTorch. DIR can then be given to
every command of dir_jax. Nothing in FILE is run, whatever it contains.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import argparse
import sys
from pathlib import Path

from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError


def main(prog: str | None = None) -> int:
    """Converts as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("converters.from_torch", __doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="the file of PyTorch")
    add("--output", required=True, metavar="DIR", help="where the converted checkpoint goes")
    add("--overwrite", action="store_true", help="replace DIR")
    add("--verify", action="store_true",
        help="also run the network in PyTorch on images of several sizes, and compare")  # fmt: skip
    add = parser.add_argument_group("what the file does not state").add_argument
    add("--arch", help="such as resnet101_rmac")
    add("--out-dim", type=int, metavar="D", help="length of the descriptor")
    add("--pooling", help="gem, max or avg")
    add("--gemp", type=float, metavar="P", help="the power of GeM, where the file has none")
    add("--norm-features", action="store_true", default=None, help="L2 after pooling")
    add("--center-bias", type=float, metavar="B", help="weight of the image's centre")
    add("--dropout-p", type=float, metavar="P", help="share of features dropped in training")
    add("--without-fc", action="store_true", default=None, help="no projection")
    return parser


def _main(args: argparse.Namespace) -> None:
    if Path(args.output).exists() and not args.overwrite:
        raise UserError(f"--output {args.output} exists; choose another, or add --overwrite")
    from converters.conversion import convert
    from dir_jax.runtime.folders import check_replaceable

    check_replaceable(Path(args.output), "model/model.json", "a model")
    files = ("checkpoint", "output", "overwrite", "verify")
    options = {name: value for name, value in vars(args).items() if name not in files}
    converted = convert(args.checkpoint, **options)
    print(converted.table())
    for warning in converted.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.verify:
        from converters.verification import verify

        print(verify(converted))
    converted.save(args.output, overwrite=args.overwrite)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    sys.exit(main())
