"""The end of a run: pictures and the report."""

from datetime import date
from pathlib import Path

import jax

from ufm_jax.cluster import hosts
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.schema import to_config_dict
from ufm_jax.fed.algorithm import Params
from ufm_jax.objectives.pictures import make_pictures
from ufm_jax.report.page import render, write_page
from ufm_jax.report.reconstruction_png import write_reconstruction_png
from ufm_jax.report.run_info import RunInfo, versions
from ufm_jax.runs.history import read_history
from ufm_jax.train.run import Ended, stopped_line

_BORROWED = (
    "In the reconstructions, brightness and contrast of each patch are those of the original: the "
    "model is trained to predict pixels without them."
)


def report_end(
    config: PretrainConfig, workdir: Path, run: Ended, compile_seconds: float
) -> list[str]:
    """Writes the report in the first process, and says how the run ended.

    Args:
        config: The run's configuration.
        workdir: Its folder.
        run: How it ended.
        compile_seconds: Seconds spent compiling in this process.

    Returns:
        Lines for the user; none in the other processes.
    """
    with hosts.together("writing the report"):
        if not hosts.is_first():
            return []
        # A run that stopped inside its first round has nothing to show.
        report = run.rounds_done and _write_run_report(config, workdir, run, compile_seconds)
    if run.stopped_by:
        return [stopped_line(run.rounds_done)]
    return [*filter(None, [run.promise]), f"report: {report}"]


def _write_run_report(
    config: PretrainConfig, workdir: Path, run: Ended, compile_seconds: float
) -> Path:
    """Writes report and picture of reconstructions; returns the path. For arguments see above."""
    # This process's copy: the others compute nothing here.
    params = jax.tree.map(lambda leaf: leaf.addressable_data(0), run.state.server.params)
    numbers = {name: k for k, name in enumerate(run.data.names)}
    if not config.federation.personal_paths or jax.process_count() > 1:
        numbers = {}

    def params_of(client: str) -> Params:
        if client not in numbers:
            return params
        return run.federation.client_params(run.state, numbers[client])

    placement = run.federation.placement
    notes = [_BORROWED] if config.model.normalise_target else []
    pictures = make_pictures(config, run.data, params_of)
    info = RunInfo(
        name=config.name,
        created=date.today().isoformat(),
        config=to_config_dict(config).to_dict(),
        versions=versions(),
        device=placement.mesh.devices.flat[0].device_kind,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        num_devices=placement.mesh.devices.size,
        lanes=placement.lanes,
        compile_seconds=compile_seconds,
        compilations=run.federation.compilations,
        notes=[*notes, f"Privacy: {run.promise}."] if run.promise else notes,
    )
    write_reconstruction_png(workdir, pictures)
    clients = [vars(client) for client in run.data.summary()]
    issues = run.data.issues.to_json()
    return write_page(workdir, render(info, read_history(workdir), clients, issues, pictures))
