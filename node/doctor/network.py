"""SHELL. The network: names, ports, handshakes and terms of each neighbour, clocks, and this site's own port.

While the site's node runs it is asked what it knows: a second one under the same keys would take its links. Otherwise
the site's own transport dials, under the site's real keys, whomever the site would dial: its neighbours greet it as
they would greet its node, or say in words why not. Those that would dial it are only shaken hands with. A site that
was let in and has never run dials who invited it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import random
import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gossip import messages as m
from gossip import wire
from gossip.protocol import CAPABILITIES, PROTOCOL, Mismatch, mismatch, printable, version_text
from gossip.zeromq import Incident, PeerAddress, Timing, Transport
from node.console import size_words
from node.core import SOFTWARE, needs
from node.doctor.case import Case, Neighbour
from node.doctor.finding import Finding, fail, warn, well
from node.names import Names
from node.proxy import Door, dialling
from node.storage import DirectoryLock
from swarm.errors import Reject, UsageError
from swarm.identifiers import of_event
from swarm.machine import LinkChanged, NodeId, Received

CONNECT_S = 5.0
"""For a TCP connection: a firewall that drops packets says nothing, and a satellite answers within two."""

HANDSHAKE_S = 6.0
"""A peer on whose list our key is not leaves the handshake unanswered; ours gives it so long."""

MEETING_S = 12.0
"""For all neighbours together, at once."""

ANSWER_S = 2.0
"""After a neighbour's greeting, for its first heartbeat, which tells its time."""

PORT_MAX = 65_535

CLOCK_S_WARN = 5.0
"""Clocks that are set by NTP differ by less than a tenth of a second."""

CLOCK_S_TELL = 0.1
"""A smaller difference is that of the line, and of how busy two machines are."""

AT_ONCE = 16


@dataclass(slots=True)
class Meeting:
    """What became of one neighbour's link."""

    shaken: bool = False
    trouble: Incident | None = None
    hello: m.Hello | None = None
    refuse: str = ""
    offset_ms: int | None = None
    closed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Met:
    """What became of all; `skipped` says why nobody was met."""

    meetings: Mapping[NodeId, Meeting] = field(default_factory=dict)
    skipped: str = ""


# --- names and ports ------------------------------------------------------------------------------------------------


def listening(case: Case) -> list[Finding]:
    """Others can reach this site at the port where it listens; or its node is there already."""
    listen = case.settings.site.listen
    if not listen:
        return [well("listen", "this site only dials out: no port has to be open")]
    if case.status is not None:
        return [well("listen", f"the node listens on {listen}")]
    host, port = _address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("" if host == "*" else host, port))
    except OSError as error:
        text = f"this site cannot listen on {listen}: {error.strerror or error}"
        remedy = "stop the other program on this port, or choose another address or port as `listen` below [site]"
        return [fail("listen", text, remedy, identifier="SWARM-NET-LISTEN")]
    return [well("listen", f"{listen} is free; whether others get there only they can see")]


def names(case: Case) -> list[Finding]:
    """Every neighbour's name leads to an address."""
    seats = [seat for seat, _ in case.neighbours if seat.endpoint]
    if case.proxy is not None:
        return [well("dns", "names are looked up by the proxy")] if seats else []
    return _each("dns", _name, seats)


def _name(seat: Neighbour) -> Finding:
    host, port = _address(seat.endpoint)
    with contextlib.suppress(ValueError):
        return well("dns", f"{ipaddress.ip_address(host)} is an address, and no name", subject=seat.name)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"{host} leads to no address: {getattr(error, 'strerror', None) or error}"
        remedy = f"ask {seat.name} whether the name is right, and look at this machine's DNS with `getent hosts {host}`"
        return fail("dns", text, remedy, subject=seat.name, identifier="SWARM-NET-DNS")
    addresses = sorted({str(one[4][0]) for one in found})
    return well("dns", f"{host} is {', '.join(addresses[:4])}", subject=seat.name)


def ports(case: Case) -> list[Finding]:
    """Every neighbour that this site dials accepts a TCP connection."""

    def look(seat: Neighbour) -> Finding:
        # A connection that is closed again is noted at the other end: there is no need of one to know what is known.
        reached = case.told(seat.node).get("linked") if case.status is not None else _shaken(case, seat.node)
        return well("tcp", f"{seat.endpoint} accepts connections", subject=seat.name) if reached else _port(seat)

    if case.proxy is not None:
        return [_proxy_port(case.proxy.address)]
    if case.status is None:
        _meet(case)
    return _each("tcp", look, [seat for seat, dials in case.neighbours if dials and seat.endpoint])


