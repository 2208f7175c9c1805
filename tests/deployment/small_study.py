"""A study of three sites with small images, and its simulation."""

import shutil
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ufm_jax.config.pretraining import pretrain_config, resolve
from ufm_jax.deployment.study import Study
from ufm_jax.train.pretraining import pretrain

SITES = {"A": 7, "B": 4, "C": 4}
"""Images of each site."""

KEYS = {
    "data.source": "folders",
    "data.working_size": 24,
    "data.holdout_fraction": 0.0,
    "model.size": "xs",
    "model.image_size": 16,
    "model.patch_size": 8,
    "model.scan_layers": True,
    "model.channels": 1,
    "model.decoder_depth": 1,
    "model.decoder_width": 32,
    "model.decoder_heads": 2,
    "augment.degrade": 0.0,
    "augment.scan_conversion": 0.0,
    "federation.rounds": 3,
    "federation.batch_size": 4,
    "client_optimizer.learning_rate": 1e-3,
    "client_optimizer.scale_by_batch": False,
    "schedule.warmup_rounds": 1,
    "placement.devices": 1,
    "placement.lanes": 1,
}
FEDADAM = {
    "server_optimizer.name": "fedadam",
    "server_optimizer.learning_rate": 0.01,
    "server_optimizer.betas": (0.9, 0.99),
    "server_optimizer.eps": 1e-3,
    "server_optimizer.weight_decay": 0.0,
    "schedule.side": "server",
}
SCAFFOLD = {
    "federation.algorithm.name": "scaffold",
    "federation.client_state": "reset",
    "client_optimizer.name": "sgd",
    "client_optimizer.betas": (0.0, 0.0),
    "client_optimizer.weight_decay": 0.0,
}
SGD = {"server_optimizer.name": "sgd", "server_optimizer.learning_rate": 1.0}
SGD |= {"server_optimizer.betas": (0.0, 0.0), "server_optimizer.weight_decay": 0.0}


def write_images(root: Path):
    """A folder for each site below ``root``, in which its client has the site's name."""
    random = np.random.default_rng(0)
    for site, count in SITES.items():
        folder = root / site / site
        folder.mkdir(parents=True)
        for n in range(count):
            pixels = random.integers(0, 255, (24, 24), np.uint8)
            Image.fromarray(pixels).save(folder / f"{n}.png")
        shutil.copytree(folder, root / "together" / site)


def configured(root: Path, keys) -> ConfigDict:
    config = pretrain_config()
    config.update_from_flattened_dict(KEYS | keys)
    config.data.root = str(root / "together")
    config.data.cache_dir = str(root / "cache")
    return config


def simulated(root: Path, workdir: Path, keys):
    """The parameters of the simulation."""
    ended = pretrain(resolve(configured(root, keys)), workdir)
    return jax.device_get(ended.state.server.params)


def study_of(root: Path, keys) -> Study:
    return Study(resolve(configured(root, keys)), tuple(SITES))


def relative_error(found, known) -> float:
    """Euclidean distance of two models over the length of the second."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(known), strict=True)
    squares = [(np.sum((a - b) ** 2, dtype=float), np.sum(b**2, dtype=float)) for a, b in pairs]
    return float(np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares)))
