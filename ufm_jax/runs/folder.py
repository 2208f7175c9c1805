"""The run's folder: what is written at the start, and refused when it does not match.

A run's configuration and data decide its figures, and the folder keeps both. Going on with others
is an error that names the difference, since no configuration would explain the figures.
"""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import jax

from ufm_jax.cluster import hosts
from ufm_jax.cluster.witness import CHECKPOINTS, UNFINISHED
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.schema import current_key, flatten
from ufm_jax.data.federated import FederatedData
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import ConfigError
from ufm_jax.fed.placement import Placement
from ufm_jax.files import private_folder, read_json, user_path, write_json
from ufm_jax.interop.shipped import weights_path

CONFIG_FILE = "config.json"
TASK_FILE = "task.json"
EVALUATION_FILE = "evaluation.json"
_RESULTS = (TASK_FILE, EVALUATION_FILE)
"""Files of a finished run of fine-tuning, which a probe has too, though it has no checkpoints."""
_FREE = ("config.checkpoint.", "config.cluster.", "config.tracking")
_FREE_EXACT = frozenset(
    {
        *("config.placement.loader_threads", "config.placement.memory_fraction"),
        "config.placement.chunk_steps",
        *("config.data.cache_dir", "config.data.num_workers"),
    }
)
_ROOT = "config.data.root"
_FILES = {
    "config.federation.participation.trace": user_path,
    "config.start.weights": weights_path,
}
"""Keys that name a file or a folder, and where what they name is."""


def check_same_run(config: PretrainConfig, data: FederatedData) -> None:
    """Checks that all processes of a run read the same configuration and data.

    Raises:
        ConfigError: Naming the process and what differs.
    """
    settings = _settings(config).items()
    facts = {key: value for key, value in settings if not _is_free(key, data.fingerprint)}
    for what, mine in (("configuration", facts), ("data", [data.names, data.fingerprint])):
        other = hosts.first_to_differ(json.dumps(mine, sort_keys=True))
        if other is not None:
            raise ConfigError(
                f"process {other} has another {what} than process 0: start all processes with the "
                "same command, and let all read the same files"
            )


def claim(workdir: Path, config: Any, data: FederatedData, placement: Placement) -> None:
    """Makes ``workdir`` the folder of this run, or checks that it is.

    Every process of a run calls this; the first writes.

    Args:
        workdir: The folder, which need not exist.
        config: The run's configuration, a dataclass.
        data: The run's data.
        placement: The devices and lanes of the run.

    Raises:
        ConfigError: If the folder has checkpoints or results of another configuration, data or
            placement, or is not one folder for all processes.
    """
    with hosts.together(f"opening {workdir}"):
        if hosts.is_first():
            _claim(workdir, config, data, placement)
    _check_shared(workdir)


def _check_shared(workdir: Path) -> None:
    """Checks that all processes see the folder of the first."""
    if jax.process_count() == 1:
        return
    number = hosts.from_first(secrets.randbits(30))
    # A new name, which no host can have remembered as absent.
    mark = workdir / f".shared-{number}"
    if hosts.is_first():
        mark.touch()
    hosts.from_first(0)
    with hosts.together(f"looking for {workdir}"):
        if not mark.exists():
            raise ConfigError(
                f"--workdir={workdir}: this host does not see the folder of process 0; use one on "
                "a file system that all hosts share"
            )
    if hosts.is_first():
        mark.unlink()


def _claim(workdir: Path, config: Any, data: FederatedData, placement: Placement) -> None:
    facts = _facts(config, data, placement)
    path = workdir / CONFIG_FILE
    if has_checkpoint(workdir) or any((workdir / name).exists() for name in _RESULTS):
        before = _facts_of(path)
        changed = [
            f"{key}: {before.get(key)!r} there, {facts.get(key)!r} here"
            for key in sorted(before.keys() | facts.keys())
            if before.get(key) != facts.get(key)
            and not _is_free(key, before.get("data.fingerprint"))
        ]
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another configuration ({'; '.join(changed)}); use "
                "another --workdir, or go on with the same configuration"
            )
    private_folder(workdir)
    write_json(path, facts)
    clients = [vars(client) for client in data.summary()]
    facts = {"clients": clients, "issues": data.issues.to_json()}
    if data.held_out is not None:
        facts["held_out"] = data.held_out.images
    write_json(workdir / "data.json", facts)


