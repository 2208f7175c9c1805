"""Imports point downward: mains > train > fed, models, interop, evaluation > ops, data > errors."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ufm_jax"
BOTTOM = ("errors", "files", "ranges")
"""Modules at the root that everybody may import, and that import no room of it."""
MAY_IMPORT = {
    "bottom": set(),
    "": {"train", "fed", "models", "ops", "data", "interop", "evaluation"},
    "train": {"train", "fed", "models", "ops", "data", "interop", "evaluation"},
    "fed": {"fed"},
    "models": {"models", "ops"},
    "ops": {"ops"},
    "data": {"data"},
    "interop": {"interop", "ops"},
    "evaluation": {"evaluation", "data.cells", "data.csv_files", "data.randomness"},
}
ONLY_IN = {
    "flax": {"models"},
    "orbax": {"train"},
    "tensorflow": set(),
    "torch": set(),
    "safetensors": {"interop"},
}
"""Third-party packages that only some layers may import."""
NEVER_IN = {
    "data": {"jax", "flax", "optax", "orbax"},
    "evaluation": {"jax", "flax", "optax", "orbax", "PIL"},
    "interop": {"torch", "tensorflow"},
}


def _imports(path):
    """Full names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(path):
    parts = path.relative_to(PACKAGE).parts
    if path.stem in BOTTOM and len(parts) == 1:
        return "bottom"
    return parts[0] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_point_downward(path):
    layer = _layer(path)
    for name in _imports(path):
        root, *rest = name.split(".")
        if root == "ufm_jax" and rest and (PACKAGE / rest[0]).is_dir():
            allowed = MAY_IMPORT[layer] & {rest[0], ".".join(rest[:2])}
            assert allowed, f"{path}: {layer or 'a main'} imports {name}"
        if root in ONLY_IN:
            assert layer in ONLY_IN[root], f"{path}: {layer} imports {name}"
        assert root not in NEVER_IN.get(layer, ()), f"{path}: {layer} imports {name}"


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
