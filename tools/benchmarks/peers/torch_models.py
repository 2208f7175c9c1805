"""The networks of ``models`` in PyTorch's own layers, for the sides that are written in it.

Parameters are brought to PyTorch's layouts and back. Pictures have channels before rows and
columns, and come so from ``examples``.
"""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn import functional  # type: ignore[import-not-found]

from tools.benchmarks.peers.exchange import Arrays, Task

SIDE, CLASSES = 28, 62
HIDDEN = 256
CHANNELS = (16, 32)
WIDTH, HEADS, WIDENED = 64, 4, 128


class LogReg(nn.Module):
    """Logistic regression."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.out(x)


class Mlp(nn.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(SIDE * SIDE, HIDDEN)
        self.hidden2 = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.hidden1(x))
        x = functional.relu(self.hidden2(x))
        return self.out(x)


class Cnn(nn.Module):
    """Two convolutions and a dense layer."""

    pictures: ClassVar = {"out": (SIDE // 4, SIDE // 4, CHANNELS[1])}

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, CHANNELS[0], 3, padding=1)
        self.conv2 = nn.Conv2d(*CHANNELS, 3, padding=1)
        self.out = nn.Linear((SIDE // 4) ** 2 * CHANNELS[1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.view(-1, 1, SIDE, SIDE)
        x = functional.avg_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.avg_pool2d(functional.relu(self.conv2(x)), 2)
        return self.out(x.flatten(1))


class PflCnn(nn.Module):
    """The simple_cnn of pfl-research's benchmarks."""

    pictures: ClassVar = {"hidden": (14, 14, 64)}

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3)
        self.drop1, self.drop2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.hidden, self.out = nn.Linear(14 * 14 * 64, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        x = self.drop1(functional.max_pool2d(x, 2)).flatten(1)
        return self.out(self.drop2(functional.relu(self.hidden(x))))


class BlazeFlCnn(nn.Module):
    """The CNN of BlazeFL's benchmarks."""

    pictures: ClassVar = {"hidden1": (5, 5, 16)}

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.hidden1, self.hidden2 = nn.Linear(5 * 5 * 16, 120), nn.Linear(120, 84)
        self.out = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.hidden1(x.flatten(1)))
        return self.out(functional.relu(self.hidden2(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, WIDENED), nn.Linear(WIDENED, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """An encoder over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE, WIDTH)
        self.position = nn.Parameter(torch.zeros(SIDE, WIDTH))
        self.block0, self.block1 = Block(), Block()
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.embed(x.view(-1, SIDE, SIDE)) + self.position
        return self.out(self.norm(self.block1(self.block0(tokens))).mean(dim=1))


MODELS: dict[str, type[nn.Module]] = {
    "logreg": LogReg,
    "mlp": Mlp,
    "cnn": Cnn,
    "transformer": Transformer,
    "pfl_cnn": PflCnn,
    "blazefl_cnn": BlazeFlCnn,
}


def make_network(task: Task) -> nn.Module:
    """A task's model with its first parameters, in training mode."""
    # float32 as on the other sides: TF32 is on by default where there are convolutions.
    torch.backends.cudnn.allow_tf32 = False
    network: nn.Module = MODELS[task.model]()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout) and not task.dropout:
            layer.p = 0.0
    import_params(network, task.params)
    return network


def examples(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.int32], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Features and labels as PyTorch wants them."""
    features = torch.from_numpy(x)
    if features.ndim == 4:
        features = features.permute(0, 3, 1, 2)
    return features.contiguous().to(device), torch.from_numpy(y).long().to(device)


def import_params(model: nn.Module, params: Arrays) -> None:
    """Brings parameters as ``federations`` names and lays them out into a model."""
    for name, parameter in model.named_parameters():
        value = torch.from_numpy(params[_our_name(model, name)])
        with torch.no_grad():
            parameter.copy_(_to_torch(model, name, value, parameter.shape))


def export_params(model: nn.Module) -> Arrays:
    """The inverse of ``import_params``."""
    return {
        _our_name(model, name): _from_torch(model, name, parameter.detach().cpu()).numpy()
        for name, parameter in model.named_parameters()
    }


def _our_name(model: nn.Module, name: str) -> str:
    """PyTorch calls the scale of a normalisation a weight."""
    layer, _, kind = name.rpartition(".")
    return (
        f"{layer}.scale"
        if isinstance(_layer(model, name), nn.LayerNorm) and (kind == "weight")
        else name
    )


def _layer(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _to_torch(model: nn.Module, name: str, value: Tensor, shape: torch.Size) -> Tensor:
    if not name.endswith(".weight") or value.ndim == 1:
        return value
    if len(shape) == 4:  # [H W C, out] to [out, C, H, W]
        return value.reshape(*shape[2:], shape[1], shape[0]).permute(3, 2, 0, 1)
    picture = _picture(model, name)
    if picture:  # Inputs by row, column, channel to channel, row, column.
        value = value.reshape(*picture, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return value.T


def _from_torch(model: nn.Module, name: str, value: Tensor) -> Tensor:
    if not name.endswith(".weight") or value.ndim == 1:
        return value
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0).flatten(0, 2)
    picture = _picture(model, name)
    if picture:
        height, width, channels = picture
        return value.T.reshape(channels, height, width, -1).permute(1, 2, 0, 3).flatten(0, 2)
    return value.T


def _picture(model: nn.Module, name: str) -> tuple[int, int, int] | None:
    """Rows, columns and channels of what a layer reads, where that is a flattened picture."""
    pictures: dict[str, tuple[int, int, int]] = getattr(model, "pictures", {})
    return pictures.get(name.removesuffix(".weight"))