def _proxy_port(address: str) -> Finding:
    """The proxy accepts a connection; what it says of the neighbours shows when they are dialled."""
    host, port = _address(address)
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return well("tcp", f"the proxy {address} accepts connections", subject="proxy")
    except (OSError, UnicodeError) as error:
        text = f"the proxy {address} cannot be reached: {getattr(error, 'strerror', None) or error}"
        remedy = "look whether network.proxy is right, and ask whoever runs the proxy"
        return fail("tcp", text, remedy, subject="proxy", identifier="SWARM-NET-UNREACHABLE")


def _shaken(case: Case, node: NodeId) -> bool:
    meeting = None if case.met is None else case.met.meetings.get(node)
    return meeting is not None and meeting.shaken


def _port(seat: Neighbour) -> Finding:
    address = _address(seat.endpoint)
    try:
        with socket.create_connection(address, timeout=CONNECT_S):
            return well("tcp", f"{seat.endpoint} accepts connections", subject=seat.name)
    except TimeoutError:
        text = f"{seat.endpoint} does not answer: something between drops the packets"
        remedy = (
            f"ask for this way out of your network, TCP to port {address[1]}; and {seat.name} for the way into theirs"
        )
        return fail("tcp", text, remedy, subject=seat.name, identifier="SWARM-NET-TIMEOUT")
    except ConnectionRefusedError:
        text = f"{seat.endpoint} is there, and nobody listens at this port"
        remedy = f"ask {seat.name} whether its node runs; if it does, whether the port is right and let in"
        return warn("tcp", text, remedy, subject=seat.name, identifier="SWARM-NET-UNREACHABLE")
    except (OSError, UnicodeError) as error:
        text = f"{seat.endpoint} cannot be reached: {getattr(error, 'strerror', None) or error}"
        remedy = f"look at this machine's network and routes, and ask {seat.name} whether the address is right"
        return fail("tcp", text, remedy, subject=seat.name, identifier="SWARM-NET-UNREACHABLE")


def _each(check: str, look: Callable[[Neighbour], Finding], seats: Sequence[Neighbour]) -> list[Finding]:
    """Look at all of them at once: each may keep us waiting."""

    def safely(seat: Neighbour) -> Finding:
        try:
            return look(seat)
        except UsageError as error:
            return fail(check, error.message, error.hint, subject=seat.name, identifier=error.identifier)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [*pool.map(safely, seats)]


