"""The engines by name: what finds the nearest descriptors of an index.

An engine is asked for by a text, `KIND` or `KIND:ARGUMENT`.
"""

from __future__ import annotations

from dir_jax.errors import UserError, did_you_mean, quoted
from dir_jax.search.exact import Engine, Exact
from dir_jax.search.faiss_engine import Faiss
from dir_jax.search.milvus_engine import Milvus
from dir_jax.search.store import Contents

ENGINES: dict[str, type[Engine]] = {"exact": Exact, "faiss": Faiss, "milvus": Milvus}
"""Kind -> the engine."""


def check_engine(text: str) -> tuple[type[Engine], str]:
    """The kind and the argument of an engine's text.

    Raises:
      UserError: there is no such kind, or it has no argument where one is expected.
    """
    kind, _, argument = text.partition(":")
    if kind not in ENGINES or bool(argument) != bool(ENGINES[kind].form):
        if kind in ENGINES and ENGINES[kind].form:
            raise UserError(f"the engine {quoted(text)} is not whole; "
                            f"expected {kind}:{ENGINES[kind].form}")  # fmt: skip
        forms = ", ".join(f"{name}:{e.form}".rstrip(":") for name, e in ENGINES.items())
        raise UserError(f"there is no engine {quoted(text)}{did_you_mean(kind, ENGINES)}; "
                        f"expected one of {forms}")  # fmt: skip
    return ENGINES[kind], argument


def engine_of(contents: Contents) -> Engine:
    """The engine that index.json speaks of, not opened yet. Raises UserError for no such engine."""
    about = contents.about["engine"]
    try:
        kind, argument = check_engine(str(about.get("name")))
    except UserError as e:
        raise UserError(f"{contents.folder}: {e}") from e
    settings = {name: value for name, value in about.items() if name != "name"}
    return kind(argument, contents, settings)