def _facts_of(path: Path) -> dict[str, Any]:
    """The configuration of the run that a folder holds."""
    return stored_config(
        path, f"put it back as it was, or name another --workdir than {path.parent}"
    )


def stored_config(path: Path, remedy: str) -> dict[str, Any]:
    """Reads the configuration that a run of this version or an older one keeps, by full keys.

    Args:
        path: The run's ``config.json``.
        remedy: What to do if it is damaged.

    Raises:
        RunError: If it cannot be read.
    """
    facts: dict[str, Any] = read_json(path, remedy, dict)
    return {current_key(key): value for key, value in facts.items()}


def check_resume(workdir: Path, resume: bool) -> None:
    """Refuses a folder that holds a run, unless ``resume`` says to go on with it.

    Raises:
        ConfigError: Naming the folder.
    """
    if not resume and has_checkpoint(workdir):
        raise ConfigError(f"--noresume, but {workdir} holds a run; choose another --workdir")


def check_outside(workdir: Path, data: DataSettings) -> None:
    """Refuses a run's folder among folders of images, since its pictures would be learnt from.

    Raises:
        ConfigError: Naming both.
    """
    root = user_path(data.root).resolve()
    if data.source == "folders" and workdir.resolve().is_relative_to(root):
        raise ConfigError(
            f"--workdir={workdir} lies within data.root={data.root}, whose folders are all read as "
            "images: name another --workdir"
        )


def check_free(out: Path) -> None:
    """Refuses to write something else into the folder of a run.

    Raises:
        ConfigError: Naming the folder.
    """
    if (out / CONFIG_FILE).exists() or has_checkpoint(out):
        raise ConfigError(f"--out={out} is the folder of a run: name another")


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any(any((workdir / name).glob("[0-9]*")) for name in (CHECKPOINTS, UNFINISHED))


def lanes_begun_with(workdir: Path) -> int | None:
    """The lanes that the run in ``workdir`` needs to go on bit for bit; None without a run."""
    if not has_checkpoint(workdir):
        return None
    return _facts_of(workdir / CONFIG_FILE).get("config.placement.lanes")


def _is_free(key: str, fingerprint: str | None) -> bool:
    """Whether a run may go on with another value of a setting, on which no figure depends.

    The fingerprint tells data apart wherever they lie, and a file's content is another setting.
    """
    anywhere = (*_FILES, _ROOT) if fingerprint else _FILES
    return key.startswith(_FREE) or key in _FREE_EXACT or key in anywhere


def _settings(config: Any) -> dict[str, Any]:
    """The configuration, and what is in the files that it names."""
    facts = flatten(config)
    named = [key for key in _FILES if facts.get(key)]
    return facts | {f"{key} (content)": _content(key, facts[key]) for key in named}


def _content(key: str, value: str) -> str:
    """A digest of a file, or of the files below a folder."""
    place = _FILES[key](value)
    exported = place / "model"  # A run's folder goes on changing; its model does not.
    folder = exported if exported.is_dir() else place
    files = sorted(file for file in folder.rglob("*") if file.is_file()) or [place]
    found = hashlib.sha256()
    try:
        for file in files:
            found.update(f"{file.relative_to(folder)} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: found)
    except OSError as error:
        raise ConfigError(
            f"{key}={value!r}: it cannot be read ({error.strerror}); check the path"
        ) from None
    return found.hexdigest()


def _facts(config: Any, data: FederatedData, placement: Placement) -> dict[str, Any]:
    facts = _settings(config) | {
        "data.clients": list(data.names),
        "data.offsets": data.offsets.tolist(),
        "data.fingerprint": data.fingerprint,
        "placement.devices": placement.num_devices,
        "placement.kind": placement.mesh.devices.flat[0].device_kind,
    }
    if jax.process_count() > 1:
        # Sums over processes are taken in another order: equal to rounding, not to the bit.
        facts["placement.processes"] = jax.process_count()
    return json.loads(json.dumps(facts))
