"""Splits a tree by its leaves' paths into shared parameters and those that stay with a client."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ufm_jax.fed.algorithm import Tree


def split_by_path(tree: Tree, patterns: Sequence[str]) -> tuple[Tree, dict[str, jax.Array]]:
    """Splits a tree into the leaves whose paths match a pattern, and the rest.

    Args:
        tree: Nested dicts.
        patterns: Regular expressions of whole paths; 'head/.*' matches 'head/kernel'.

    Returns:
        The tree with None in the place of the matching leaves, and those leaves by path.

    Raises:
        ValueError: If a pattern matches no path.
    """
    leaves = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    matching: dict[str, jax.Array] = {}
    for pattern in patterns:
        new = {path: leaf for path, leaf in leaves.items() if re.fullmatch(pattern, path)}
        if not new:
            known = dict.fromkeys(re.sub(r"_\d+", "_[0-9]+", path) for path in leaves)
            raise ValueError(f"{pattern!r} matches no parameter; there are {', '.join(known)}")
        matching |= new
    rest = jax.tree_util.tree_map_with_path(
        lambda path, leaf: None if _path(path) in matching else leaf, tree
    )
    return rest, matching


def join_by_path(tree: Tree, leaves: Mapping[str, jax.Array]) -> Tree:
    """The tree with ``leaves`` at their paths, in place of None or of other leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(_path(path), leaf), tree, is_leaf=lambda leaf: leaf is None
    )


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
