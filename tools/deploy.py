r"""Takes a study from its simulation to the sites: writes the app that Flower runs there.

    python -m tools.deploy flower --config=configs/pretrain_sites.py --config.data.root=DATA \
        --config.data.holdout_fraction=0 --sites=A,B,C --out=APP
    python -m tools.deploy certificates --sites=A,B,C --out=KEYS

``flower`` writes pyproject.toml, server_app.py, client_app.py and study.json, in which sites stand
in the order of the simulation's clients. Any key can be changed: --config.federation.rounds=50.
``certificates`` makes keys for a trial, on one machine or in one network: see docs/deployment.md.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from ufm_jax.config.command import define_path, start
from ufm_jax.config.pretraining import resolve
from ufm_jax.door import enter, say
from ufm_jax.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Of pretraining.", lock_config=False)
_SITES = flags.DEFINE_list("sites", [], "Names of the sites, in the order of the simulation.")
_HOST = flags.DEFINE_string("host", "localhost", "certificates: name or address of the server.")
_OUT = define_path("out", "A new folder.", required=True)


def main(kind: str) -> int:
    """Writes what was asked for."""
    out: Path = _OUT.value
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out={out} is not empty: name a new folder")
    if kind == "certificates":
        from tools.deploying.certificates import write_certificates  # Needs cryptography.

        write_certificates(out, _SITES.value, _HOST.value)
    else:
        from tools.deploying.app import write_app  # Within the door.

        if _CONFIG.value is None or "start" in _CONFIG.value:
            raise ConfigError("--config: name a configuration of pretraining")
        write_app(out, resolve(_CONFIG.value), tuple(_SITES.value))
    say(f"written to {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
    return 0


def _command() -> Callable[[], int]:
    """The work of the first argument, which is taken off the command line."""
    kind = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""

    if kind not in ("flower", "certificates") and "--help" not in sys.argv:
        sys.exit(enter(_refuse))
    return lambda: main(kind)


def _refuse() -> int:
    raise ConfigError("say `flower` or `certificates` first: python -m tools.deploy flower --...")


if __name__ == "__main__":
    start(_command())
