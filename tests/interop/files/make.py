"""How checkpoint.pth and checkpoint_legacy.pth were made: `python make.py`, with PyTorch 2.13.

A training checkpoint as MAE's code saves it, of made-up numbers, with what stands beside weights.
"""

import argparse
import collections
import datetime
import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent

model = torch.nn.Linear(3, 2)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
with torch.no_grad():
    model.weight.copy_(torch.arange(6.0).reshape(2, 3))
    model.bias.copy_(torch.tensor([0.5, -0.25]))

state = model.state_dict()
base = torch.arange(24.0).reshape(4, 6)
state["transposed"] = base.t()
state["slice"] = base[1:3, 2:5]
state["half"] = torch.tensor([1.5, -2.25]).half()
state["bfloat"] = torch.tensor([1.5, -2.25, 3.0]).bfloat16()
state["double"] = torch.tensor(0.1, dtype=torch.float64)
state["long"] = torch.tensor([1, 2, 3])
state["parameter"] = torch.nn.Parameter(torch.tensor([7.0]))
state["empty"] = torch.zeros(0, 4)

args = argparse.Namespace(
    output_dir=pathlib.Path("somewhere"),
    lr=1e-3,
    betas=(0.9, 0.95),
    device=torch.device("cpu"),
    loss=np.float64(0.5),
    names={"a", "b"},
    lists=collections.defaultdict(list, {"a": [1]}),
    when=datetime.datetime(2024, 1, 1),
    dtype=torch.float16,
    shape=torch.Size([1, 2]),
)
checkpoint = {
    "model": state,
    "optimizer": optimizer.state_dict(),
    "epoch": 7,
    "scaler": {"scale": 65536.0},
    "args": args,
}
torch.save(checkpoint, FOLDER / "checkpoint.pth")
torch.save(checkpoint, FOLDER / "checkpoint_legacy.pth", _use_new_zipfile_serialization=False)
