"""SHELL. A network of one's own: every site in a network namespace with an address of its own, all joined by a hub.

Each site has one veth pair to the hub's namespace, and the hub routes between them. So all that one site sends to
another passes the hub's routing tables, where a rule `from A to B blackhole` swallows it without a word, one way, as a
firewall does that drops: no reset, no ICMP, an open connection that nobody closes. Lines are narrowed by token buckets
(tc tbf, htb). Delays are not played: that takes netem, which not every kernel has.

It needs root and `ip`; nothing else is touched, and the hub has no way out. What an interrupted run leaves behind, the
next one removes: names carry the number of the process that made them.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

PORT = 7400
"""Where every site listens: each has all ports of its own address to itself."""

RULE_PREFERENCE = 1000
"""Of rules that cut: before the main table, behind the local one."""

SITES_MAX = 250

BURST_BYTES = 32_768
"""What a narrowed line lets through at once: a few packets, and above what one timer tick of a fast line carries."""

RATE_MIN, RATE_MAX = 8_000, 10_000_000_000
"""Bits a second that the token buckets are asked for: below, a packet takes seconds; above, nothing is limited."""

_NAME = re.compile(r"swarm-(\d+)-(hub|\d+)")

Pair = tuple[int, int]
"""(sender, receiver), by place in the scenario."""


def why_not() -> str:
    """Return why there can be no network here, in words; nothing if there can."""
    if os.geteuid() != 0:
        return "network namespaces take root: run it with sudo"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "there is no `ip` or no `tc` here: install iproute2"
    probe = f"swarm-{os.getpid()}-0"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return ""


def sweep() -> list[str]:
    """Remove what runs left behind whose process is gone; return the names."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    found = [match for line in listed.splitlines() if (match := _NAME.match(line))]
    left = [match[0] for match in found if not _alive(int(match[1]))]
    for name in left:
        _remove(name)
    return left


