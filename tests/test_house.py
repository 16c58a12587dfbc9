"""The rules of the house that a machine can check: see CONTRIBUTING.md."""

from __future__ import annotations

import ast
import graphlib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for room in ("dir_jax", "converters") for p in (ROOT / room).rglob("*.py"))
# Rooms from the lowest to the highest: a module imports from its own row and from those above it.
# The programs, which are run and not imported, may use everything.
ROWS = (
    ("errors", "fields"),
    ("losses", "runtime"),
    ("models", "data", "retrieval"),
    ("description", "model_recipe", "array_files"),
    ("checkpoint", "report", "published"),
    ("describe", "evaluation", "evaluators"),
    ("loading", "training"),
    ("search",),
    ("api", "serving"),
)
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports(file: Path, *, at_start: bool = False) -> set[str]:
    """What a file imports, anywhere in it or only as it is imported itself."""
    tree = ast.parse(file.read_text())
    found = set()
    for node in tree.body if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def test_no_circle_of_imports():
    """Imports inside functions count: they only hide a circle."""
    graph = {name: imports(file) & MODULES.keys() - {name} for name, file in MODULES.items()}
    del graph["dir_jax"]  # its names are those of dir_jax.api, on first use
    graphlib.TopologicalSorter({k: v - {"dir_jax"} for k, v in graph.items()}).prepare()


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("dir_jax.")])
def test_imports_point_one_way(name):
    room = name.split(".")[1]
    if room not in LEVEL or name.endswith("__main__"):
        return
    for other in imports(MODULES[name]):
        target = other.split(".")[1] if other.startswith("dir_jax.") else None
        if target in LEVEL and target != room:
            assert LEVEL[target] <= LEVEL[room], f"{name} imports {other}"
        elif other.startswith("dir_jax."):
            assert target == room, f"{name} imports {other}, which is a program's"
        elif other.split(".")[0] == "converters":
            assert name == "dir_jax.loading"


def test_torch_is_imported_in_converters_alone_and_when_it_is_used():
    for name, file in MODULES.items():
        if name.startswith("dir_jax"):
            assert not {m for m in imports(file) if m.split(".")[0] == "torch"}, name


@pytest.mark.parametrize(
    "package", ["jax", "torch", "requests", "jinja2", "matplotlib", "h5py", "faiss", "fastapi"]
)
def test_commands_import_heavy_packages_where_they_are_used(package):
    for name in ("train", "test_dir", "extract_features", "extract_kapture", "index_images",
                 "search_index", "write_pairs", "find_duplicates", "serve"):  # fmt: skip
        start = imports(MODULES[f"dir_jax.{name}"], at_start=True)
        assert package not in {m.split(".")[0] for m in start}


def test_modules_have_names_of_their_own():
    names = Counter(file.stem for file in FILES if not file.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short():
    long = {name: lines for name, file in MODULES.items()
            if (lines := len(file.read_text().splitlines())) > 400}  # fmt: skip
    assert long == {}


def test_nothing_of_a_file_is_run():
    """No eval, exec or pickle.load; recipes, which are code, are run in one place."""
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "__import__")
                if called == "runpy.run_path":
                    assert name == "dir_jax.commands.recipes"
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node)
