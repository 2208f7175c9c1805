"""Pairs our parameters with PyTorch's, and says how the layout of each changes.

The names are those of facebookresearch/mae, which timm's vision transformers share.
"""

from typing import Literal, NamedTuple

Pool = Literal["mean", "class"]


class Rule(NamedTuple):
    """One array under both names; ``kind`` says how its layout changes."""

    torch: str
    path: tuple[str, ...]
    kind: Literal["same", "linear", "patches"]


def encoder_rules(depth: int, final_norm: bool, learned_position: bool = False) -> list[Rule]:
    """Rules of ``models.vit.Encoder``, under ``encoder``."""
    root = ("encoder",)
    return [
        *([Rule("pos_embed", (*root, "pos_embed"), "same")] if learned_position else ()),
        Rule("cls_token", (*root, "cls_token"), "same"),
        Rule("patch_embed.proj.weight", (*root, "patch_embed", "kernel"), "patches"),
        Rule("patch_embed.proj.bias", (*root, "patch_embed", "bias"), "same"),
        *_block_rules("blocks", root, depth),
        *(_norm("norm", (*root, "norm")) if final_norm else ()),
    ]


def mae_rules(depth: int, decoder_depth: int) -> list[Rule]:
    """Rules of ``models.mae.MAE``."""
    root = ("decoder",)
    return [
        *encoder_rules(depth, final_norm=True),
        Rule("mask_token", (*root, "mask_token"), "same"),
        *_linear("decoder_embed", (*root, "embed")),
        *_block_rules("decoder_blocks", root, decoder_depth),
        *_norm("decoder_norm", (*root, "norm")),
        *_linear("decoder_pred", (*root, "predict")),
    ]


def classifier_rules(depth: int, pool: Pool, learned_position: bool) -> list[Rule]:
    """Rules of ``models.classifier.Classifier``."""
    pooled_norm = _norm("fc_norm", ("norm",)) if pool == "mean" else []
    encoder = encoder_rules(depth, pool == "class", learned_position)
    return encoder + pooled_norm + _linear("head", ("head",))


def _block_rules(name: str, root: tuple[str, ...], depth: int) -> list[Rule]:
    rules: list[Rule] = []
    for i in range(depth):
        path = (*root, "blocks", f"block_{i}")
        rules += _norm(f"{name}.{i}.norm1", (*path, "norm1"))
        rules += _linear(f"{name}.{i}.attn.qkv", (*path, "qkv"))
        rules += _linear(f"{name}.{i}.attn.proj", (*path, "proj"))
        rules += _norm(f"{name}.{i}.norm2", (*path, "norm2"))
        rules += _linear(f"{name}.{i}.mlp.fc1", (*path, "fc1"))
        rules += _linear(f"{name}.{i}.mlp.fc2", (*path, "fc2"))
    return rules


def _linear(name: str, path: tuple[str, ...]) -> list[Rule]:
    weight = Rule(f"{name}.weight", (*path, "kernel"), "linear")
    return [weight, Rule(f"{name}.bias", (*path, "bias"), "same")]


def _norm(name: str, path: tuple[str, ...]) -> list[Rule]:
    scale = Rule(f"{name}.weight", (*path, "scale"), "same")
    return [scale, Rule(f"{name}.bias", (*path, "bias"), "same")]
