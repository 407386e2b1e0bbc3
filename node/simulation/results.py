"""What a simulation found, as one value: written to a folder, read back from it, the source of every table and picture.

`result.json` holds all of it; the tables `rounds` and `peers` hold the same numbers, as CSV for a spreadsheet or as
Parquet for a notebook. Nothing in it depends on the machine or the hour: the same command gives the same bytes, so
results can be compared with `diff`. How long the simulation itself took is therefore said on the terminal and not here.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from node.simulation import parquet
from node.storage import write_file_durably
from swarm.errors import UsageError

SCHEMA = "swarm-simulation/v1"

RESULT_BYTES_MAX = 1 << 28
"""Largest result.json that is read: 1,000 peers over a hundred rounds, ten topologies and three seeds take a tenth."""

Speed = Literal["learning", "protocol"]
Tables = Literal["csv", "parquet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScore:
    """One peer's own model on the common test examples: share of right answers, mean loss."""

    peer: int
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is known after a round.

    Attributes:
        number: From 1.
        virtual_s: Seconds since the start as the swarm would live them: of the simulated world at protocol speed, by
            the cost model (`topologies.pace`) at learning speed.
        bytes_total: Sent by all since the start; everything at protocol speed, models only at learning speed.
        bytes_busiest: Sent since the start by the member that has sent most.
        consensus_distance: Root of the mean squared distance of the models from their mean; None if not measured.
        average_accuracy: Accuracy of the plain mean of all models; None in a round without a test.
        average_loss: Its loss; None in a round without a test.
        peers: The peers tested, ascending; empty in a round without a test.
        missing: How many members the round went without.
    """

    number: int
    virtual_s: float
    bytes_total: int
    bytes_busiest: int
    consensus_distance: float | None = None
    average_accuracy: float | None = None
    average_loss: float | None = None
    peers: tuple[PeerScore, ...] = ()
    missing: int = 0

    @property
    def accuracy_mean(self) -> float | None:
        """Mean over the peers tested."""
        return sum(score.accuracy for score in self.peers) / len(self.peers) if self.peers else None

    @property
    def accuracy_min(self) -> float | None:
        """The worst peer's."""
        return min((score.accuracy for score in self.peers), default=None)

    @property
    def accuracy_max(self) -> float | None:
        """The best peer's."""
        return max((score.accuracy for score in self.peers), default=None)

    @property
    def accuracy_std(self) -> float | None:
        """Standard deviation over the peers tested (dividing by their number)."""
        mean = self.accuracy_mean
        if mean is None:
            return None
        return math.sqrt(sum((score.accuracy - mean) ** 2 for score in self.peers) / len(self.peers))

    @property
    def loss_mean(self) -> float | None:
        """Mean loss over the peers tested."""
        return sum(score.loss for score in self.peers) / len(self.peers) if self.peers else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a topology before anything is simulated.

    Attributes:
        reference: Where it comes from.
        links: Links that a round may use.
        degree_min: Fewest links of a member.
        degree_max: Most.
        diameter: Links between the two members furthest apart.
        hops_mean: Links between two members, on average.
        period: Rounds after which it repeats; None if it is drawn anew each round, 1 if it is always the same.
        gap: 1 minus what a round leaves of the consensus distance in the long run; None where no theory says.
        exact_after: Rounds to the exact mean of members with equal weights; None if it only comes closer.
        rounds_to_thousandth: Rounds until a thousandth of the consensus distance is left, by the spectrum.
        copies_mean: Models that a member sends in a round, on average; parts of models count as much as they take.
        copies_max: Models that the busiest member sends over a period, divided by its rounds.
        model_bytes: One model, or update, as it travels: encoded where the scenario has a codec.
        training_s: The slowest site's training in one round.
        round_s: One round by the cost model, mean over a period: training, exchange, agreement.
        final_s: The last round, in which all models are averaged into one.
    """

    reference: str
    links: int
    degree_min: int
    degree_max: int
    diameter: int
    hops_mean: float
    period: int | None
    gap: float | None
    exact_after: int | None
    rounds_to_thousandth: int | None
    copies_mean: float
    copies_max: float
    model_bytes: int
    training_s: float
    round_s: float
    final_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is left of a topology after some members are gone: who is cut off from most, and the gap of the rest."""

    members: tuple[int, ...]
    cut_off: tuple[int, ...]
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resilience:
    """What losing members or links does (`topologies.resilience`).

    Attributes:
        single_points: Members whose loss alone cuts somebody off.
        bridges: Links whose loss alone does, as (low, high).
        one: The loss of each single member, worst first; empty where there are too many to try.
        worst_two: The worst loss of two members; None where there are too many pairs to try, or fewer than 3 members.
    """

    single_points: tuple[int, ...]
    bridges: tuple[tuple[int, int], ...]
    one: tuple[Loss, ...]
    worst_two: Loss | None

    @property
    def survives_any_one(self) -> bool:
        """Whether nobody's loss cuts off anybody else."""
        return not self.single_points

    @property
    def survives_any_two(self) -> bool | None:
        """Whether no two members' loss does; None if that was not tried."""
        if self.single_points:
            return False
        return None if self.worst_two is None else not self.worst_two.cut_off


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoad:
    """Bytes over one link, both directions together, in the whole run; `low` < `high` are members."""

    low: int
    high: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One topology, one seed, one speed.

    Attributes:
        topology: As it was asked for, such as "ring" or "random_regular:4".
        seed: What everything random in this run comes from.
        schedule_seed: What the draws of a drawn topology come from. Peers take it from the ledger they found.
        speed: Which simulation.
        facts: Of the topology.
        resilience: Of its links.
        rounds: As far as the run came.
        links: Bytes over every link that was used, ascending.
        complete: Whether it came to its end.
        model: SHA-256 of the final common model (float32, little-endian), hexadecimal; empty if it has none.
    """

    topology: str
    seed: int
    schedule_seed: int
    speed: Speed
    facts: Facts
    resilience: Resilience
    rounds: tuple[Round, ...]
    links: tuple[LinkLoad, ...]
    complete: bool
    model: str

    @property
    def tested(self) -> tuple[Round, ...]:
        """The rounds with a test."""
        return tuple(one for one in self.rounds if one.peers)

    def first_at(self, accuracy: float) -> Round | None:
        """The first round after which the peers reach an accuracy on average, or None."""
        return next((one for one in self.tested if (one.accuracy_mean or 0.0) >= accuracy), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One topology in the comparison: means over the seeds of one speed.

    Attributes:
        topology: Its name.
        accuracy: Of the peers, on average, after the last round.
        accuracy_worst: Of the worst peer, after the last round.
        spread: Difference of best and worst peer, on average over the rounds tested but the last.
        target_round: Rounds until the peers reach the target on average; None if they do not with every seed.
        target_s: Virtual seconds until then.
        target_bytes: Bytes per node until then.
        total_s: Virtual seconds of the whole run.
        round_s: Virtual seconds per round.
        bytes_node_round: Bytes that a node sends in a round, on average over nodes and rounds.
        bytes_busiest: Bytes that the busiest node sends in the whole run.
        consensus_distance: After the last round but one: in the last all models become one.
        single_points: How many members' loss alone would cut somebody off.
        survives_any_two: Whether no two members' loss cuts anybody off; None if not tried.
        remark: Why it is not the one recommended; empty for the one that is.
    """

    topology: str
    accuracy: float
    accuracy_worst: float
    spread: float
    target_round: float | None
    target_s: float | None
    target_bytes: float | None
    total_s: float
    round_s: float
    bytes_node_round: float
    bytes_busiest: float
    consensus_distance: float | None
    single_points: int
    survives_any_two: bool | None
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Which topology, and why, in plain words.

    Attributes:
        topology: The recommended one.
        speed: The speed whose numbers were compared.
        target: The accuracy that had to be reached.
        sentence: One sentence.
        reasons: Sentences that bear it out, the weightiest first.
        table: All topologies, the recommended first, the others in order of preference.
    """

    topology: str
    speed: Speed
    target: float
    sentence: str
    reasons: tuple[str, ...]
    table: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Who holds what, for the first seed: `counts[peer][label]` training examples."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything a simulation found.

    Attributes:
        scenario: Its name, what it is about, and every setting, as TOML would hold them.
        names: The members' names.
        parameters: Of one model.
        holdings: Who holds what.
        runs: In order of topology, then seed, then speed.
        recommendation: None when nothing was finished.
        partial: Whether it was interrupted.
        notes: What a reader should know, in sentences.
        command: What makes it again, as one types it.
        schema: The version of this form.
    """

    scenario: Mapping[str, object]
    names: tuple[str, ...]
    parameters: int
    holdings: Holdings
    runs: tuple[Run, ...]
    recommendation: Recommendation | None = None
    partial: bool = False
    notes: tuple[str, ...] = ()
    command: str = ""
    schema: str = field(default=SCHEMA)

    @property
    def topologies(self) -> tuple[str, ...]:
        """The topologies compared, in order."""
        return tuple(dict.fromkeys(run.topology for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """The speeds, in order."""
        return tuple(dict.fromkeys(run.speed for run in self.runs))

    def select(self, topology: str, speed: Speed) -> tuple[Run, ...]:
        """The runs of one topology at one speed, by seed."""
        return tuple(run for run in self.runs if run.topology == topology and run.speed == speed)

    def write(self, folder: Path, tables: Sequence[Tables] = ("csv",)) -> None:
        """Write `result.json`, and `rounds` and `peers` as tables of these forms; what had these names is gone.

        Raises:
            UsageError: Parquet is asked for, and pyarrow is not installed.
            OSError: The folder cannot be written to.
        """
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        write_file_durably(folder / "result.json", text + b"\n", mode=0o644)
        for form, encode in (("csv", _csv), ("parquet", parquet.encoded)):
            for name, columns, rows in (
                ("rounds", ROUND_COLUMNS, self._round_rows),
                ("peers", PEER_COLUMNS, self._peer_rows),
            ):
                path = folder / f"{name}.{form}"
                if form in tables:
                    write_file_durably(path, encode(columns, rows()), mode=0o644)
                else:
                    path.unlink(missing_ok=True)  # of an earlier simulation: it would be taken for this one's

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Read what `write` wrote.

        Raises:
            UsageError: There is no result there, or it is of another version.
        """
        path = folder / "result.json"
        try:
            if path.stat().st_size > RESULT_BYTES_MAX:
                raise UsageError(f"couldn't read {path}: it is larger than any result", hint="name another folder")
            result = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise UsageError(
                f"couldn't read {path}: {error.strerror}", hint="name the folder that `swarm simulate` wrote"
            ) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise UsageError(f"couldn't read {path}: {error}", hint="simulate again; it is no whole result") from None
        if result.schema != SCHEMA:
            raise UsageError(f"couldn't read {path}: it is {result.schema!r}, not {SCHEMA!r}", hint="simulate again")
        return result

    def _round_rows(self) -> Iterable[Sequence[object]]:
        for run in self.runs:
            for one in run.rounds:
                yield (
                    *(run.topology, run.seed, run.speed, one.number, one.virtual_s),
                    *(one.bytes_total, one.bytes_busiest, one.consensus_distance),
                    *(one.accuracy_mean, one.accuracy_min, one.accuracy_max, one.accuracy_std),
                    *(one.average_accuracy, one.loss_mean),
                )

    def _peer_rows(self) -> Iterable[Sequence[object]]:
        for run in self.runs:
            for one in run.rounds:
                for score in one.peers:
                    yield run.topology, run.seed, run.speed, one.number, score.peer, score.accuracy, score.loss


ROUND_COLUMNS: dict[str, type] = {
    "topology": str,
    "seed": int,
    "speed": str,
    "round": int,
    "virtual_s": float,
    "bytes_total": int,
    "bytes_busiest": int,
    "consensus_distance": float,
    "accuracy_mean": float,
    "accuracy_min": float,
    "accuracy_max": float,
    "accuracy_std": float,
    "average_model_accuracy": float,
    "loss_mean": float,
}
PEER_COLUMNS: dict[str, type] = {
    "topology": str,
    "seed": int,
    "speed": str,
    "round": int,
    "peer": int,
    "accuracy": float,
    "loss": float,
}


def _csv(columns: Mapping[str, type], rows: Iterable[Sequence[object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue().encode()
