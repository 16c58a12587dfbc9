"""The engine `milvus:URI`."""

from __future__ import annotations

import logging
import os
from typing import Any, ClassVar

import numpy as np

from dir_jax.fields import Rule
from dir_jax.runtime.progress import progress_bar
from dir_jax.search.exact import (
    ADDED,
    TRIED,
    Adopt,
    Approximate,
    Engine,
    import_package,
    reason,
)

_HITS = 1 << 18  # results asked for at once


class Milvus(Approximate):
    """A collection in a Milvus: a file of Milvus Lite, or the address of a server or a cluster."""

    form = "URI"
    rules: ClassVar = {
        "uri": Rule(lambda v: isinstance(v, str), "an address or a path"),
        "collection": Rule(
            lambda v: isinstance(v, str) and v.isidentifier(), "a collection's name"
        ),
        **Approximate.rules,
        # An earlier version did not keep it.
        "candidates": Approximate.rules["candidates"]._replace(required=False),
    }
    _most = 16384  # results that Milvus gives
    _client: Any = None

    def open(self) -> None:
        self._connect()
        self._ask("load_collection")
        self._count_others(len(self.contents))

    def build(self, previous: Engine | None, file: Adopt) -> None:
        old = np.empty(0, np.int64)
        if isinstance(previous, Milvus) and previous.argument == self.argument:
            self.settings, old = dict(previous.settings), previous.contents.ids
            self._connect()
            self._delete_others(old)
        else:
            uri = self.argument
            uri = uri if "://" in uri else os.path.abspath(uri)
            name = f"dir_jax_{os.urandom(8).hex()}"
            self.settings = {"uri": uri, "collection": name, "candidates": 1}
            self._connect()
            self._create()
        new = np.flatnonzero(~np.isin(self.contents.ids, old))
        step = max(1, ADDED // self.contents.descriptors[0].nbytes)
        try:
            with progress_bar("add", len(new), "img", shown=True, delay=1) as bar:
                for start in range(0, len(new), step):
                    self._ask("insert", data=self._rows(new[start : start + step]))
                    bar.update(len(new[start : start + step]))
            self._ask("flush")
        except BaseException:
            if not len(old):
                self.drop()
            raise
        self._ask("load_collection")
        if not len(old) and len(self.contents) > 1:
            tried = np.sort(np.random.default_rng(0).permutation(len(self.contents))[:TRIED])
            self.tune(tried)

    def committed(self) -> None:
        self._delete_others(self.contents.ids)

    def drop(self) -> None:
        self._connect()
        self._ask("drop_collection")

    def candidates(self, queries: np.ndarray, count: int) -> np.ndarray:
        ids = np.full((len(queries), count), -1, np.int64)
        step = max(1, _HITS // count)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            found = self._ask("search", data=list(queries[part]), anns_field="descriptor",
                              limit=count, search_params={"metric_type": "IP"})  # fmt: skip
            for row, hits in zip(ids[part], found, strict=True):
                row[: len(hits)] = [hit["id"] for hit in hits]
        known = self.contents.ids
        rows = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[rows] == ids, rows, -1)

    def _count(self, k: int) -> int:
        return min(super()._count(k), self._most)

    def _rows(self, rows: np.ndarray) -> list[dict[str, Any]]:
        c = self.contents
        return [{"id": int(c.images[i, 0]), "name": c.names[i], "bytes": int(c.images[i, 1]),
                 "modified": int(c.images[i, 2]), "descriptor": c.descriptors[i]}
                for i in rows.tolist()]  # fmt: skip

    def _create(self) -> None:
        types = import_package("pymilvus", str(self), "milvus").DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field("name", types.VARCHAR, max_length=4096)
        schema.add_field("bytes", types.INT64)
        schema.add_field("modified", types.INT64)
        schema.add_field("descriptor", types.FLOAT_VECTOR, dim=self.contents.descriptors.shape[1])
        params = self._client.prepare_index_params()
        params.add_index("descriptor", index_type="AUTOINDEX", metric_type="IP")
        self._ask("create_collection", schema=schema, index_params=params,
                  consistency_level="Strong")  # fmt: skip

    def _delete_others(self, ids: np.ndarray) -> None:
        """Deletes what is not of the index: what was removed, and what a killed change has left."""
        if not self._count_others(len(ids)):
            return
        found = self._ask("query_iterator", batch_size=self._most, filter="", output_fields=["id"])
        others: list[int] = []
        while rows := found.next():
            there = np.array([row["id"] for row in rows], np.int64)
            others += there[~np.isin(there, ids)].tolist()
        found.close()
        for start in range(0, len(others), self._most):
            self._ask("delete", ids=others[start : start + self._most])

    def _count_others(self, own: int) -> int:
        """How many there are besides those of an index; raises UserError where some of it lack."""
        there = self._ask("query", filter="", output_fields=["count(*)"])[0]["count(*)"]
        if there < own:
            raise self.error(f"holds {there} of the {own} images; build the index again")
        return there - own

    def _connect(self) -> None:
        client = import_package("pymilvus", str(self), "milvus").MilvusClient
        for name in (
            "pymilvus",
            "grpc._server",
        ):  # Milvus Lite's own server reports with tracebacks
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self._client is None:
            try:
                self._client = client(
                    self.settings["uri"], token=os.environ.get("MILVUS_TOKEN", ""), timeout=30
                )
            except Exception as e:
                raise self.error(f"cannot be reached: {reason(e)}") from e

    def _ask(self, method: str, **arguments: Any) -> Any:
        """Calls a method of the client about the collection; its many errors become one line."""
        try:
            return getattr(self._client, method)(self.settings["collection"], **arguments)
        except Exception as e:
            raise self.error(f"failed to {method.replace('_', ' ')}: {reason(e)}") from e
