"""The server of a study: it asks sites for their part of each round, and never sees an image."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ufm_jax.config.schema import flatten
from ufm_jax.deployment.kept import FRESH
from ufm_jax.deployment.messages import Counted, Exchange, Letter, from_arrays, gather, to_arrays
from ufm_jax.deployment.secure import COUNTING, secure_sum_of
from ufm_jax.deployment.site import REPORTED
from ufm_jax.deployment.study import STUDY_FILE, Study, differences, read_study, write_study
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.fed.algorithm import Tree, update_shape
from ufm_jax.fed.engine import FederationState, ServerState, close_round
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.privacy.secure_sum import mean_of, shapes_of
from ufm_jax.fed.server import first_state, round_noise, server_half
from ufm_jax.fed.trees import acceptable, distance, squared_norm
from ufm_jax.files import private_folder, read_json, write_json
from ufm_jax.runs.checkpoint import Checkpoints, export_params
from ufm_jax.runs.folder import CONFIG_FILE
from ufm_jax.runs.history import ClientRecord, MetricWriter, RoundRecord
from ufm_jax.runs.noise_key import noise_words
from ufm_jax.train.optimizers import lr_factor
from ufm_jax.train.privacy_ledger import begin_spending

SITES_FILE = "sites.json"
"""How many examples each site has, or all together under secure aggregation."""

_log = logging.getLogger(__name__)


class Point(NamedTuple):
    """Where a study stands.

    Attributes:
        state: The server's.
        since: int32 [K] the last round in which each site's update was taken.
    """

    state: ServerState
    since: np.ndarray


class Closed(NamedTuple):
    """A round that is over.

    Attributes:
        state: The server's state after it.
        share: Share of the population's weight in the aggregate.
        taken: Sites whose updates are in the aggregate.
        answers: What other sites report, and those of ``taken`` where they do not hide it.
    """

    state: ServerState
    share: Any
    taken: Sequence[str]
    answers: Mapping[str, Letter]


class Conduct(NamedTuple):
    """How the server conducts a study.

    Attributes:
        study: The server's copy.
        federation: Its sites.
        exchange: Sends letters to them.
        least: The fewest answers with which a round ends; 0 waits for all.
        examples: Of all sites together.
    """

    study: Study
    federation: Federation
    exchange: Counted
    least: int
    examples: int


def run_server(study: Study, workdir: Path, exchange: Exchange, least: int = 0) -> str:
    """Runs a study from its newest checkpoint in ``workdir`` to the last round.

    Args:
        study: The server's copy.
        workdir: Gets the study, metrics, a checkpoint a round, and the model.
        exchange: Sends letters to sites.
        least: The fewest answers with which a round ends; the other sites of the round are then
            left out of it. 0 waits for all.

    Returns:
        What may be said of its privacy; '' where it makes no promise.

    Raises:
        RunError: If a site refuses; names the site and its reason.
        ConfigError: If ``workdir`` holds another study.
    """
    _claim(workdir, study)
    config = study.config
    conduct = enrol(study, Counted(exchange), least)
    _same_images(workdir / SITES_FILE, study, conduct)
    first = first_state(conduct.federation, study.first_params())
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        done, stored = checkpoints.newest(_stored(Point(first, _never(study))))
        point = Point(ServerState(stored.server, stored.aggregate), np.asarray(stored.clients))
        noise = noise_words(config.federation.privacy, workdir, begun=done > 0)
        federation = replace(conduct.federation, noise=noise)
        conduct = conduct._replace(federation=federation)
        ledger = checkpoints.ledger(done) if done else {}
        spending, rounds = begin_spending(config.federation, federation, done, ledger)
        with MetricWriter(workdir, done) as writer:
            for r in range(done, rounds):
                point, record = one_round(conduct, point, r)
                if spending:
                    spending.after(federation.plan(r))
                    ledger = spending.stored()
                writer.write(record)
                checkpoints.save(r + 1, _stored(point), record.loss, ledger)
                # Sites keep what they need to repeat this round, and nothing older.
                checkpoints.wait()
                _log.info("round %d of %d: loss %.4f", r + 1, rounds, record.loss)
    export_params(workdir / "model", point.state.server.params)
    return spending.write(workdir, study.sites) if spending else ""


def enrol(study: Study, exchange: Counted, least: int = 0) -> Conduct:
    """The study's conduct, once all sites have been heard of and have the same study."""
    letters = {site: Letter("enrol", study.facts(site)) for site in study.sites}
    answers = gather(letters, exchange)
    if study.secure:
        counts = {site: Letter("count") for site in study.sites}
        total, _ = secure_sum_of(counts, study.numbers, COUNTING, exchange)
        # Nobody's number is known, and the aggregate does not need them.
        federation = study.federation([1] * len(study.sites))
        return Conduct(study, federation, exchange, least, int(total[0]))
    examples = [int(answers[site].facts["examples"]) for site in study.sites]
    return Conduct(study, study.federation(examples), exchange, least, sum(examples))


