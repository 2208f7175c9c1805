"""Leaves of a tree by their paths: which parameters are shared, and which stay with a client."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ufm_jax.fed.algorithm import Tree


def split_by_path(tree: Tree, patterns: Sequence[str]) -> tuple[Tree, dict[str, jax.Array]]:
    """Takes the leaves at some paths out of a tree.

    Args:
        tree: Nested dicts.
        patterns: Regular expressions of whole paths, such as 'head/.*' for 'head/kernel'.

    Returns:
        The tree with None in the place of those leaves, and the leaves by path.

    Raises:
        ValueError: If a pattern matches no path.
    """
    leaves = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    taken: dict[str, jax.Array] = {}
    for pattern in patterns:
        found = {path: leaf for path, leaf in leaves.items() if re.fullmatch(pattern, path)}
        if not found:
            known = dict.fromkeys(re.sub(r"_\d+", "_[0-9]+", path) for path in leaves)
            raise ValueError(f"{pattern!r} matches no parameter; there are {', '.join(known)}")
        taken |= found
    rest = jax.tree_util.tree_map_with_path(
        lambda path, leaf: None if _path(path) in taken else leaf, tree
    )
    return rest, taken


def join_by_path(tree: Tree, taken: Mapping[str, jax.Array]) -> Tree:
    """Puts leaves at their paths: in the place of None, or of what is there."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: taken.get(_path(path), leaf), tree, is_leaf=lambda leaf: leaf is None
    )


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
