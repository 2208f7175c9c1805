"""A study: the configuration and the sites that the server and all sites agree on, as one file."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.schema import flatten, from_config_dict
from ufm_jax.config.training import PlacementConfig
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.fed.privacy.secure_sum import FixedPoint, fixed_point
from ufm_jax.files import read_json, write_json
from ufm_jax.objectives.reconstruction import init_params
from ufm_jax.train.pretraining import federation_of

STUDY_FILE = "study.json"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_OURS = ("ca", "server")
"""Names of files beside the sites' keys."""

_OWN = (
    *("config.checkpoint.", "config.cluster.", "config.placement.", "config.evaluation."),
    *("config.data.root", "config.data.cache_dir", "config.data.num_workers", "config.tracking"),
)
"""Keys, or how they begin, that server and sites may set as they like."""


@dataclass(frozen=True)
class Study:
    """What is trained, and by whom.

    Attributes:
        config: The configuration of the simulation in which the study was tuned.
        sites: Names of the sites; a site's place is its client's number in the simulation.
    """

    config: PretrainConfig
    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        check_sites(self.sites)
        for reason in _refusals(self.config):
            raise ConfigError(reason)

    def number(self, site: str) -> int:
        """The client's number of a site.

        Raises:
            ConfigError: If the study has no such site.
        """
        if site not in self.sites:
            raise ConfigError(f"site {site!r} is none of the study's: {', '.join(self.sites)}")
        return self.sites.index(site)

    def first_params(self) -> Params:
        """The model's parameters before the first round."""
        return init_params(self.config.model, fold(jax.random.key(self.config.seed), "init"))

    def federation(self, examples: Sequence[int]) -> Federation:
        """The federation of sites with so many examples each."""
        offsets = [sum(examples[:k]) for k in range(len(self.sites) + 1)]
        return federation_of(self.config, self.sites, offsets)

    @property
    def numbers(self) -> dict[str, int]:
        """The client's number of each site."""
        return {site: k for k, site in enumerate(self.sites)}

    @property
    def secure(self) -> bool:
        """Whether the server sees sums of updates alone."""
        return self.config.federation.aggregation.rule == "secure_sum"

    @property
    def fixed_point(self) -> FixedPoint:
        """How secure aggregation makes integers of numbers, as in the simulation."""
        return fixed_point(self.config.federation.aggregation.norm, len(self.sites))

    def share(self, examples: int, total: int) -> float:
        """The weight p_k of a site, from its number of examples and that of all sites."""
        by_examples = self.config.federation.client_weights == "examples"
        return examples / total if by_examples else 1 / len(self.sites)

    def facts(self, site: str) -> dict[str, Any]:
        """All that must be the same at the server and at a site, by key."""
        shapes = jax.eval_shape(self.first_params)
        settings = flatten(self.config).items()
        facts = {key: value for key, value in settings if not key.startswith(_OWN)} | {
            "sites": self.sites,
            "name of this site": site,
            "version of ufm_jax": metadata.version("ufm-jax"),
            "digest of the parameters' shapes": hashlib.sha256(str(shapes).encode()).hexdigest(),
        }
        return json.loads(json.dumps(facts))


def check_sites(sites: Sequence[str]) -> None:
    """Refuses names of sites that could not name a file, an argument or a site.

    Raises:
        ConfigError: Naming them.
    """
    wrong = [site for site in sites if not re.fullmatch(_NAME, site) or site in _OURS]
    if wrong or not sites or len(set(sites)) < len(sites):
        raise ConfigError(
            f"--sites={','.join(sites)}: name each site once, such as --sites=A,B,C, by letters, "
            f"digits, - and _ (64 at most), and none {' or '.join(_OURS)}"
        )


def differences(mine: Mapping[str, Any], others: Mapping[str, Any], who: str) -> str:
    """The keys in which two studies differ, in a line; '' where they agree."""
    return "; ".join(
        f"{key}: {mine.get(key)!r} here, {others.get(key)!r} at {who}"
        for key in sorted(mine.keys() | others.keys())
        if mine.get(key) != others.get(key)
    )


def write_study(file: Path, study: Study) -> None:
    """Writes a study as JSON, without where the simulation ran and had its images."""
    data = replace(study.config.data, root="-", cache_dir="")
    placement = PlacementConfig(lanes=1)
    config = replace(study.config, data=data, placement=placement, tracking_store="")
    write_json(file, {"sites": study.sites, "config": asdict(config)})


def read_study(file: Path, root: str = "-") -> Study:
    """Reads what ``write_study`` wrote.

    Args:
        file: The file.
        root: The folder of this site's images.

    Raises:
        RunError: If it is damaged; ConfigError, if what it says cannot be trained.
    """
    remedy = "copy it again from the app of the study"
    stored = read_json(file, remedy, dict)
    if stored.keys() != {"sites", "config"}:
        raise RunError(f"{file} is not a study: {remedy}")
    stored["config"]["data"]["root"] = root
    config = from_config_dict(PretrainConfig, stored["config"])
    return Study(config, tuple(stored["sites"]))


def _refusals(config: PretrainConfig) -> Iterator[str]:
    """Why a configuration can be simulated and not deployed, each with its remedy."""
    method, data = config.federation, config.data
    checks = {
        f"federation.training={method.training!r}: sites train together; set 'federated'": (
            method.training != "federated"
        ),
        f"federation.participation.trace={method.participation.trace!r}: real sites are there or "
        "not; set ''": bool(method.participation.trace),
        "federation.asynchronous.concurrency: sites train in rounds; set 0": (
            method.asynchronous.concurrency > 0
        ),
        "federation.participation.step_seconds: real sites take real time; set 0, as deadline and "
        "dropout": method.participation.step_seconds > 0,
        f"federation.attack.kind={method.attack.kind!r}: attacks are only simulated; set 'none'": (
            method.attack.kind != "none"
        ),
        f"federation.compression.kind={method.compression.kind!r}: updates are sent whole, so that "
        "it would save nothing; set 'none'": method.compression.kind != "none",
        "federation.privacy.level='example': sites keep no ledger of their own; set 'client' or "
        "'none'": method.privacy.level == "example",
        f"data.source={data.source!r}: sites have images of their own; set 'folders' or 'index'": (
            data.source == "synthetic"
        ),
        f"data.source={data.source!r}: its lists are of the simulation's folders; set 'folders' or "
        "'index'": data.source == "lists",
        f"data.partition={data.partition!r}: each site keeps its images; set 'site'": (
            data.partition != "site"
        ),
        "federation.cohort_size with aggregation.rule='secure_sum': sums over other sites in each "
        "round could give one away; set 0, and participation.sampling='uniform'": (
            method.aggregation.rule == "secure_sum"
            and (method.cohort_size > 0 or method.participation.sampling == "poisson")
        ),
        "data.clients_per_set: each site is one client; set ()": bool(data.clients_per_set),
        "data.holdout_fraction: no site judges the model, so that images would be held out for "
        "nothing; set 0, and holdout_splits=()": bool(data.holdout_fraction or data.holdout_splits),
        "schedule.patience: no site judges the model; set 0": config.schedule.patience > 0,
    }
    return (f"config.{reason}" for reason, wrong in checks.items() if wrong)
