"""Shows what leaks: images out of a client's update, or who was trained on.

    python -m tools.audit --config=configs/quickstart.py --out=runs/leak \
        --config.federation.privacy.level=example

attacks one step of pretraining by gradient inversion: the gradient itself, what a client sends
under the configuration, and the sum of all clients, which is all that secure aggregation shows.
Written to --out: inversion.png, the pictures found beside the true ones, and inversion.json.

    python -m ufm_jax.evaluate --run=runs/lesions --out=runs/lesions_seen --splits=train,test
    python -m tools.audit --members=runs/lesions_seen

asks of a fine-tuned model who it was trained on: membership inference by the probability of the
true label (Yeom et al., "Privacy Risk in Machine Learning", CSF 2018), with DeLong's interval over
groups. 0.5 is a coin.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from tools.audits.inversion import Attack, peak_signal
from tools.audits.membership import audit_members
from tools.audits.picture import write_picture
from ufm_jax.cluster.process import configure_jax
from ufm_jax.config.command import define_path, start
from ufm_jax.config.pretraining import PretrainConfig, resolve
from ufm_jax.door import say
from ufm_jax.errors import ConfigError
from ufm_jax.files import private_folder, write_json

_CONFIG = config_flags.DEFINE_config_file("config", None, "Of pretraining.", lock_config=False)
_OUT = define_path("out", "Gets inversion.png and inversion.json.")
_CLIENT = flags.DEFINE_integer("client", 0, "The victim.")
_IMAGES = flags.DEFINE_integer("images", 2, "Images of its batch.")
_CROWD = flags.DEFINE_integer("crowd", 16, "Clients whose sum is attacked too; 0 for none.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Steps of the search.")
_MEMBERS = define_path("members", "Folder with predictions_train.csv and _test.csv.")


def main() -> int:
    """Runs the audit that was asked for."""
    if _MEMBERS.value:
        say(audit_members(_MEMBERS.value))
        return 0
    if _CONFIG.value is None or not _OUT.value:
        raise ConfigError("name --config and --out for gradient inversion, or --members=FOLDER")
    config = resolve(_CONFIG.value)
    configure_jax(config.placement)
    _invert(config, _OUT.value)
    return 0


def _invert(config: PretrainConfig, out: Path) -> None:
    # After the devices are set: these import what may start a backend.
    from tools.audits.leak import Leak, as_sent, attack_message, pictures_of
    from ufm_jax.fed.keys import fold
    from ufm_jax.objectives.reconstruction import init_params
    from ufm_jax.train.pretraining import load_data

    data, key, count = load_data(config), jax.random.key(config.seed), _IMAGES.value
    params = init_params(config.model, fold(key, "init"))
    clients = [_CLIENT.value, *(k for k in range(data.num_clients) if k != _CLIENT.value)]
    try:
        pictures = [
            pictures_of(data, k, count, config.model.image_size)
            for k in clients[: max(_CROWD.value, 1)]
        ]
    except (IndexError, ValueError) as error:
        raise ConfigError(f"--client={_CLIENT.value} --images={count}: {error}") from None
    plain = PretrainConfig(model=config.model)
    attack, key = Attack(_STEPS.value), fold(key, "audit")
    messages = [("gradient itself", plain, pictures[0])]
    if config.federation != plain.federation:
        messages.append(("as configured", config, pictures[0]))
    if len(pictures) > 1:
        messages.append((f"sum of {len(pictures)} clients", plain, np.concatenate(pictures)))
    leaks: list[Leak] = []
    for title, settings, everybodys in messages:
        seen = partial(as_sent, settings, params, fold(key, "noise"))
        found = attack_message(title, config.model, params, everybodys, count, key, attack, seen)
        say(f"{title}: {found.decibels.mean():.1f} dB, cosine {found.cosine:.3f}")
        leaks.append(found)
    private_folder(out)
    report: dict[str, dict[str, Any]] = {
        x.title: {"psnr_db": x.decibels.tolist(), "cosine": x.cosine} for x in leaks
    }
    grey = np.broadcast_to(pictures[0].mean(axis=(1, 2, 3), keepdims=True), pictures[0].shape)
    report["a flat grey, for comparison"] = {"psnr_db": peak_signal(grey, pictures[0]).tolist()}
    write_json(out / "inversion.json", report)
    say(str(write_picture(out, pictures[0], leaks)))


if __name__ == "__main__":
    start(main)
