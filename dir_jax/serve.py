"""Serves an index as a page on which pictures are searched for: `dir-jax serve my.index`.

Prints the address of the page; Ctrl-C ends it. The address with /docs is that of the JSON API.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import asyncio
import logging
import socket
import sys

from dir_jax.commands.flags import add_index_flags, open_index
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError, shown


def main(prog: str | None = None) -> int:
    """Serves as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.serve", __doc__)
    add = parser.add_argument
    add("index", metavar="INDEX", help="a folder that `dir-jax index` has made")
    add(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="the address to listen on; 0.0.0.0 lets other machines ask (default: 127.0.0.1)",
    )
    add(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="the port; 0 takes a free one (default: 8000)",
    )
    add(
        "--allow-origin",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="other sites whose pages may ask, such as https://example.org",
    )
    add(
        "--max-megabytes",
        type=float,
        default=20,
        metavar="N",
        help="the largest file that may be sent (default: 20)",
    )
    add(
        "--max-megapixels",
        type=float,
        default=20,
        metavar="N",
        help="the largest picture that may be sent (default: 20)",
    )
    add("--queue", type=int, default=64, metavar="N",
        help="how many searches may wait before others are refused (default: 64)")  # fmt: skip
    add_index_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    try:
        import uvicorn

        from dir_jax.serving.app import create_app
        from dir_jax.serving.guard import check_origin
        from dir_jax.serving.searching import Searcher
        from dir_jax.serving.service import Limits, Service
    except ImportError as e:
        raise UserError(f"serving needs the package {e.name}, which is not installed: "
                        "pip install 'dir_jax[serve]'") from e  # fmt: skip

    for flag in ("max_megabytes", "max_megapixels", "queue"):
        if not 0 < (value := getattr(args, flag)) < 1e6:
            name = flag.replace("_", "-")
            raise UserError(f"--{name} is {value:g}; expected a number above 0, below 1,000,000")
    limits = Limits(int(args.max_megabytes * 1e6), int(args.max_megapixels * 1e6), args.queue)
    origins = [check_origin(origin) for origin in args.allow_origin]
    with _bound(args.host, args.port) as listening:
        index = open_index(args, args.index)
        searcher = Searcher(index)
        searcher.warm_up()
        service = Service(searcher, limits, processes=args.threads)
        try:
            app = create_app(service, host=args.host, origins=origins)
            config = uvicorn.Config(app, log_level="warning", server_header=False,
                                    lifespan="off", timeout_graceful_shutdown=5)  # fmt: skip
            logging.getLogger("uvicorn.error").addFilter(_is_news)
            host = f"[{args.host}]" if ":" in args.host else args.host
            listening.listen(128)
            address = f"http://{host}:{listening.getsockname()[1]}"
            print(f"{len(index):,} images, {index.recipe}")
            print(f"serving on {address} (Ctrl-C ends it)", flush=True)
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            service.close()


def _is_news(record: logging.LogRecord) -> bool:
    """False of requests that are cancelled, as by Ctrl-C while they are answered."""
    error = record.exc_info[1] if record.exc_info else None
    cancels = isinstance(error, asyncio.CancelledError)
    return not cancels and "timeout graceful shutdown" not in str(record.msg)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, but takes nothing yet; raises UserError where it is not free."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port is {port}; expected a number below 65,536")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, UnicodeError) as e:
        why = getattr(e, "strerror", None) or e
        raise UserError(f"cannot listen on {shown(host)}, port {port}: {why}; give another --host "
                        "or --port, or --port 0 for a free one") from e  # fmt: skip
    return listening


if __name__ == "__main__":
    sys.exit(main())