def _address(endpoint: str) -> tuple[str, int]:
    """Return host and port of "tcp://host:port". Raises `UsageError` where there are none: a card holds any text."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdecimal() or not port.isascii() or not 0 < int(port) <= PORT_MAX:
        raise UsageError(
            f"{endpoint!r} is no address that can be dialled",
            hint="ask that site to take another one with `swarm rotate`",
            identifier="SWARM-NET-ADDRESS",
        )
    return host.strip("[]"), int(port)


# --- handshakes and terms -------------------------------------------------------------------------------------------


def links(case: Case) -> list[Finding]:
    """Every neighbour that this site dials knows its key, holds the key on its card, and has the same terms."""
    if case.status is not None:
        return [_as_told(case, seat, dials) for seat, dials in case.neighbours]
    met = _meet(case)
    if met.skipped:
        return [warn("link", met.skipped, "wait until it runs, then ask again")]
    found = []
    for seat, dials in case.neighbours:
        meeting = met.meetings.get(seat.node)
        if meeting is not None and not (_unreached(meeting) and dials):
            found.append(_as_met(case, seat, meeting, dials))
        elif meeting is not None:
            continue  # What is wrong with the way to its port stands there already.
        else:
            text = f"{seat.name} dials this site, which cannot dial it: that link shows once both nodes run"
            found.append(well("link", text, subject=seat.name))
    return found + _through_relays(case)


def _through_relays(case: Case) -> list[Finding]:
    """Say whom this site reaches through others only: nobody but they can tell whether that works."""
    me, terms = case.terms.index(case.node), case.terms
    found = []
    for other, relays in () if me is None or not case.signed.charter.relayed else terms.relayed(me):
        names = " or ".join(terms.members[relay].name for relay in relays)
        text = f"neither can dial the other: what they say goes, sealed, through {names}, once all run"
        found.append(well("link", text, subject=terms.members[other].name))
    return found


def _unreached(meeting: Meeting) -> bool:
    return not meeting.shaken and meeting.trouble is not None and meeting.trouble.event == "unreachable"


def _as_told(case: Case, seat: Neighbour, dials: bool) -> Finding:
    """Put what the running node knows of a neighbour into words."""
    told = case.told(seat.node)
    if told.get("refused"):
        remedy = "put the terms that all have agreed on in both folders, and start the site that was changed again"
        return fail("link", str(told["refused"]), remedy, subject=seat.name, identifier=str(told.get("refused_id", "")))
    if told.get("linked"):
        version = f", protocol {told['protocol']}" if told.get("protocol") else ""
        return well("link", f"linked: it knows our key and has our terms{version}", subject=seat.name)
    nothing = "there is no link, and nothing is known of why" if dials else "it dials this site, and does not just now"
    why = str(told.get("trouble") or nothing)
    return warn("link", why, f"ask {seat.name} whether its node runs, and compare what its log says", subject=seat.name)


def _as_met(case: Case, seat: Neighbour, meeting: Meeting, dials: bool) -> Finding:
    """Put what became of a meeting into words."""
    if meeting.refuse or meeting.hello is not None:
        problem = _mismatch(case, seat, meeting)
        if problem is not None:
            remedy = "put the terms that all have agreed on in both folders, and start the site that was changed again"
            return fail("link", problem.text, remedy, subject=seat.name, identifier=problem.identifier)
        assert meeting.hello is not None, "without a greeting there is a mismatch"
        version = f"protocol {version_text(meeting.hello.protocol)}, {printable(meeting.hello.software, 64)}"
        return well("link", f"it knows our key, holds its own, and has our terms ({version})", subject=seat.name)
    if meeting.shaken and not dials:
        text = "it knows our key and holds its own; it greets over the link that it dials itself"
        return well("link", text, subject=seat.name)
    if meeting.shaken:
        text = f"{seat.name} let us in and then said nothing"
        return warn("link", text, "ask again: its node may be very busy, or just starting", subject=seat.name)
    if meeting.trouble is None:
        text = f"nothing at {seat.endpoint} began a handshake within {MEETING_S:g} s"
        remedy = f"ask {seat.name} whether its node runs, and whether something else answers at this port"
        return warn("link", text, remedy, subject=seat.name, identifier="SWARM-NET-NOT-A-PEER")
    identifier, event = of_event(meeting.trouble.event), meeting.trouble.event
    remedies = {
        "denied": f"ask {seat.name} whether this site was removed, or its key replaced; `swarm members` there shows it",
        "handshake_timeout": f"compare `swarm charter show` with {seat.name}: it may know this site by another card",
        "wrong_server_key": f"compare `swarm charter show` with {seat.name}: its keys are not those of its card here",
        "handshake_protocol": f"ask {seat.name} what listens at {seat.endpoint}: it is not a peer of this swarm",
    }
    if event == "handshake_timeout" and case.joining:
        text = f"{seat.name} invited this site, and its key is on no list there yet: the members have to agree first"
        remedy = f"run `swarm join` again, which waits for that; `swarm members` at {seat.name} shows how it stands"
        return warn("link", text, remedy, subject=seat.name, identifier=identifier)
    if event in remedies:
        return fail("link", meeting.trouble.text, remedies[event], subject=seat.name, identifier=identifier)
    remedy = f"ask {seat.name} whether its node runs"
    return warn("link", meeting.trouble.text, remedy, subject=seat.name, identifier=identifier)


def _mismatch(case: Case, seat: Neighbour, meeting: Meeting) -> Mismatch | None:
    if meeting.hello is not None:
        problem = mismatch(_hello(case), meeting.hello, seat.node, seat.name, needs(case.signed.charter))
        if problem is not None:
            return problem
    if meeting.refuse:
        return Mismatch("SWARM-HELLO-REFUSED", f"{seat.name} refuses to work with this site: {meeting.refuse}")
    return None


def _hello(case: Case) -> m.Hello:
    """Return the greeting that this site's node would say."""
    charter = case.signed.charter
    return m.Hello(
        protocol=PROTOCOL,
        software=SOFTWARE,
        capabilities=CAPABILITIES,
        node=case.node,
        charter=case.signed.ledger_id,
        task=charter.task.digest,
        layout=charter.task.layout,
        answer=True,
    )


def _meet(case: Case) -> Met:
    """Return what became of meeting the neighbours; they are met once."""
    if case.met is None:
        case.met = _met(case)
    return case.met


def _met(case: Case) -> Met:
    """Dial everybody who can be dialled, under this site's keys, and hear what they say."""
    with dialling(case.proxy) as door:
        return _dialled(case, door)