class Network:
    """So many sites' namespaces, for the length of a `with` statement."""

    def __init__(self, sites: int) -> None:
        assert 1 <= sites <= SITES_MAX, f"{sites} sites are not 1 to {SITES_MAX}"
        self.sites = sites
        self._hub = self._name("hub")
        self._cuts: dict[str, tuple[Pair, ...]] = {}
        self._shaped: set[int] = set()

    def __enter__(self) -> Self:
        sweep()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the namespaces, and end whatever still runs in them. Again, it does nothing."""
        for site in range(self.sites):
            _remove(self._name(site))
        _remove(self._hub)

    def address(self, site: int) -> str:
        """Return the address of a site."""
        return f"10.83.{site + 1}.2"

    def endpoint(self, site: int) -> str:
        """Return where a site listens, for its card."""
        return f"tcp://{self.address(site)}:{PORT}"

    def inside(self, site: int) -> tuple[str, ...]:
        """Return what to put before a command so that it runs at a site. It becomes the command: one process."""
        return ("ip", "netns", "exec", self._name(site))

    # --- cutting ------------------------------------------------------------------------------------------------

    def cut(self, name: str, pairs: Sequence[Pair]) -> None:
        """Swallow what these senders send to these receivers, until the cut of this name is mended."""
        assert name not in self._cuts, f"there is a cut {name} already"
        before = self._severed()
        self._cuts[name] = tuple(pairs)
        self._rules("add", sorted(self._severed() - before))

    def mend(self, name: str) -> None:
        """Lift a cut; what another cut severs too stays severed. One that is not there needs no mending."""
        before = self._severed()
        self._cuts.pop(name, None)
        self._rules("del", sorted(before - self._severed()))

    def mend_all(self) -> None:
        """Lift every cut."""
        for name in [*self._cuts]:
            self.mend(name)

    def _severed(self) -> set[Pair]:
        return {pair for pairs in self._cuts.values() for pair in pairs}

    def _rules(self, what: str, pairs: Sequence[Pair]) -> None:
        lines = [
            f"rule {what} pref {RULE_PREFERENCE} from {self.address(a)} to {self.address(b)} blackhole"
            for a, b in pairs
        ]
        _batch(["ip", "-n", self._hub], lines)

    # --- shaping ------------------------------------------------------------------------------------------------

    def line(self, site: int, uplink_bytes_s: float, downlink_bytes_s: float) -> None:
        """Give a site a line of this width each way; inf for no limit."""
        if uplink_bytes_s < math.inf:
            bucket = f"rate {_bits(uplink_bytes_s)}bit burst {BURST_BYTES} latency 2s"
            _batch(["tc", "-n", self._name(site)], [f"qdisc replace dev eth0 root tbf {bucket}"])
        if downlink_bytes_s < math.inf:
            self._shape(site)
            rate = f"rate {_bits(downlink_bytes_s)}bit burst {BURST_BYTES}"
            _batch(["tc", "-n", self._hub], [f"class replace dev s{site} parent 1: classid 1:1 htb {rate}"])

    def slow(self, a: int, b: int, bytes_s: float) -> None:
        """Narrow the way between two sites, in each direction."""
        for source, target in ((a, b), (b, a)):
            self._shape(target)
            device, number = f"dev s{target}", 16 + source
            rate = f"rate {_bits(bytes_s)}bit burst {BURST_BYTES}"
            match = f"match ip src {self.address(source)}/32"
            _batch(
                ["tc", "-n", self._hub],
                [
                    f"class replace {device} parent 1: classid 1:{number:x} htb {rate}",
                    f"filter replace {device} parent 1: protocol ip prio {number} u32 {match} flowid 1:{number:x}",
                ],
            )

    def quicken(self, a: int, b: int) -> None:
        """Let the way between two sites be as wide as their lines again."""
        for source, target in ((a, b), (b, a)):
            device, number = f"dev s{target}", 16 + source
            _batch(
                ["tc", "-n", self._hub],
                [
                    f"filter del {device} parent 1: protocol ip prio {number}",
                    f"class del {device} classid 1:{number:x}",
                ],
            )

    def _shape(self, site: int) -> None:
        """Let packets to a site be told apart; those of no class of their own take 1:1."""
        if site not in self._shaped:
            self._shaped.add(site)
            whole = f"class add dev s{site} parent 1: classid 1:1 htb rate {RATE_MAX}bit"
            _batch(["tc", "-n", self._hub], [f"qdisc add dev s{site} root handle 1: htb default 1", whole])

    # --- making -------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        names = [self._name(site) for site in range(self.sites)]
        _batch(["ip"], [f"netns add {name}" for name in (self._hub, *names)])
        hub = ["link set lo up"]
        for site, name in enumerate(names):
            hub += [
                f"link add s{site} type veth peer name eth0 netns {name}",
                f"addr add 10.83.{site + 1}.1/30 dev s{site}",
                f"link set s{site} up",
            ]
        _batch(["ip", "-n", self._hub], hub)
        for site, name in enumerate(names):
            own = [f"addr add {self.address(site)}/30 dev eth0", "link set lo up", "link set eth0 up"]
            _batch(["ip", "-n", name], [*own, f"route add default via 10.83.{site + 1}.1"])
        _run(["ip", "netns", "exec", self._hub, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])

    def _name(self, which: int | str) -> str:
        return f"swarm-{os.getpid()}-{which}"


def _bits(bytes_s: float) -> int:
    return round(min(max(8 * bytes_s, RATE_MIN), RATE_MAX))


def _batch(command: Sequence[str], lines: Sequence[str]) -> None:
    """Give several lines to one `ip` or `tc`: starting one for each takes as long as all else together."""
    if lines:
        _run([*command, "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: Sequence[str], given: str = "") -> None:
    done = subprocess.run([*command], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"couldn't run {' '.join(command)} with {given!r}: {done.stderr.strip()}")


def _remove(name: str) -> None:
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for number in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
