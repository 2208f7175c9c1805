"""The federation: clients, rounds, local work, and the sections of the federated method.

A key that the chosen method does not use has no effect; its docstring says whose it is.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ufm_jax.errors import ConfigError
from ufm_jax.ranges import Amount, AtLeastOne, Checked, Count, LogSpread, Pattern, Range, Share

AlgorithmName = Literal[
    "fedavg", "fedprox", "fedsam", "scaffold", "fednova", "feddyn", "mimelite", "ditto"
]
RuleName = Literal[
    "mean",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
    "norm_clipping",
    "centred_clipping",
    "secure_sum",
]


Length = Annotated[float, Range(1e-12)]
"""What is divided by."""


@dataclass(frozen=True)
class AlgorithmConfig(Checked):
    """The federated algorithm; see docs/algorithms.md.

    Attributes:
        name: Which. FedAvgM, FedAdam, FedYogi and FedAdagrad are FedAvg with that
            ``server_optimizer``; FedBN and FedPer are FedAvg with ``federation.personal``.
        mu: FedProx: strength of the pull towards where the round began.
        rho: FedSAM: radius within which the loss is to stay low.
        option: SCAFFOLD: how control variates are renewed, 'I' or 'II'.
        alpha: FedDyn: strength of the regulariser.
        strength: Ditto: pull of the personal models towards the shared one.
    """

    name: AlgorithmName = "fedavg"
    mu: Amount = 0.01
    rho: Amount = 0.05
    option: Literal["I", "II"] = "II"
    alpha: Length = 0.1
    strength: Amount = 0.1


@dataclass(frozen=True)
class AggregationConfig(Checked):
    """How the clients' updates become one; see docs/robustness.md and docs/privacy.md.

    Attributes:
        rule: The weighted mean, a rule that resists hostile clients, or ``secure_sum``, the mean of
            clipped updates as secure aggregation finds it.
        hostile: Clients that may be hostile, f: for the trimmed mean, Krum and Bulyan.
        norm: Norm and centred clipping, secure sum: length to which updates are clipped.
        iterations: Centred clipping: steps of its iteration.
        masked: Secure sum: whether masks are drawn, at their cost. The result is the same.
    """

    rule: RuleName = "mean"
    hostile: Count = 1
    norm: Length = 1.0
    iterations: Annotated[int, Range(1, 1000)] = 3
    masked: bool = True


@dataclass(frozen=True)
class ParticipationConfig(Checked):
    """Who takes part in a round, and how long clients take on a virtual clock.

    Attributes:
        sampling: How a cohort smaller than the population is drawn: ``uniform`` or ``by_size``
            without replacement, or ``poisson``, each client by itself, as privacy accounting wants.
        trace: A CSV of who can be asked: a header of client names, then a row of 0 and 1 a round,
            over and over; '' for always.
        step_seconds: Median virtual seconds of a local step; 0 for no clock.
        spread: Standard deviation of the logarithm of the clients' speeds.
        latency: Virtual seconds of a client besides, a round.
        jitter: Standard deviation of the logarithm of a factor on a client's time, each round.
        dropout: Probability that a client of the cohort is not heard of.
        deadline: Virtual seconds after which the server goes on without the late; 0 waits for all.
    """

    sampling: Literal["uniform", "by_size", "poisson"] = "uniform"
    trace: str = ""
    step_seconds: Amount = 0.0
    spread: LogSpread = 0.5
    latency: Amount = 0.0
    jitter: LogSpread = 0.0
    dropout: Share = 0.0
    deadline: Amount = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step_seconds and (self.deadline or self.dropout):
            raise ConfigError(
                "config.federation.participation: deadline and dropout need a clock; set "
                "step_seconds above 0"
            )


@dataclass(frozen=True)
class AsyncConfig(Checked):
    """A federation without rounds, on the clock of ``participation``; a round is then a dispatch.

    Attributes:
        concurrency: Clients in flight at any time; 0 trains in rounds.
        buffer: Arrivals to an update of the server (FedBuff); 1 takes each as it comes.
        power: An update that is tau server updates stale weighs (1 + tau)^-power.
        towards_client: Whether the server moves towards a client's parameters from where it is
            (FedAsync), in place of by how far the client went (FedBuff).
    """

    concurrency: Count = 0
    buffer: AtLeastOne = 4
    power: Amount = 0.5
    towards_client: bool = False


@dataclass(frozen=True)
class CompressionConfig(Checked):
    """How updates are compressed on their way to the server.

    Attributes:
        kind: ``none``, the largest entries (``top_k``), entries at random (``random_k``), integers
            of few bits (``quantise``) or thin matrices (``low_rank``).
        fraction: Top-k and random-k: share of the entries that is sent.
        bits: Quantise: bits an entry, with its sign.
        rank: Low rank: columns of the thin matrices.
        error_feedback: Whether clients keep what was left out and send it later.
    """

    kind: Literal["none", "top_k", "random_k", "quantise", "low_rank"] = "none"
    fraction: Annotated[float, Range(1e-9, 1)] = 0.01
    bits: Annotated[int, Range(2, 16)] = 8
    rank: AtLeastOne = 4
    error_feedback: bool = True


@dataclass(frozen=True)
class AttackConfig(Checked):
    """Hostile clients, to test an aggregation rule with.

    Attributes:
        kind: What they send: their update turned round (``sign_flip``), ``noise``, the update of
            their first round (``stale_replay``), the honest mean moved a little
            (``little_is_enough``) or turned round (``inner_product``).
        clients: Their numbers, in the order of data.json.
        scale: Sign flip and inner product: length, in their own update or honest means; noise: in
            root mean squares of their update; little is enough: in standard deviations.
    """

    kind: Literal[
        "none", "sign_flip", "noise", "stale_replay", "little_is_enough", "inner_product"
    ] = "none"
    clients: tuple[Count, ...] = ()
    scale: Amount = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind == "none") != (not self.clients):
            raise ConfigError(
                f"config.federation.attack.kind={self.kind!r} with clients={self.clients}: name "
                "both the attack and the hostile clients, or neither"
            )


@dataclass(frozen=True)
class PrivacyConfig(Checked):
    """Differential privacy; see docs/privacy.md.

    Attributes:
        level: What is protected: nothing, each ``client``'s presence, or each ``example`` of a
            client (DP-SGD).
        clip: Norm to which updates (client) or gradients of examples (example) are clipped.
        noise_multiplier: Standard deviation of the noise, in units of ``clip``.
        microbatch: Example: examples whose gradients are held at once; 0 for a whole batch. On a
            CPU 1 is fastest.
        quantile: Client: let ``clip`` follow this quantile of the updates' norms; 0 keeps it.
        quantile_rate: Client: of the steps with which it follows.
        delta: Probability with which the promise may fail; below one over the units protected.
        epsilon: A budget: the run stops before any client has spent more; 0 for none.
        noise_seed: -1 draws a secret once, kept in the run's folder; any other number is public:
            two runs then give the same numbers, and no epsilon is stated.
    """

    level: Literal["none", "client", "example"] = "none"
    clip: Length = 1.0
    noise_multiplier: Amount = 1.0
    microbatch: Count = 0
    quantile: Annotated[float, Range(0, 0.999)] = 0.0
    quantile_rate: Amount = 0.2
    delta: Annotated[float, Range(1e-300, 0.1)] = 1e-5
    epsilon: Amount = 0.0
    noise_seed: Annotated[int, Range(-1, 2**32 - 1)] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon and self.level == "none":
            raise ConfigError(
                f"config.federation.privacy.epsilon={self.epsilon} with level='none': nothing is "
                "protected, so no budget can be kept; set level, or epsilon=0"
            )


@dataclass(frozen=True)
class FederationConfig(Checked):
    """Clients, rounds and local work.

    Attributes:
        algorithm: Federated algorithm.
        aggregation: How updates become one.
        compression: How updates are compressed.
        attack: Hostile clients.
        privacy: Differential privacy.
        participation: Who takes part in a round.
        asynchronous: Training without rounds.
        training: ``federated`` shares parameters between clients; ``centralised`` puts all images
            into one client, so that a round is an epoch; ``local`` trains each client alone,
            nothing shared. All three see each image as often.
        rounds: Rounds of the run.
        cohort_size: Clients drawn for each round; 0 takes all.
        batch_size: B, of every client.
        local_epochs: Passes over a client's data a round; 0.1 is a tenth of its batches, and one
            at least; 0 where ``local_steps`` is set.
        local_steps: Local steps a round, the same for all; 0 where epochs are counted.
        partial_batch: What becomes of an epoch's last, smaller batch.
        batch_sampling: ``shuffle`` passes over a client's data in a new order each epoch;
            ``poisson`` draws each example for each step by itself, as privacy accounting wants.
        client_weights: p_k in proportion to the examples, or uniform.
        client_state: Whether the local optimiser's state is reset, persists or is averaged.
        personal: Regular expressions of the paths of parameters that stay with each client, such
            as 'head/.*' or '.*norm.*' (FedBN); the others are shared.
    """

    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    participation: ParticipationConfig = field(default_factory=ParticipationConfig)
    asynchronous: AsyncConfig = field(default_factory=AsyncConfig)
    training: Literal["federated", "centralised", "local"] = "federated"
    rounds: AtLeastOne = 300
    cohort_size: Count = 0
    batch_size: Annotated[int, Range(1, 65_536)] = 64
    local_epochs: Annotated[float, Range(0, 10_000)] = 1
    local_steps: Annotated[int, Range(0, 1_000_000)] = 0
    partial_batch: Literal["weight", "drop"] = "weight"
    batch_sampling: Literal["shuffle", "poisson"] = "shuffle"
    client_weights: Literal["examples", "uniform"] = "examples"
    client_state: Literal["reset", "persist", "average"] = "persist"
    personal: tuple[Annotated[str, Pattern()], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.local_epochs > 0) == (self.local_steps > 0):
            raise ConfigError(
                f"config.federation.local_epochs={self.local_epochs:g}, local_steps="
                f"{self.local_steps}: set one of them above 0 and the other to 0"
            )

    @property
    def personal_paths(self) -> tuple[str, ...]:
        """Paths of the parameters that stay with each client: all of them in a local run."""
        return (".*",) if self.training == "local" else self.personal
