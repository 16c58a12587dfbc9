"""Models on the Hugging Face hub: `hf://USER/NAME`, or `hf://USER/NAME@REVISION`.

huggingface_hub keeps what it fetches in its own cache, and resumes; `$HF_ENDPOINT`, `$HF_TOKEN` and
`$HF_HUB_OFFLINE` mean what they mean to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dir_jax.errors import UserError, quoted, shown

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,200}))?")


def fetch_from_hub(address: str, files: Sequence[str]) -> Path:
    """The folder of a model's files, those of `files` that it has; fetched where they have changed.

    Raises:
      UserError: the address is not one, there is no such model, or the hub does not give it.
    """
    name, revision = _parse(address)
    return Path(
        _asked(address, "snapshot_download", name, revision=revision, allow_patterns=list(files))
    )


def send_to_hub(folder: Path, address: str) -> str:
    """Uploads a folder as a model, which is made if need be; returns the address of its page.

    Raises:
      UserError: the address is not one, or the hub does not take it.
    """
    name, revision = _parse(address)
    _asked(address, "create_repo", name, exist_ok=True)
    what = "Published by dir_jax"
    options = {"folder_path": folder, "commit_message": what, "revision": revision}
    return str(_asked(address, "upload_folder", repo_id=name, **options).commit_url)


def check_address(address: str) -> None:
    """Raises UserError unless an address is one of a model on the hub."""
    _parse(address)


def _parse(address: str) -> tuple[str, str | None]:
    if not (match := _ADDRESS.fullmatch(address)):
        raise UserError(f"{quoted(address)} is not a model on the hub; expected hf://USER/NAME")
    return match[1], match[2]


def _asked(address: str, what: str, *arguments: Any, **options: Any) -> Any:
    """Calls a function of huggingface_hub; whatever it raises is a UserError."""
    try:
        import huggingface_hub
    except ImportError as e:
        raise UserError(
            f"{address} needs huggingface_hub, which cannot be imported ({e}); "
            "pip install 'dir_jax[hub]'"
        ) from e
    function: Callable[..., Any] = getattr(huggingface_hub, what)
    try:
        return function(*arguments, **options)
    except Exception as e:  # of the hub, of its HTTP library, and of the disk
        why = " ".join(str(e).split()) or type(e).__name__
        status = getattr(getattr(e, "response", None), "status_code", None)
        hint = "; log in with `hf auth login`" if status in (401, 403) else ""
        raise UserError(f"{address} cannot be used: {shown(why)}{hint}") from e
