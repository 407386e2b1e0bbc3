"""What a site decides for itself: names, paths, addresses, limits. Frozen once read, passed from then on.

Layers, later ones winning: built-in defaults, the site's `swarm.toml`, the environment (`SWARM_SECTION__KEY`), `--set
section.key=value`. An unknown key is an error in every layer: a typo must not silently mean the default. What all sites
must agree on is not here but in the charter.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from gossip.catchup import FULL, MODES
from node.egress.policy import ALL, NO, policy_of
from swarm import toml
from swarm.disclosure import MIN_CELL_MAX
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget

Value: TypeAlias = str | int | float | bool

ENVIRONMENT_PREFIX = "SWARM_"

LOGS = ("auto", "text", "json", "plain")
"""`plain` is what `text` was called first."""

LEVELS = ("debug", "info", "warning", "error")
APPROVALS = ("ask", "invited", "all")

PROCESSES_MAX = 64
"""Of one trainer: more GPUs than one machine has."""

_ADDRESS = re.compile(r"tcp://(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(\d{1,5})", re.ASCII)
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """Who and where. Paths are relative to the site's folder."""

    name: str = ""
    listen: str = ""
    """Where to listen, "tcp://0.0.0.0:7400"; empty means this site only dials out."""
    charter: str = "charter.toml"
    approve: str = "ask"
    """What this site says to proposals by itself: ask (its people), invited (yes to whom a member invited), or all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What is trained, on what."""

    file: str = "task.py"
    data: str = "data"
    """Handed to the task's `load_data` as the site's own folder or file."""
    loader: str = ""
    """A Python file whose `load_data` replaces the task's: how a site reads its data is its own business."""
    device: str = "cpu"
    threads: int = 0
    """CPU threads of the trainer; 0 lets PyTorch choose. Several processes divide them."""
    processes: int = 1
    """In how many processes train() runs at once, under torch.distributed: one for each GPU. The task must know how."""
    stall_s: float = 600.0
    """A trainer that makes no optimizer step for this long is stopped and said to hang."""
    round_steps: int = 0
    """Optimizer steps after which a round's training ends here, so that a slow site gives less and is in time; 0: all.
    A task's train() sees it by asking run.enough()."""
    round_seconds: float = 0.0
    """The same in seconds, from when the data are loaded. With both, whichever is first."""
    min_cell: int = 0
    """Of how many cases at least this site tells its scores, where the charter asks for fewer or nothing."""
    alone: bool = False
    """After the run, train the same task for as many rounds on this site's own data alone, for `swarm evaluate`."""
    forkserver: str = ""
    """Unix socket of a `node.forkserver`, which forks the trainers of several sites on one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """How this site keeps the ledger."""

    catch_up: str = FULL
    """full: after an absence every signature is checked. fast: one certificate for each stretch and the hashes that
    lead to it, entries' signatures in the last blocks only; for `swarm ledger verify` to do the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How this site gets to the others."""

    relay: bool = True
    """Whether this site forwards, where the charter allows relays and it listens, what two others have sealed."""
    proxy: str = ""
    """What every dial goes through: "socks5://host:port" or "http://host:port", with a "user@" in front of the host if
    the proxy asks for one. Empty: nothing."""
    proxy_password_file: str = ""
    """A file whose first line is that user's password. A password is never written here or on a command line."""
    ipv6: bool = False
    """Also look host names up for IPv6. An address in brackets is used in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """What of this site's disk is for what."""

    ballast_mb: int = 64
    """Room kept for the ledger, in MiB, on its disk: training stops before it is touched. 0: none."""
    keep_models: int = 0
    """So many models of the last rounds are written to `models/`, beside the last one of a run. 0: only that."""
    keep_every: int = 0
    """And the model of every round that this divides, for good. 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How the node process behaves."""

    log: str = "auto"
    """auto: live view on a terminal, JSON lines elsewhere; or text, json."""
    log_task: bool = False
    """Whether a stderr that is no terminal is told what the task prints and why it fails. It may name a patient."""
    log_file: str = "run/log.jsonl"
    """Facts as JSON lines, beside what goes to stderr; never what the task says. Empty: no file."""
    log_level: str = "info"
    log_file_mb: int = 10
    """Size of each file, in MiB."""
    log_files: int = 5
    """How many there are, the one being written included; the oldest is let go."""
    exit_when_done: bool = False
    linger_s: float = 600.0
    """With exit_when_done: how long to go on serving sites that are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings:
    """The live page, beside the node and ended with it. Files are relative to the site's folder."""

    listen: str = ""
    """Where `swarm start` has it served, "127.0.0.1:9460"; empty: nowhere. Another address than this machine's own
    takes the three below."""
    cert: str = ""
    key: str = ""
    """Certificate of that host and its private key (PEM), for TLS."""
    token_file: str = ""
    """What a browser must know; made if it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """What this site may tell of single records, over all rounds; the charter may say less, and then that counts."""

    epsilon: float = 0.0
    """Updates leave only if they were trained privately, and never beyond this; 0 leaves it to the charter."""
    delta: float = 0.0
    """The chance that it does not hold: less than one in the number of records, as 0.00001."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressSettings:
    """What may leave this site, whatever the swarm agrees on (`node.egress.policy`). 0 leaves a thing to the charter.

    Lists are words between spaces; "*" is everything.
    """

    rounds: int = 0
    """Of how many rounds updates may leave, over all swarms that this folder has been in."""
    peers: str = ALL
    """Who may see this site's updates: names of members, or at least 16 digits of their ids."""
    update_mb: float = 0.0
    """Size of an update as it travels, in MiB."""
    norm: float = 0.0
    """L2 norm that updates are clipped to, if the charter's is larger."""
    noise: float = 0.0
    """Least noise multiplier of private training."""
    epsilon_round: float = 0.0
    """What one round may cost of privacy, at the budget's delta."""
    metrics: str = ALL
    """Which metrics may be told, by name; empty: none."""
    require: str = ""
    """Terms without which this site takes no part: "exact", "privacy", "codec:bf16"."""
    forbid: str = ""
    """Terms with which it takes none: "gossip", "contribution"."""
    approve: str = NO
    """Which updates wait for a person to let them out (`swarm approve`): no, first or every."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of it, and where each value came from."""

    site: SiteSettings
    task: TaskSettings
    run: RunSettings
    ledger: LedgerSettings
    network: NetworkSettings
    storage: StorageSettings
    privacy: PrivacySettings
    egress: EgressSettings
    page: PageSettings
    origin: Mapping[str, str]