def _dialled(case: Case, door: Door | None) -> Met:
    seats = {seat.node: (seat, dials) for seat, dials in case.neighbours if seat.endpoint}
    try:
        lock = DirectoryLock(case.site.run / "lock")
    except UsageError:
        return Met(skipped="another process uses this folder, and does not answer: nobody was dialled")
    clock = case.clock
    transport = Transport(
        secret_key=case.identity.curve_secret,
        public_key=case.identity.curve_public,
        listen=None,
        peers=[
            PeerAddress(node=seat.node, name=seat.name, curve_key=seat.curve_key, endpoint=seat.endpoint)
            for seat, _ in seats.values()
        ],
        clock=clock.now,
        rng=random.Random(0),  # noqa: S311 - jitter of redials
        timing=dataclasses.replace(Timing(), handshake_s=HANDSHAKE_S),
        ipv6=case.settings.network.ipv6,
        names=Names(ipv6=case.settings.network.ipv6),
        through=None if door is None else door.way,
    )
    meetings = {node: Meeting() for node in seats}
    hello = wire.encode(_hello(case))
    end = clock.now() + MEETING_S
    try:
        transport.open()
        while (now := clock.now()) < end and not all(_over(one, now) for one in meetings.values()):
            for item in transport.poll(0.1):
                match item:
                    case LinkChanged(peer=peer, up=True):
                        meetings[peer].shaken = True
                        meetings[peer].closed_at = now + ANSWER_S
                        # Whoever dials us would take a greeting over our own link for the beginning of theirs.
                        if seats[peer][1]:
                            transport.send(peer, hello)
                    case Incident(peer=peer) if peer is not None:
                        meetings[peer].trouble = meetings[peer].trouble or item
                        meetings[peer].closed_at = now
                    case Received():
                        _hear(meetings[item.sender], item.frame, now)
                    case _:
                        pass
            for item in () if door is None else door.incidents():
                # It does not say of whom: all that are not there yet wait for the same proxy.
                for meeting in meetings.values():
                    meeting.trouble = meeting.trouble or (None if meeting.shaken else item)
    finally:
        transport.close()
        lock.close()
    return Met(meetings)


def _over(meeting: Meeting, now: float) -> bool:
    """Whether nothing more is to be expected of a meeting."""
    if meeting.refuse or meeting.offset_ms is not None:
        return True
    return bool(meeting.closed_at) and now >= meeting.closed_at


def _hear(meeting: Meeting, frame: bytes, now: float) -> None:
    try:
        message = wire.decode(frame)
    except Reject:
        return  # Of a later version, perhaps. What is not understood proves nothing.
    match message:
        case m.Hello():
            meeting.hello = message
        case m.Refuse():
            meeting.refuse = printable(message.reason)
        case m.Heartbeat():
            meeting.offset_ms = message.now_ms - int(now * 1000)
        case _:
            pass


# --- clocks and lines -----------------------------------------------------------------------------------------------


def clocks(case: Case) -> list[Finding]:
    """This machine's clock goes with the others'."""
    offsets = sorted(offset for seat, _ in case.neighbours if (offset := _offset(case, seat.node)) is not None)
    if not offsets:
        text = "no other site's clock could be seen"
        return [warn("clock", text, "ask again when other nodes run, and look whether `timedatectl` says synchronized")]
    middle = statistics.median(offsets) / 1000
    where = f"{abs(middle):.1f} s {'ahead' if middle > 0 else 'behind'}" if abs(middle) >= CLOCK_S_TELL else "the same"
    text = f"the others' clocks are {where} ({len(offsets)} seen)"
    remedy = "let this machine set its clock by NTP; order never goes by clocks, but dates in the ledger do"
    if abs(middle) * 1000 > case.signed.charter.ledger.max_skew_ms:
        return [
            fail("clock", f"{text}: the charter allows {case.signed.charter.ledger.max_skew_ms / 1000:g} s", remedy)
        ]
    if abs(middle) > CLOCK_S_WARN:
        return [warn("clock", text, remedy)]
    return [well("clock", text, offset_s=round(middle, 3))]


def _offset(case: Case, node: NodeId) -> int | None:
    if case.status is None:
        meeting = None if case.met is None else case.met.meetings.get(node)
        return None if meeting is None else meeting.offset_ms
    told = case.told(node)
    return int(str(told["clock_offset_ms"])) if told.get("linked") else None


def bandwidth(case: Case) -> list[Finding]:
    """How fast models came from each neighbour, in real transfers: nobody has to serve bytes for the asking."""
    found = []
    for seat, _ in case.neighbours:
        rate = int(str(case.told(seat.node).get("rate_bytes_s", 0)))
        if rate:
            text = f"models came at {size_words(rate)}/s"
            found.append(well("bandwidth", text, subject=seat.name, bytes_s=rate))
    if not found:
        text = "not known before the node has fetched a model that takes some seconds"
        return [well("bandwidth", text)]
    return found
