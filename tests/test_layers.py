"""Imports point downward: which room may import which, and who may use which package."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ufm_jax"
LEVELS = (
    {"errors", "files", "ranges", "randomness", "threads", "door", "bars"},
    {"phantoms", "fed", "ops"},
    {"data", "interop", "models"},
    {"config"},
    {"cluster", "objectives"},
    {"runs"},
    {"evaluation"},
    {"prediction"},
    {"report"},
    {"train"},
    {"finetuning", "deployment"},
    {"pretrain", "finetune", "evaluate", "predict"},
)
"""Rooms and modules at the root, from the bottom up: each may import what stands before it.

Those of one level do not import each other, but for the modules of the bottom.
"""
BELOW = {
    name: set().union(*LEVELS[:place], LEVELS[0])
    for place, names in enumerate(LEVELS)
    for name in names
}
FARTHER_APART = {
    "models": {"ops"},
    "interop": {"ops"},
    "evaluation": {"config", "data", "runs"},
}
"""Rooms that may import less than their level allows, beside the modules of the bottom."""
ONLY_IN = {
    "flax": {"models"},
    "orbax": {"runs"},
    "tensorflow": set(),
    "torch": set(),
    "safetensors": {"interop"},
    "flwr": {"deployment"},
}
"""Third-party packages that only some rooms may import."""
NEVER_IN = {
    "data": {"jax", "flax", "optax", "orbax"},
    "phantoms": {"jax", "flax", "optax", "orbax"},
    "evaluation": {"jax", "flax", "optax", "orbax", "PIL"},
    "interop": {"torch", "tensorflow"},
}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def _imports(path, run=False):
    """Full names of the modules that a file imports, wherever in it; only when run, or all."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if run:
        tree.body = [node for node in tree.body if not _for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            inner = [name for name in names if name in MODULES]
            yield from inner or [node.module]


def _for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("module", [name for name in MODULES if name != PACKAGE.name])
def test_imports_point_downward(module):
    room = module.split(".")[1]
    below = FARTHER_APART.get(room, BELOW[room]) | {room} | LEVELS[0]
    for name in _imports(MODULES[module]):
        root, *rest = name.split(".")
        if root == PACKAGE.name:
            assert rest[0] in below, f"{module} imports {name}"
        if root in ONLY_IN:
            assert room in ONLY_IN[root], f"{module} imports {name}"
        assert root not in NEVER_IN.get(room, ()), f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    imported = {name: set(_imports(path, run=True)) for name, path in MODULES.items()}
    inner = {name: found & MODULES.keys() - {name} for name, found in imported.items()}
    graphlib.TopologicalSorter(inner).prepare()


@pytest.mark.parametrize(
    ("package", "file"), [("orbax", "runs/checkpoint.py"), ("csv", "data/csv_files.py")]
)
def test_one_file_alone_imports_it(package, file):
    folders = PACKAGE, PACKAGE.parent / "tools"
    users = {
        path.relative_to(PACKAGE.parent).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if any(name.split(".")[0] == package for name in _imports(path))
    }
    assert users == {f"{PACKAGE.name}/{file}"}