_Section: TypeAlias = (
    SiteSettings
    | TaskSettings
    | RunSettings
    | LedgerSettings
    | NetworkSettings
    | StorageSettings
    | PrivacySettings
    | EgressSettings
    | PageSettings
)

SECTIONS: dict[str, type[_Section]] = {
    "site": SiteSettings,
    "task": TaskSettings,
    "run": RunSettings,
    "ledger": LedgerSettings,
    "network": NetworkSettings,
    "storage": StorageSettings,
    "privacy": PrivacySettings,
    "egress": EgressSettings,
    "page": PageSettings,
}

_RANGES = {
    "task.min_cell": (0, MIN_CELL_MAX),
    "task.processes": (1, PROCESSES_MAX),
    "storage.ballast_mb": (24, 1 << 20),  # at least a segment of each of the journal's logs
    "storage.keep_models": (0, 1 << 20),
    "storage.keep_every": (0, 1 << 20),
    "run.log_file_mb": (1, 1 << 12),
    "run.log_files": (2, 100),
}

_EXAMPLES: dict[type[Value], str] = {
    str: 'write text, in a file between quotes, as "text"',
    int: "write a whole number, as 2",
    float: "write a number, as 2.5",
    bool: "write true or false",
}


def load(
    text: str, *, where: str, environment: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> Settings:
    """Return the settings of a site whose `swarm.toml`, found at `where`, holds `text`.

    Raises:
        UsageError: unreadable TOML, an unknown section or key, a value of the wrong type.
    """
    values: dict[str, Value] = {}
    origin = {f"{section}.{name}": "default" for section, kind in SECTIONS.items() for name in _names(kind)}
    for key, value in _from_toml(text, where):
        values[key], origin[key] = value, where
    for variable, raw in sorted((environment or {}).items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and "__" in variable:
            key = variable[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".")
            values[key], origin[key] = _parse(key, raw, f"the variable {variable}"), f"environment {variable}"
    for override in overrides:
        key, sign, raw = override.partition("=")
        if not sign:
            raise UsageError(f"couldn't read --set {override!r}", hint="write it as --set section.key=value")
        values[key], origin[key] = _parse(key, raw, f"--set {key}"), "--set"
    check_address(str(values.get("site.listen", "")), f"site.listen, from {origin['site.listen']}:")
    chosen = (("run.log", LOGS), ("run.log_level", LEVELS), ("site.approve", APPROVALS), ("ledger.catch_up", MODES))
    for key, choices in chosen:
        if values.get(key, choices[0]) not in choices:
            message = f"couldn't use {key} = {values[key]!r}, from {origin[key]}"
            raise UsageError(message, hint=f"choose one of {', '.join(choices)}")
    for key in ("task.round_steps", "task.round_seconds"):
        if not 0 <= (budget := values.get(key, 0)) < math.inf:  # type: ignore[operator]
            message = f"couldn't use {key} = {budget!r}, from {origin[key]}"
            raise UsageError(message, hint="write how much a round may take at this site, or 0 for no limit")
    for key, (least, most) in _RANGES.items():
        number = values.get(key, least)
        if not least <= int(number) <= most and not (key == "storage.ballast_mb" and number == 0):
            message = f"couldn't use {key} = {number}, from {origin[key]}"
            none = ", or 0 for none" if key == "storage.ballast_mb" else ""
            raise UsageError(message, hint=f"choose a number from {least} to {most}{none}")
    _check_privacy(values, origin)
    egress = EgressSettings(**_section("egress", values))  # type: ignore[arg-type]
    policy_of(egress)
    return Settings(
        site=SiteSettings(**_section("site", values)),  # type: ignore[arg-type]
        task=TaskSettings(**_section("task", values)),  # type: ignore[arg-type]
        run=RunSettings(**_section("run", values)),  # type: ignore[arg-type]
        ledger=LedgerSettings(**_section("ledger", values)),  # type: ignore[arg-type]
        network=NetworkSettings(**_section("network", values)),  # type: ignore[arg-type]
        storage=StorageSettings(**_section("storage", values)),  # type: ignore[arg-type]
        privacy=PrivacySettings(**_section("privacy", values)),  # type: ignore[arg-type]
        egress=egress,
        page=PageSettings(**_section("page", values)),  # type: ignore[arg-type]
        origin=origin,
    )


def _check_privacy(values: Mapping[str, Value], origin: Mapping[str, str]) -> None:
    epsilon, delta = (float(values.get(f"privacy.{name}", 0.0)) for name in ("epsilon", "delta"))
    if epsilon == delta == 0.0:
        return
    try:
        Budget(epsilon, delta)
    except UsageError as error:
        where = f"privacy.epsilon, from {origin['privacy.epsilon']}, and privacy.delta, from {origin['privacy.delta']}"
        raise UsageError(f"couldn't use {where}: {error.message}", hint="set both, as 3 and 0.00001") from None


def check_address(address: str, what: str) -> None:
    """Raise `UsageError` unless an address is empty or "tcp://host:port"; IPv6 stands in brackets."""
    match = _ADDRESS.fullmatch(address)
    if address and (match is None or not 1 <= int(match[2]) <= _PORT_MAX):
        hint = f"write it as tcp://host:port with a port from 1 to {_PORT_MAX}, or leave it empty"
        raise UsageError(f"couldn't use {what} {address!r} is no address", hint=hint)


def _from_toml(text: str, where: str) -> Sequence[tuple[str, Value]]:
    try:
        data = toml.loads(text)
    except ValueError as error:
        raise UsageError(f"couldn't read {where}: {error}", hint="fix the line it names") from None
    found: list[tuple[str, Value]] = []
    for section, table in data.items():
        if not isinstance(table, dict):
            hint = f"write it below one of {', '.join(f'[{name}]' for name in SECTIONS)}"
            raise UsageError(f"couldn't read {where}: {section!r} stands outside a section", hint=hint)
        for name, value in table.items():
            key = f"{section}.{name}"
            found.append((key, _typed(key, value, where)))
    return found


def _parse(key: str, raw: str, where: str) -> Value:
    """Turn text from a variable or an option into the type of its key."""
    kind = _type(key, where)
    if kind is bool:
        if raw.lower() not in ("true", "false"):
            raise UsageError(f"couldn't use {where}: {raw!r} is neither true nor false", hint="write true or false")
        return raw.lower() == "true"
    try:
        return kind(raw)
    except ValueError:
        message = f"couldn't use {where}: {raw!r} is not of type {kind.__name__}"
        raise UsageError(message, hint=_EXAMPLES[kind]) from None


def _typed(key: str, value: object, where: str) -> Value:
    kind = _type(key, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        message = f"couldn't read {where}: {key} = {value!r} must be of type {kind.__name__}"
        raise UsageError(message, hint=_EXAMPLES[kind])
    return value


def _type(key: str, where: str) -> type[Value]:
    section, _, name = key.partition(".")
    kind = SECTIONS.get(section)
    if kind is None or name not in _names(kind):
        known = [f"{s}.{n}" for s, k in SECTIONS.items() for n in _names(k)]
        close = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known keys are {', '.join(known)}"
        raise UsageError(f"couldn't use {where}: unknown key {key!r}", hint=hint)
    return type(getattr(kind(), name))


def _names(kind: type[_Section]) -> list[str]:
    return [field.name for field in fields(kind)]


def _section(section: str, values: Mapping[str, Value]) -> dict[str, Value]:
    prefix = section + "."
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}