def one_round(conduct: Conduct, before: Point, r: int) -> tuple[Point, RoundRecord]:
    """Where the study stands after round ``r``, and its record."""
    study, federation, exchange, *_ = conduct
    began, down, up = time.perf_counter(), exchange.down, exchange.up
    arrays = to_arrays(federation.algorithm.broadcast(before.state.server))
    letters = {
        study.sites[k]: Letter("train", {"round": r, "since": int(before.since[k])}, arrays)
        for k in federation.cohort(r)
    }
    close = _close_masked if study.secure else _close
    closed = close(conduct, before.state, r, letters)
    since = before.since.copy()
    since[[study.number(site) for site in closed.taken]] = r
    seconds = time.perf_counter() - began
    reports = [_client_record(site, answer) for site, answer in closed.answers.items()]
    images = sum(report.examples for report in reports)
    came = {*closed.taken, *closed.answers}
    record = RoundRecord(
        round=r,
        loss=_mean_loss(study, federation, closed),
        lr_factor=float(
            lr_factor(study.config.schedule, study.config.federation.rounds)(jnp.float32(r + 0.5))
        ),
        seconds=seconds,
        images=images,
        images_per_second=images / seconds,
        useful_fraction=1.0,
        update_norm=float(distance(before.state.server.params, closed.state.server.params)),
        cohort=len(came),
        rejected=[site for site in closed.answers if site not in closed.taken],
        clients=reports,
        bytes_down=exchange.down - down,
        bytes_up=exchange.up - up,
        late=[site for site in letters if site not in came],
        skipped=not float(closed.share) > 0,
    )
    return Point(closed.state, since), record


def _close(conduct: Conduct, before: ServerState, r: int, letters: Mapping[str, Letter]) -> Closed:
    """Ends a round in which the server sees each update."""
    study, federation = conduct.study, conduct.federation
    answers = gather(letters, conduct.exchange, conduct.least)
    like = _update_shape(federation, before)
    sent = {
        study.number(site): from_arrays(like, answer.arrays, f"site {site}")
        for site, answer in answers.items()
        if answer.facts["finite"]
    }
    updates = {k: update for k, update in sent.items() if acceptable(squared_norm(update))}
    asked = [study.number(site) for site in letters]
    state, share = server_half(federation, before, r, asked, updates)
    return Closed(state, share, [study.sites[k] for k in sorted(updates)], answers)


def _close_masked(
    conduct: Conduct, before: ServerState, r: int, letters: Mapping[str, Letter]
) -> Closed:
    """Ends a round in which the server sees the sum of the updates alone."""
    study, federation = conduct.study, conduct.federation
    masked = {
        site: Letter("masked", {**letter.facts, "examples": conduct.examples}, letter.arrays)
        for site, letter in letters.items()
    }
    words, taken = secure_sum_of(masked, study.numbers, r, conduct.exchange, conduct.least)
    like = _update_shape(federation, before)
    renormalise = study.config.federation.privacy.level != "client"
    sums = jnp.asarray(words[:-1]), jnp.asarray(words[-1])
    update, share = mean_of(study.fixed_point, *sums, shapes_of(like), renormalise=renormalise)
    key = round_noise(federation, r)
    result = (), update, share
    state, share = close_round(federation.algorithm, before, result, jnp.float32(1), key)
    return Closed(state, share, taken, {})


def _update_shape(federation: Federation, before: ServerState) -> Tree:
    client = federation.algorithm.init_client(before.server.params)
    return update_shape(federation.algorithm, before.server, client)


def _never(study: Study) -> np.ndarray:
    return np.full(len(study.sites), FRESH, np.int32)


def _mean_loss(study: Study, federation: Federation, closed: Closed) -> float:
    """The sites' losses, weighted as their updates are; nan if no site tells."""
    known = [site for site in closed.taken if site in closed.answers]
    if not known:
        return float("nan")
    losses = [float(closed.answers[site].facts["loss"]) for site in known]
    weights = federation.client_weight([study.number(site) for site in known])
    return float(np.average(losses, weights=weights))


def _client_record(site: str, answer: Letter) -> ClientRecord:
    facts = {key: answer.facts[key] for key in REPORTED}
    return ClientRecord(client=site, lane=0, begin=0, end=int(facts["steps"]), **facts)


def _stored(point: Point) -> FederationState:
    """What a checkpoint holds: in place of clients' states, the rounds that made the valid ones."""
    return FederationState(point.state.server, point.since, point.state.aggregate, ())  # type: ignore[arg-type]


def _same_images(file: Path, study: Study, conduct: Conduct) -> None:
    """Keeps what is known of the sites' numbers of examples, or checks that it is the same."""
    each = [conduct.examples] if study.secure else conduct.federation.sizes.tolist()
    facts = dict(zip(["all sites"] if study.secure else study.sites, each, strict=True))
    if not file.exists():
        write_json(file, facts)
        return
    before = read_json(file, "restore it, or begin in another folder", dict)
    differ = [
        f"{x}: {before.get(x)} then, {facts[x]} now" for x in facts if facts[x] != before.get(x)
    ]
    if differ:
        raise RunError(
            f"sites have other images than when the study began ({'; '.join(differ)}): restore "
            f"them, or begin in another folder than {file.parent}"
        )


def _claim(workdir: Path, study: Study) -> None:
    """Makes ``workdir`` the folder of this study, or checks that it is."""
    file = workdir / STUDY_FILE
    if file.exists():
        differ = differences(study.facts(""), read_study(file).facts(""), str(file))
        if differ:
            raise ConfigError(f"{workdir} holds another study ({differ}): name another folder")
    private_folder(workdir)
    write_study(file, study)
    write_json(workdir / CONFIG_FILE, flatten(study.config))
