"""SHELL. What a ledger says of a run, in the tools that people already watch runs in: TensorBoard and MLflow.

Both are fed from the ledger and not from the node: what is shown is what the members agreed on, a run that is long over
can be shown as well as one that goes on, and a tracker that hangs or fails costs the node nothing. A round is a step;
its time is the block's that committed it. Scores are each site's own word, as on the ledger.

TensorBoard reads event files, MLflow has a server or a database. Neither library is imported before it is asked for,
and MLflow's own reports to its makers are switched off: nothing phones home.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, mean_scores, member_names, weights
from swarm.machine import NodeId

BATCH = 500
"""Points handed to MLflow at once: its limit is 1,000."""


@dataclass(frozen=True, slots=True)
class Point:
    """One number of one round. `time_ms` is Unix time in milliseconds, of the block that committed the round."""

    name: str
    round: int
    time_ms: int
    value: float


def points(result: Audit) -> Iterator[Point]:
    """Yield everything that an audit knows in numbers, round by round. Names are made of letters, digits and `_-/`.

    `scores/NAME/SITE` is what a site says of the round's model on its held-out data, `mean/NAME` the mean of those,
    weighted by held-out samples (a name of its own, for a tracker may keep names as files and folders);
    `training/NAME/SITE` what a site measured in training; `weight/SITE` its share in the mean, 0 to 1.
    """
    names = member_names(result.epochs)
    labels = {node: name.replace(" (", "-").replace(")", "") for node, name in names.items()}
    for _, view in sorted(result.rounds.items()):
        if view.commit is not None:
            for name, value in _numbers(view, labels, result.state.signed.charter.metrics):
                yield Point(name, view.number, view.committed_ms, value)


def terms(result: Audit) -> Mapping[str, str]:
    """Return what was agreed before the run, as pairs of text."""
    charter, policy = result.state.signed.charter, result.state.terms.round
    return {
        "ledger": result.state.ledger_id.hex(),
        "task": charter.task.digest.hex(),
        "parameters": str(charter.task.parameters),
        "members": str(len(result.state.terms.members)),
        **{name: str(getattr(policy, name)) for name in policy.__struct_fields__},
        **dict(charter.options),
    }


def _numbers(view: RoundView, labels: Mapping[NodeId, str], metrics: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    assert view.commit is not None, "only committed rounds are looked at"
    shares = weights(view)
    yield "round/sites", float(len(shares))
    yield "round/samples", float(view.commit.samples)
    if not view.commit.model_bytes:
        yield "round/distance_max", view.commit.distance_max_ppm / 1e6
        yield "round/distance_mean", view.commit.distance_mean_ppm / 1e6
    for node, label in labels.items():
        if node in shares:
            yield f"weight/{label}", shares[node]
    for index, metric in enumerate(metrics):
        for node, label in labels.items():
            placed, scored = view.contributions.get(node), view.evaluations.get(node)
            for kind, body in (("training", None if placed is None else placed.body), ("scores", scored)):
                told = {} if body is None else dict(body.metrics)
                if index in told:
                    yield f"{kind}/{metric}/{label}", told[index] / e.METRIC_SCALE
    for metric, mean in mean_scores(view, metrics).items():
        yield f"mean/{metric}", mean


def scored(result: Audit) -> bool:
    """Whether every member has told its scores of the last round, so that nothing more is to come of it."""
    view = result.rounds.get(result.state.committed.round)
    return view is not None and all(seat.node in view.evaluations for seat in result.state.terms.members)


class Tracker(Protocol):
    """Where points go."""

    def put(self, fresh: list[Point]) -> None:
        """Take these in, which it has not had before."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Fed:
    """A tracker and what it has had: a score comes after its round is committed, so each look may bring some more."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._had: set[tuple[str, int]] = set()

    def feed(self, result: Audit, *, over: bool) -> int:
        """Hand on what is new in an audit, and return how many points those are.

        The mean of a score is handed on once its round is no longer the last, or all is `over`: until then sites may
        add theirs, and a tracker does not take a number back.
        """
        last = result.state.committed.round
        fresh = [
            point
            for point in points(result)
            if (point.name, point.round) not in self._had
            and (point.round < last or over or not point.name.startswith("mean/"))
        ]
        self._had |= {(point.name, point.round) for point in fresh}
        if fresh:
            self._tracker.put(fresh)
        return len(fresh)


class TensorBoard:
    """Event files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise _missing("TensorBoard", "tensorboard") from None
        self._event, self._summary = Event, Summary
        try:
            self._writer = EventFileWriter(str(folder))
        except OSError as error:
            raise UsageError(f"couldn't write to {folder}: {error.strerror}", hint="name another folder") from None

    def put(self, fresh: list[Point]) -> None:
        """Append an event for each point, and see that they are in the file."""
        for point in fresh:
            value = self._summary.Value(tag=point.name, simple_value=point.value)
            summary = self._summary(value=[value])
            self._writer.add_event(self._event(wall_time=point.time_ms / 1000, step=point.round, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """One run of an experiment, on a server or in a database, by the experiment's name and the ledger's id.

    Looked at again, the same ledger goes on in the same run.
    """

    def __init__(self, uri: str, experiment: str, result: Audit) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        try:
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise _missing("MLflow", "mlflow") from None
        self._metric: Any = Metric
        self._refused = MlflowException
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            where = self._client.create_experiment(experiment) if found is None else found.experiment_id
            ledger = result.state.ledger_id.hex()
            before = self._client.search_runs([where], f"tags.`swarm.ledger` = '{ledger}'", max_results=1)
            if before:
                self._run = before[0].info.run_id
            else:
                tags = {"swarm.ledger": ledger, "mlflow.runName": result.state.signed.charter.name}
                self._run = self._client.create_run(where, tags=tags).info.run_id
                pairs = [Param(name, value) for name, value in terms(result).items()]
                self._client.log_batch(self._run, params=pairs)
        except MlflowException as error:
            raise self._failed(uri, error) from None
        self._uri = uri
        self._known = self._recorded()

    def put(self, fresh: list[Point]) -> None:
        """Log what the run does not have yet."""
        new = [point for point in fresh if (point.name, point.round) not in self._known]
        try:
            for start in range(0, len(new), BATCH):
                part = new[start : start + BATCH]
                logged = [self._metric(point.name, point.value, point.time_ms, point.round) for point in part]
                self._client.log_batch(self._run, metrics=logged)
        except self._refused as error:
            raise self._failed(self._uri, error) from None

    def close(self) -> None:
        """Say that the run is over."""
        self._client.set_terminated(self._run)

    def _recorded(self) -> set[tuple[str, int]]:
        run = self._client.get_run(self._run)
        return {
            (name, one.step) for name in run.data.metrics for one in self._client.get_metric_history(self._run, name)
        }

    @staticmethod
    def _failed(uri: str, error: Exception) -> UsageError:
        why = str(error).splitlines()[0][:200]
        return UsageError(f"couldn't write to MLflow at {uri}: {why}", hint="see that the server runs, or name another")


def _missing(what: str, package: str) -> UsageError:
    return UsageError(
        f"couldn't write to {what}: it is not installed", hint=f"pip install {package}, or 'swarm-node[trackers]'"
    )
