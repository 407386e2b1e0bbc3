"""Every parser of bytes that come from somebody else, in one table: what it may raise, take and cost.

A row reads bytes as the product would read them, and looks at what came out as far as the product would. Whatever the
bytes, nothing but what `allowed` names may escape, and work and memory stay within a bound that follows from how many
bytes there were. `covers` names the functions that a row stands for; `test_table` finds a parser that no row does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import io
import json
import random
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from gossip import messages as m
from gossip import relay, wire
from gossip.noise import KeyPair, Opening, read_opening
from node import backup, bundle, config
from node.admission import Invitation, contact_from_toml, invitation_from_toml, invitation_to_toml
from node.cli.graphs import read_arcs
from node.cli.ledger.trust import SCHEMA as TRUST
from node.cli.ledger.trust import Memory
from node.cli.ledger.wholeness import _Proof
from node.core import SOFTWARE
from node.loop.protocol import Reply, Scores, reply_of
from node.proxy import HEAD_BYTES_MAX, Door, Proxy, _Refused
from node.runtime import question_of
from node.simulation import datasets
from node.simulation.results import Result
from node.site import SETTINGS_TEXT
from node.tables.forests import Forest
from swarm import charter as c
from swarm import codec, vector
from swarm.errors import LedgerError, Reject, StoreError, UsageError
from swarm.homomorphic.paillier import PublicKey
from swarm.homomorphic.sums import read_offer
from swarm.homomorphic.threshold import KeyShare, SharedKey
from swarm.identity import transport_keys
from swarm.invite import Invite, invite, open_invite
from swarm.ledger import block, evidence, journal, merkle, note, snapshot, state, tiles, tlog
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.ledger.block import FINALIZE, NOTARIZE, Block, Certificate, FinalBlock, Header, Vote
from swarm.ledger.consensus import Status
from swarm.ledger.cosign import Cosignature
from swarm.machine import Contact, Digest, LinkChanged, NodeId, Received, Record, Started, Stored
from swarm.masked_round import Kept, read_kept
from swarm.masking import ring, statements
from swarm.masking.attempt import Attempt
from swarm.mixing import sketch
from swarm.mixing.compress import forms, noise
from swarm.salt import SALT_BYTES, message_of
from swarm.terms import Change, add, founding, remove
from swarm.vector import blob_digest, leaf_hashes
from tests.builders import CODE, LAYOUT, Feeds, contribution, make_swarm
from tests.builders import identity as member
from tests.sites import calm_run
from tests.swarm.homomorphic import keys as small
from tests.swarm.homomorphic import parties
from tests.swarm.masking.members import Members
from topologies import own, scenario
from topologies.world.clock import EPOCH_S
from topologies.world.disk import SimulatedDisk

ELEMENTS = 1_000
"""Of a model that a compressed message is read for."""


@dataclass(frozen=True, slots=True)
class Parser:
    """One row of the table.

    Attributes:
        read: Reads bytes, and looks at what came out.
        seeds: Makes valid examples.
        allowed: What may escape.
        covers: Functions, as "module:qualified name", that take bytes apart and that `read` gets to.
        shape: What the bytes are made of, for `tests.fuzz.mutate`: "msgpack", "text" or "bytes".
        skip: Bytes in front of the MessagePack.
        calls: Most calls of functions, of Python's and of C's, beside `calls_byte` for each byte read.
        memory: Most bytes held at once, beside `memory_byte` for each byte read.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    allowed: tuple[type[BaseException], ...]
    covers: tuple[str, ...] = ()
    shape: str = "bytes"
    skip: int = 0
    calls: int = 20_000
    calls_byte: int = 40
    memory: int = 4 << 20
    memory_byte: int = 100


# --- what there is to read ----------------------------------------------------------------------------------------

H = bytes(range(32))
SWARM = make_swarm(4, rounds=2)  # the one of `calm_run` below
SIGNED = SWARM.signed
OTHER = NodeId(SWARM.identities[1].node)
NOW_S = EPOCH_S


def _forests() -> list[bytes]:
    """Two trees of three nodes."""
    leaf = {"left": np.array([1, -1, -1], "<i4"), "right": np.array([2, -1, -1], "<i4")}
    leaf |= {"feature": np.array([1, -2, -2], "<i4"), "threshold": np.array([0.5, -2, -2], "<f8")}
    leaf["value"] = np.array([[0.5, 0.5], [1, 0], [0, 1]], "<f4")
    return [Forest(2, 2, [leaf, leaf]).encode(), Forest(2, 2, [leaf]).encode()]


def _forest(data: bytes) -> object:
    """A tree that is let in is walked to a leaf."""
    forest = Forest.decode(data)
    if forest.features < ELEMENTS:
        forest.predict(np.zeros((2, forest.features)))
    return forest


def _replies() -> list[bytes]:
    """What a user's script says to its node."""
    said = [
        Reply("load", protocol=1, layout=H),
        Reply("step", round=1, step=3),
        Reply("train", ticket=1, round=1, samples=5, metrics={"loss": 0.5}, remarks=["x"], parameters=[0, 2]),
        Reply("train", ticket=2, round=2, samples=5, evaluation=Scores(3, {"accuracy": 0.5})),
        Reply("evaluate", ticket=3, round=2, later=True),
        Reply("evaluate", ticket=3, round=2, error="no such column"),
    ]
    return [msgspec.msgpack.encode(one) for one in said]


@functools.cache
def _payloads() -> tuple[bytes, ...]:
    """The blocks of a whole run."""
    return calm_run(rounds=2).payloads


def _signed() -> c.SignedCharter:
    return calm_run(rounds=2).swarm.signed


@functools.cache
def _finals() -> tuple[FinalBlock, ...]:
    return tuple(codec.decode(payload, FinalBlock, limit=1 << 21) for payload in _payloads())


@functools.cache
def _leaves() -> tuple[bytes, ...]:
    """A leaf of every kind that a run, or what members write beside it, leaves."""
    feeds, who = Feeds(SWARM), SWARM.identities
    written = [
        feeds.write(0, contribution(SWARM, 0)),
        feeds.write(0, e.Attest(1, 0, H, 128, (), b"")),
        feeds.write(1, e.Receipt(1, (1, 2))),
        feeds.write(1, e.Partial(1, 0, 0, H, 64, (5,))),
        feeds.write(2, e.MemberProposal(codec.encode(remove(who[3].node)), int(NOW_S * 1000) + 9_999, b"")),
        feeds.write(2, e.MemberVote(H, True)),
        feeds.write(3, statements.Keys(1, 1, 0, H, 5, *_masking().attempts[0].keys)),
        feeds.write(3, e.MaskDeal(1, 3, H, 1_000)),
        feeds.write(3, statements.Reveal(1, 1, 9, ((0, bytes(64)), (2, bytes(64))))),
    ]
    found: dict[int, bytes] = {}
    for leaf in (*(leaf for final in _finals() for leaf in final.block.leaves), *written, SIGNED.genesis().encode()):
        found.setdefault(e.decode_entry(leaf).kind, leaf)
    return tuple(found.values())


@functools.cache
def _states() -> tuple[state.State, ...]:
    return tuple(result.state for result in audit(_payloads(), _signed(), trusting=True))


def _messages() -> tuple[m.Message, ...]:
    vote, certificate = (
        Vote(0, 5, NOTARIZE, H, 3, bytes(64)),
        Certificate(0, 5, NOTARIZE, H, (0, 1, 2), (bytes(64),) * 3),
    )
    final = _finals()[-1]
    return (
        m.Hello((1, 0), SOFTWARE, ("relay",), OTHER, SIGNED.ledger_id, CODE, LAYOUT, True),
        m.Hello((1, 99), "swarm 9", (), OTHER, SIGNED.ledger_id, CODE, LAYOUT, False),
        m.Refuse("another charter"),
        m.Heartbeat(1_000, 4, H, 1 << 40, (m.Progress(OTHER, 1, 2, 3, 4, 5, 6),)),
        m.EntryMessage(Feeds(SWARM).write(1, contribution(SWARM, 1))),
        m.FeedHeads(((OTHER, 7), (H, 0))),
        m.Propose(final.block),
        m.CastVote(vote),
        m.Certify(certificate),
        m.Standing(Status(0, 4, 5, 6, ())),
        m.GetBlocks(1, 5),
        m.BlockRange(1),
        m.Blocks((final,)),
        m.Have(H, 3 << 20, b"\x05"),
        m.GetLeaves(SIGNED.charter.task.initial_model),
        m.Leaves(H, 2 << 20, H + H),
        m.Want(SIGNED.charter.task.initial_model, 0, 64),
        m.ChunkHeader(H, 1 << 20),
        m.Missing(H),
        m.Cosign(Cosignature(41, H, 1_700_000_000, OTHER, bytes(64))),
        m.Knock(SIGNED.charter.members[0]),
        m.KnockAnswer("voting", "2 of 3"),
        m.Remind(7),
        m.Reminder(0, (vote,), (certificate,), b"leaf"),
    )


@functools.cache
def frames() -> tuple[bytes, ...]:
    """A frame of every kind."""
    return tuple(wire.encode(message) for message in _messages())


# --- from the wire --------------------------------------------------------------------------------------------------


def _frame(data: bytes) -> None:
    message = wire.decode(data)
    if not isinstance(message, m.Hello):  # of which a later version may have fields that are passed over
        assert wire.encode(message) == data, "what is accepted is written one way"


@functools.cache
def _started() -> tuple[Stored, ...]:
    hashes = leaf_hashes(SWARM.initial)
    return (Stored(blob_digest(len(SWARM.initial), hashes), len(SWARM.initial), hashes),)


def _machine(data: bytes) -> None:
    """A member that is linked and has greeted says these frames, one after the other, each with a payload or none."""
    node = SWARM.node(0)
    node.handle(Started((), _started()), NOW_S)
    node.handle(LinkChanged(OTHER, True), NOW_S)
    hello = m.Hello((1, 0), SOFTWARE, ("relay",), OTHER, SIGNED.ledger_id, CODE, LAYOUT, False)
    node.handle(Received(OTHER, wire.encode(hello)), NOW_S)
    for number in range(16):
        if not data:
            break
        length, payload = int.from_bytes(data[:2], "big"), len(data) > 2 and data[2] & 1
        frame, data = data[3 : 3 + length], data[3 + length :]
        node.handle(Received(OTHER, frame, frame[::-1] if payload else None), NOW_S + number / 10)


def _said(*said: bytes, payload: bool = False) -> bytes:
    return b"".join(len(frame).to_bytes(2, "big") + bytes((payload,)) + frame for frame in said)


@functools.cache
def _keys(number: int) -> KeyPair:
    return KeyPair.of(hashlib.sha256(b"pair %d" % number).digest())


def _opening() -> Opening:
    return Opening(_keys(0), _keys(1).public, relay.PROLOGUE, _keys(2), b"text")


def _handshake(data: bytes) -> None:
    if data[:1] == b"\0":
        read_opening(_keys(1), _keys(0).public, relay.PROLOGUE, data[1:]).answer(_keys(3))
        return
    opening = _opening()
    answer, _ = read_opening(_keys(1), _keys(0).public, relay.PROLOGUE, opening.message).answer(_keys(3))
    if data[:1] == b"\1":
        opening.finish(data[1:])
    else:
        session, _ = opening.finish(answer)
        session.open(int.from_bytes(data[1:9], "big"), data[9:], b"label")


def _handshakes() -> list[bytes]:
    opening = _opening()
    answer, session = read_opening(_keys(1), _keys(0).public, relay.PROLOGUE, opening.message).answer(_keys(3))
    counter, sealed = session.seal(b"text", b"label")
    return [b"\0" + opening.message, b"\1" + answer, b"\2" + counter.to_bytes(8, "big") + sealed]


def _carried(data: bytes) -> None:
    """Frames from a relay to an end, and from an end to a relay."""
    ends = [NodeId(bytes((i,)) * 32) for i in (1, 2, 3)]
    me, via, far = ends
    rng = random.Random(1)
    box = relay.Passages(me=me, keys=_keys(0), ledger_id=H, draw=lambda: rng.randbytes(32))
    box.reach(
        [Contact(via, "r", _keys(3).public, "tcp://h:1"), Contact(far, "b", _keys(1).public, "", (via,))], ends, 1.0
    )
    box.link(via, True, 1.0)
    for number, part in enumerate(data.split(b"|")[:16]):
        frame, mark, payload = part.partition(b"~")
        box.receive(via, frame, payload if mark else None, 1.0 + number)
        box.step(1.0 + number)
    box.carry(lambda _: 0)


def _carried_frames() -> list[bytes]:
    head = [bytes((wire.WIRE_VERSION, wire.CARRIED, way, what)) + bytes((who,)) * 32 for way, what, who in (
        (0, 3, 3), (1, 0, 2), (1, 0, 3), (1, 1, 3), (1, 2, 3), (1, 3, 3), (1, 4, 3), (1, 5, 3), (1, 6, 3))]  # fmt: skip
    return [*(one + bytes(64) for one in head), *(one + bytes(64) + b"~payload" for one in head), b"|".join(head)]


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


class _Deaf(asyncio.StreamWriter):
    """What is asked goes nowhere."""

    def __init__(self) -> None:
        pass

    def write(self, data: Any) -> None:
        """Forget it."""

    def __del__(self, *_: object) -> None:
        pass


def _proxied(data: bytes) -> None:
    """What a proxy answers; the first byte chooses which kind, and whether there is a user."""
    kind = data[0] if data else 0
    user = ("user", "secret") if kind & 2 else ("", "")
    door = Door(Proxy(("http", "socks5")[kind & 1], "proxy:1", *user))
    reader = asyncio.StreamReader(limit=HEAD_BYTES_MAX, loop=_loop())
    reader.feed_data(data[1:])
    reader.feed_eof()
    ask = door._ask_socks if kind & 1 else door._ask_http
    _loop().run_until_complete(ask("host:1", reader, _Deaf(), "the proxy"))


_PROXY_RAISES = (
    _Refused,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
)  # `Door._connect` tells them in words


# --- the ledger -----------------------------------------------------------------------------------------------------

RECORDS: tuple[type, ...] = (
    FinalBlock, Block, Vote, Certificate, e.Entry, e.Contribution, e.Attest, e.Receipt, e.Partial, e.Push, e.Evaluation,
    e.RoundClose, e.RoundCommit, e.BlockCert, e.Evidence, e.MemberProposal, e.MemberVote, e.Epoch, evidence.Proposal,
    Change, Invite, c.Charter, c.Card, vector.Layout, Status, e.Score, e.MaskRoster, e.MaskDeal, statements.Keys,
    statements.Reveal,
)  # fmt: skip


def _record(data: bytes) -> None:
    type_ = RECORDS[data[0] % len(RECORDS)] if data else Vote
    value = codec.decode(data[1:], type_, limit=1 << 21)
    assert codec.encode(value) == data[1:], "what is accepted is written one way"


def _records() -> list[bytes]:
    final = _finals()[-1]
    found: list[Any] = [final, final.block, *final.certificate, *(e.decode_entry(leaf) for leaf in _leaves())]
    found += [SIGNED.charter, SIGNED.charter.members[0], remove(OTHER), Vote(0, 5, NOTARIZE, H, 3, bytes(64))]
    bodies = [(RECORDS.index(kind), entry.body) for leaf in _leaves() for entry in [e.decode_entry(leaf)] for kind in RECORDS
              if kind.__name__.lower() == e.KIND_NAMES[entry.kind].replace("_", "")]  # fmt: skip
    return [bytes((RECORDS.index(type(value)),)) + codec.encode(value) for value in found] + [
        bytes((number,)) + body for number, body in bodies
    ]


def _entry(data: bytes) -> None:
    entry = e.decode_entry(data)
    entry.signed_bytes()
    assert entry.encode() == data, "what is accepted is written one way"
    state.decode_body(entry)


def _score() -> bytes:
    """An entry that is in none of the ledgers at hand: their charter asks for no scores."""
    return Feeds(SWARM).write(0, e.Score(1, 0, 2, 17, 40, ((3, 5_000, 10), (4, -5_000, 0))))


def _believe(*_: bytes) -> bool:
    return True


def _leaf(data: bytes) -> None:
    """Leaves in the place of a block's own, whoever signed them: what the state before it makes of each."""
    number = data[0] % len(_finals()) if data else 0
    header = Header.decode(_finals()[number].block.header)
    leaves = journal.parted(data[1:])
    state.apply_block(_states()[number], header, leaves, state.Signatures(verify=_believe))


def _blocks_of_leaves() -> list[bytes]:
    whole = [bytes((number,)) + journal.joined(final.block.leaves) for number, final in enumerate(_finals())]
    return [*whole, *(bytes((number,)) + journal.joined([leaf]) for leaf in _leaves() for number in (0, 3))]


def _evidence(data: bytes) -> None:
    body = codec.decode(data, e.Evidence, limit=e.ENTRY_BYTES_MAX)
    evidence.judge(body, SIGNED.ledger_id, [founding(SIGNED.charter)])


def _offers() -> list[bytes]:
    return [parties.story()[0].parts[0].offer(small.update(0))]


def _encrypted(data: bytes) -> None:
    swarm, _, _ = _summed()
    read_offer(data, swarm.roster, swarm.nodes[0])


@functools.cache
def _summed() -> tuple[Any, ...]:
    return parties.story()


def _answers() -> list[bytes]:
    swarm, _, opening = _summed()
    return [part.answer(opening) for part in swarm.parts[:3]]


def _answered(data: bytes) -> None:
    swarm, _, opening = _summed()
    opening.take(swarm.nodes[0], data)
    opening.sums()


def _evidences() -> list[bytes]:
    who, pair = SWARM.identities[1], []
    for kind in (NOTARIZE, FINALIZE):
        message = block.vote_message(SIGNED.ledger_id, 0, 5, kind, H)
        pair.append(codec.encode(Vote(0, 5, kind, H, 1, who.vote_key.sign(message))))
    feeds = Feeds(SWARM)
    leaves = [feeds.write(1, contribution(SWARM, 1), advance=False), feeds.write(1, e.MemberVote(H, True))]
    bodies = [e.Evidence(rule, who.node, *sorted(pair)) for rule in range(1, 7)]
    return [
        codec.encode(body) for body in (*bodies, *(e.Evidence(rule, who.node, *sorted(leaves)) for rule in range(1, 7)))
    ]


def _block(data: bytes) -> None:
    final = FinalBlock(block.decode_block(data), ())
    final.block.opened()


def _final(data: bytes) -> None:
    final = codec.decode(data, FinalBlock, limit=2 * block.BLOCK_BYTES_MAX)
    header = final.block.opened()
    terms = founding(SIGNED.charter)
    final.check(header, SIGNED.ledger_id, terms.vote_keys, terms.quorum, _believe)


def _header(data: bytes) -> None:
    for type_ in (Header, merkle.Frontier):
        with contextlib.suppress(Reject):
            value: Any = type_.decode(data)  # type: ignore[attr-defined]
            assert value.encode() == data, "what is accepted is written one way"


def _audit(data: bytes) -> None:
    payloads = journal.parted(data)
    for trusting in (True, False):
        for _ in audit(payloads, _signed(), trusting=trusting):
            pass


def _disk(data: bytes) -> None:
    """A segment of each log as somebody's disk has it; whoever opens it may write where it left off."""
    for log in journal.LOGS:
        disk = SimulatedDisk()
        path = f"{log}/{1:08d}.seg" if data[:1] == b"\1" else f"{log}/{0:08d}.seg"
        disk.create(path, len(data) - 1 if data else 0)
        if data[1:]:
            disk.write(path, 0, data[1:])
        with contextlib.suppress(LedgerError, StoreError):
            list(journal.scan(disk, log, H))
        with contextlib.suppress(LedgerError, StoreError):
            list(journal.Tail(disk, H).read())
        with contextlib.suppress(StoreError):
            list(journal.cut(disk, log))
        with contextlib.suppress(LedgerError, StoreError):
            journal.block_at(disk, (data[:1] == b"\1", 64))
        journal.foreign(disk, H)
        with contextlib.suppress(LedgerError, StoreError):
            journal.Journal(disk, ledger_id=H, segment_bytes=1 << 14).open(blocks_from=3)


@functools.cache
def _disks() -> list[bytes]:
    disk = SimulatedDisk()
    book = journal.Journal(disk, ledger_id=H, segment_bytes=1 << 13)
    book.open()
    vote = codec.encode(Vote(0, 5, NOTARIZE, H, 3, bytes(64)))
    for height in range(1, 5):
        book.append([Record(journal.RECORD_VOTE, height, vote), Record(journal.RECORD_BLOCK, height, bytes(900))])
    found = []
    for log in journal.LOGS:
        paths = [f"{log}/{name}" for name in disk.names(log)]
        found += [b"\0" + disk.read(path, 0, disk.size(path)).rstrip(b"\0") for path in paths]
    return found


def _bundle(data: bytes) -> None:
    reader = bundle.Reader(io.BytesIO(data), Path("some.bundle"))
    for piece in reader.blocks():
        assert len(piece.payload) <= bundle.RECORD_BYTES_MAX, "a bound is a bound"


def _tiles(data: bytes) -> None:
    """Eight bytes say how many entries there are, and the first bundles are what follows.

    The others are not there. A folder has a file for each, so nobody has more read than there is.
    """
    given = iter([data[8:]] * 3)
    root = merkle.Frontier().extend(merkle.leaf_hash(leaf) for leaf in _leaves()).root()
    checkpoint = tlog.Checkpoint("log", min(int.from_bytes(data[:8], "big"), merkle.SIZE_MAX), root)
    for _ in tiles.entries(checkpoint, lambda _: next(given, None)):
        pass


def _tile_files() -> list[bytes]:
    leaves = _leaves()
    return [len(leaves).to_bytes(8, "big") + b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)]


def _lines(data: bytes) -> None:
    """Each of the texts that are exchanged with auditors outside."""
    text = data.decode("utf-8", "surrogateescape")
    readers: tuple[Callable[[], object], ...] = (
        lambda: note.parse(data).encode(),
        lambda: note.Key.decode(text).encode(),
        lambda: tlog.Checkpoint.decode(text).encode(),
        lambda: tlog.Proof.decode(data).encode(),
        lambda: tlog.Consistency.decode(data).encode(),
        lambda: tlog.Policy.decode(data).check(note.parse(_checkpoint())),
        lambda: tlog.Policy(()).check(note.parse(data)),
    )
    for read in readers:
        with contextlib.suppress(Reject, LedgerError):
            read()


@functools.cache
def _checkpoint() -> bytes:
    return calm_run(rounds=2).checkpoints[-1]


@functools.cache
def _texts() -> list[bytes]:
    found = _checkpoint()
    parsed = note.parse(found)
    public_keys = [who.cosign_key.public for who in SWARM.identities]
    keys = [
        note.Key(line.name, note.key_id(line.name, note.COSIGNATURE, public), note.COSIGNATURE, public)
        for line, public in zip(parsed.lines, public_keys, strict=False)
    ]
    names = [f"w{i}" for i in range(len(keys))]
    policy = tlog.Policy((keys[0],), dict(zip(names, keys, strict=True)), {"g": tlog.Group(1, tuple(names))}, "g")
    proofs = [tlog.Proof(5, (H, H), found, b"leaf").encode(), tlog.Consistency(3, (H,), found).encode()]
    return [found, parsed.text.encode(), keys[0].encode().encode(), *proofs, policy.encode().encode()]


@functools.cache
def _snapshots() -> list[bytes]:
    return [snapshot.encode(one) for one in _states()[:: max(1, len(_states()) // 4)]]


# --- files that people send -----------------------------------------------------------------------------------------


def _text(read: Callable[[str], object]) -> Callable[[bytes], None]:
    """Read bytes as the text they are; what is not UTF-8 is refused where the file is opened."""

    def reader(data: bytes) -> None:
        with contextlib.suppress(UnicodeDecodeError):
            read(data.decode())

    return reader


@functools.cache
def _invitation() -> Invitation:
    seed = hashlib.sha256(b"guest").digest()
    who = SWARM.identities[0]
    word = invite(
        who.id_key,
        ledger_id=SIGNED.ledger_id,
        inviter=who.node,
        name="new",
        guest=transport_keys(seed)[0],
        expires_ms=2**50,
    )
    return Invitation(word, seed, Contact(who.node, "site-0", who.curve_public, "tcp://127.0.0.1:1"), SIGNED)


def _invite(data: bytes) -> None:
    open_invite(data, ledger_id=SIGNED.ledger_id, terms=founding(SIGNED.charter), change=_addition(), now_ms=1)


@functools.cache
def _addition() -> Change:
    return add(c.make_card(member(77), name="new", endpoint=""))


@functools.cache
def _folder() -> Path:
    """A folder in memory where there is one, for what is only read from files; gone when the process ends."""
    memory = Path("/dev/shm")
    made = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Read bytes from a file of this name."""

    def reader(data: bytes) -> None:
        path = _folder() / name
        path.write_bytes(data)
        read(path)

    return reader


def _unpack(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_folder()) as target:
        backup.unpack(path, Path(target))


_OWNER = member(5)


def _manifest(**fields: object) -> bytes:
    files = [
        (path, hashlib.sha256(path.encode()).hexdigest(), len(path)) for path in ("charter.toml", "ledger/wal/0.seg")
    ]
    items = tuple(backup.Item(path=path, size=size, kept=size, sha256=digest) for path, digest, size in files)
    found = backup.Manifest(
        format=backup.FORMAT, software="swarm", made_ms=1, swarm="s", ledger_id=H.hex(), name="n", node=H.hex(),
        key=_OWNER.id_key.public.hex(), keys=False, charter="charter.toml", height=1, round=1, model="", host="h",
        folder="f", files=items,
    )  # fmt: skip
    return msgspec.json.encode(msgspec.structs.replace(found, **fields))


def _tar(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _backup(text: bytes) -> bytes:
    """A backup whose maker signs whatever manifest it likes."""
    signature = _OWNER.id_key.sign(backup.DOMAIN_BACKUP + text).hex().encode()
    files = [(path, path.encode()) for path in ("charter.toml", "ledger/wal/0.seg")]
    return _tar((backup.MANIFEST, text), (backup.SIGNATURE, signature), *files)


def _endless() -> bytes:
    """A header of a long name, over and over: each makes the reader look for what it names."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return (info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 40


def _backups() -> list[bytes]:
    return [_backup(_manifest()), _endless(), _tar(("a", b"b"))]


def _compressed(data: bytes) -> None:
    """The first byte says for how many elements, and whether one form was agreed on."""
    elements = (0, 1, 127, 128, 129, ELEMENTS)[data[0] % 6] if data else 0
    forms.decode(data[1:], elements, spec=forms.parse("topk:50") if data[:1] > b"\x7f" else None)


def _salted(data: bytes) -> None:
    """An update with what is to be its salt behind it, as a swarm with a codec reads it."""
    forms.decode(message_of(data, SALT_BYTES), ELEMENTS, spec=forms.parse("int8"))


def _compressions() -> list[bytes]:
    values = np.random.default_rng(1).standard_normal(ELEMENTS).astype(np.float32)
    names = ("f32", "bf16", "int8", "int4", "sign", "topk:50", "topk:50:f32", "randk:50")
    return [b"\5" + forms.encode(values, forms.parse(name), key=bytes(noise.KEY_BYTES)) for name in names]


@functools.cache
def _masking() -> Members:
    return Members(4)


def _deal(data: bytes) -> None:
    """What the second member deals, to a fresh member each time."""
    _masking().again().attempts[0].take_deal(_masking().nodes[1], data)


@functools.cache
def _revealing() -> tuple[statements.Close, list[bytes]]:
    members = _masking().again().deal()
    close = members.close([1, 2, 3])
    assert all(one.offer(Digest(H)) for one in members.attempts)
    return close, [codec.encode(one) for one in members.reveals(close, range(4)).values()]


def _reveal(data: bytes) -> None:
    found = _masking().unmasking(_revealing()[0])
    found.take(_masking().nodes[0], statements.read_reveal(data))
    found.masks()


def _keys_for_masks(data: bytes) -> None:
    codec.decode(data, statements.Keys, limit=e.ENTRY_BYTES_MAX).check()


def _kept() -> list[bytes]:
    draft = contribution(make_swarm(3), 0)
    return [codec.encode(Kept(1, _masking().attempts[0].to_bytes(), 1, (draft,))), codec.encode(Kept(1, b"", 0, ()))]


def _masked(data: bytes) -> None:
    """The first byte says in how many bits, and how many elements there are."""
    bits, elements = (ring.WIDTHS[data[0] % 3], (1, 2, 127, ELEMENTS)[data[0] // 64]) if data else (32, 1)
    found = ring.Ring.fitting(bits, weight_total=1_000, clip_norm_milli=10_000)
    found.sums(found.unpack(data[1:], elements), 1_000)


def _npz(*arrays: str) -> bytes:
    out = io.BytesIO()
    rows = {"x": np.ones((12, 2)), "y": np.arange(12) % 2}
    np.savez_compressed(out, **{name: rows[name[0]] for name in arrays})
    return out.getvalue()


def _npy(header: str) -> bytes:
    """A pile with one array whose header says whatever it likes."""
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pile:
        text = header.encode()
        pile.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        pile.writestr("y.npy", b"")
    return out.getvalue()


CLAIM = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }\n"

EDGES = b"# a ring\nberlin paris\nparis rome\nrome berlin 0.5\n"
TABLE = b",a,b,c\na,0,1,1\nb,1,0,0\nc,1,0,0\n"
GRAPHML = b"""<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key id="d0" for="node"
 attr.name="label" attr.type="string"/><key id="w" for="edge" attr.name="weight" attr.type="long"/><graph id="G"
 edgedefault="undirected"><node id="a"><data key="d0">A</data></node><node id="b"><data key="d0">B</data></node>
<edge source="a" target="b"><data key="w">7</data></edge></graph></graphml>"""


RESULT = (
    b'{"schema":"swarm-simulation/v1","scenario":{"a":1},"names":["s"],"parameters":1,'
    b'"holdings":{"labels":["0"],"counts":[[1]]},"runs":[]}'
)


def _scenarios() -> list[bytes]:
    folder = Path(scenario.__file__).parent / "presets"
    return [path.read_bytes() for path in sorted(folder.glob("*.toml"))]


def _cards() -> list[bytes]:
    return [c.to_toml(SIGNED).encode(), c.card_to_toml(SIGNED.charter.members[0]).encode()]


def _charters(text: str) -> None:
    for read in (c.from_toml, c.card_from_toml):
        with contextlib.suppress(UsageError, LedgerError):
            found = read(text)
            if isinstance(found, c.SignedCharter):
                found.check()


def _remembered() -> bytes:
    row = {"name": "s", "height": 1, "size": 2, "root": H.hex(), "time_ms": 3, "seen_ms": 4}
    return json.dumps({"schema": TRUST, "ledgers": {H.hex(): row}}).encode()


WORDS = (Reject, UsageError, LedgerError)

PARSERS: Mapping[str, Parser] = MappingProxyType(
    {
        "frame": Parser(
            _frame, frames, (Reject,), ("gossip.wire:decode", "swarm.codec:_unpack"), "msgpack", 2, calls_byte=10
        ),
        "machine": Parser(
            _machine, lambda: [*(_said(one) for one in frames()), _said(*frames()), _said(*frames(), payload=True)], (),
            ("node.core.pursuit:_open",), "msgpack", 5, calls=400_000, memory=16 << 20,
        ),
        "handshake": Parser(_handshake, _handshakes, (Reject,)),
        "carried": Parser(
            _carried, _carried_frames, (), ("gossip.relay:Passages.receive", "gossip.relay:Passages._open")
        ),
        "proxy": Parser(
            _proxied,
            lambda: [b"\0HTTP/1.1 200 OK\r\n\r\n", b"\2HTTP/1.0 407 No\r\nA: b\r\n\r\n", b"\1\5\0\5\0\0\1" + bytes(6),
                     b"\3\5\2\1\0\5\0\0\3\4host\0\0", b"\1\5\0\5\2\0\4" + bytes(18)],
            _PROXY_RAISES, ("node.proxy:Door._ask_http", "node.proxy:Door._ask_socks"),
        ),
        "question": Parser(
            question_of, lambda: [b'{"question": "status"}\n'], (UsageError,), ("node.runtime:question_of",), "text"
        ),
        "forest": Parser(
            _forest, _forests, (Reject,), ("node.tables.forests:Forest.decode",), "msgpack",
        ),
        "script": Parser(
            reply_of, _replies, (UsageError,), ("node.loop.protocol:reply_of",), "msgpack",
        ),
        "record": Parser(
            _record, _records, (Reject,), ("swarm.vector:Layout.decode", "swarm.ledger.entry:BlockCert.proof"),
            "msgpack", 1, calls_byte=10,
        ),
        "entry": Parser(_entry, lambda: [*_leaves(), _score()], (Reject,), ("swarm.ledger.entry:decode_entry", "swarm.ledger.state:decode_body",
                        "swarm.ledger.motions:open_change"), "msgpack"),
        "leaf": Parser(
            _leaf, _blocks_of_leaves, (Reject,),
            ("swarm.ledger.state:_apply_leaf", "swarm.ledger.state:_apply_cert", "swarm.ledger.journal:parted"),
            "msgpack", 5, calls=200_000,
        ),
        "evidence": Parser(
            _evidence, _evidences, (Reject,), ("swarm.ledger.evidence:_votes_hold",
            "swarm.ledger.evidence:_proposals_hold", "swarm.ledger.evidence:_entries_hold"), "msgpack",
        ),
        "block": Parser(_block, lambda: [codec.encode(one.block) for one in _finals()], (Reject,),
                        ("swarm.ledger.block:decode_block",), "msgpack"),
        "final": Parser(_final, _payloads, (Reject,), ("node.recovery:_open", "node.cli.ledger.wholeness:_final"), "msgpack"),
        "header": Parser(
            _header, lambda: [one.block.header for one in _finals()] + [_states()[-1].frontier.encode()], (Reject,),
            ("swarm.ledger.block:Header.decode",),
        ),
        "genesis": Parser(
            c.open_genesis, lambda: [SIGNED.genesis().encode()], WORDS, ("swarm.charter:open_genesis",), "msgpack"
        ),
        "audit": Parser(
            _audit, lambda: [journal.joined(_payloads()[:2]), journal.joined(_payloads())], (Reject,),
            ("swarm.ledger.audit:Auditing.take",), "msgpack", 4, calls=600_000, memory=16 << 20,
        ),
        "snapshot": Parser(
            lambda data: snapshot.decode(data, state.State, _signed()), _snapshots, (Reject,),
            ("swarm.ledger.snapshot:decode",), "msgpack",
        ),
        "disk": Parser(
            _disk, _disks, (), ("swarm.ledger.journal:foreign", "swarm.ledger.journal:_passed",
            "swarm.ledger.journal:_first_height", "swarm.ledger.journal:_check_header",
            "swarm.ledger.journal:_read_segment", "swarm.ledger.journal:_parse", "swarm.ledger.journal:Journal._walk",
            "swarm.ledger.journal:_block_record",
            "swarm.ledger.journal:Tail._records"), calls=60_000,
        ),
        "bundle": Parser(
            _bundle, lambda: [b"".join(bundle.encode(_signed(), _payloads()[:2], _checkpoint()))], WORDS,
            ("node.bundle:Reader.__init__", "node.bundle:Reader.blocks", "node.bundle:Reader._record"),
        ),
        "fork": Parser(
            _file("fork.proof", lambda path: list(_Proof.read(path).heights)), lambda: [codec.encode(_finals()[:2])], (),
            ("node.cli.ledger.wholeness:_Proof.read", "node.cli.ledger.forks:_judged"), "msgpack",
        ),
        "tiles": Parser(_tiles, _tile_files, (LedgerError,)),
        "note": Parser(
            _lines, _texts, (), ("swarm.ledger.note:Key.decode", "swarm.ledger.note:from_base64"), "text", calls=60_000,
        ),
        "charter": Parser(
            _text(_charters), _cards, (), ("swarm.charter:_parse", "swarm.charter:_bytes", "swarm.toml:loads"), "text", memory_byte=600
        ),
        "invitation": Parser(
            _text(invitation_from_toml), lambda: [invitation_to_toml(_invitation()).encode()], WORDS,
            ("node.admission:invitation_from_toml", "node.admission:contact_from_toml"), "text", memory_byte=600,
        ),
        "contact": Parser(
            _text(lambda text: contact_from_toml(text, "it")), lambda: [invitation_to_toml(_invitation()).encode()],
            (UsageError,), ("node.admission:contact_from_toml",), "text", memory_byte=600,
        ),
        "invite": Parser(_invite, lambda: [_invitation().invite.encode()], (Reject,), ("swarm.invite:open_invite",), "msgpack"),
        "settings": Parser(
            _text(lambda text: config.load(text, where="swarm.toml")),
            lambda: [SETTINGS_TEXT.format(name="s", listen="tcp://h:1", task="task.py", data="data").encode()],
            (UsageError,), ("node.config:_from_toml",), "text", memory_byte=600,
        ),
        "scenario": Parser(
            _text(lambda text: scenario.parse(text, "it")), _scenarios, (UsageError,), ("topologies.scenario:parse",),
            "text", calls=400_000, memory=16 << 20, memory_byte=600,
        ),
        "edges": Parser(_text(own.from_edge_list), lambda: [EDGES, b"0 1\n1 2\n"], (UsageError,), (), "text",
                        calls=200_000, memory=8 << 20, memory_byte=400),
        "arcs": Parser(_file("arcs", read_arcs), lambda: [b"a b # gives\nb c\n"], (UsageError,), (), "text", memory_byte=400),
        "table": Parser(_text(own.from_adjacency_csv), lambda: [TABLE, b"0,1\n1,0\n"], (UsageError,),
                        ("topologies.own:from_adjacency_csv",), "text", memory_byte=400),
        "graphml": Parser(_text(own.from_graphml), lambda: [GRAPHML], (UsageError,), ("topologies.own:from_graphml",),
                          "text", calls=400_000, memory=16 << 20, memory_byte=1_000),
        "backup": Parser(
            _file("swarm.backup", _unpack), _backups, WORDS, ("node.backup:unpack", "node.backup:_read_manifest"),
            memory=8 << 20,
        ),
        "manifest": Parser(
            lambda data: _file("swarm.backup", _unpack)(_backup(data)), lambda: [_manifest()], (*WORDS, StoreError),
            ("node.backup:_read_manifest",), "text", memory=8 << 20,
        ),
        "compressed": Parser(_compressed, _compressions, (Reject,), ("swarm.mixing.compress.forms:form_of",)),
        "salted update": Parser(
            _salted, lambda: [one[1:] + bytes(SALT_BYTES) for one in _compressions()], (Reject,)),
        "deal": Parser(_deal, lambda: _masking().deals[1:3], (Reject,), ("swarm.masking.statements:read_deal",), "msgpack"),
        "reveal": Parser(_reveal, lambda: _revealing()[1], (Reject,), ("swarm.masking.statements:read_reveal",), "msgpack"),
        "mask keys": Parser(
            _keys_for_masks, lambda: [codec.encode(statements.Keys(1, 1, 0, H, 5, *_masking().attempts[0].keys))], (Reject,),
            shape="msgpack",
        ),
        "mask record": Parser(
            Attempt.from_bytes, lambda: [_masking().attempts[0].to_bytes()], (Reject,),
            ("swarm.masking.attempt:Attempt.from_bytes",), "msgpack",
        ),
        "mask kept": Parser(read_kept, _kept, (Reject,), ("swarm.masked_round:read_kept",), "msgpack"),
        "masked": Parser(_masked, lambda: [bytes((first,)) + bytes(size) for first, size in ((0, 4), (1, 5), (67, 9), (130, 8 * 127))], (Reject,),
                         ("node.masked:Masks.unmask", "topologies.world.blobs:BlobStore.unmask.work")),
        "paillier key": Parser(
            functools.partial(PublicKey.from_bytes, test_only=True), lambda: [small.secret().public.to_bytes()], (Reject,),
            ("swarm.homomorphic.paillier:PublicKey.from_bytes",), "msgpack",
        ),
        "shared key": Parser(
            functools.partial(SharedKey.from_bytes, test_only=True), lambda: [small.shared(5, 3)[0].to_bytes()], (Reject,),
            ("swarm.homomorphic.threshold:SharedKey.from_bytes",), "msgpack",
        ),
        "key share": Parser(
            lambda data: KeyShare.from_bytes(data, small.shared(5, 3)[0]),
            lambda: [one.to_bytes() for one in small.shared(5, 3)[1][:2]], (Reject,),
            ("swarm.homomorphic.threshold:KeyShare.from_bytes",), "msgpack",
        ),
        "encrypted offer": Parser(_encrypted, _offers, (Reject,), ("swarm.homomorphic.sums:read_offer",), "msgpack"),
        "encrypted answer": Parser(_answered, _answers, (Reject,), ("swarm.homomorphic.sums:Opening.take",), "msgpack"),
        "sketch": Parser(sketch.unpack, lambda: [bytes(sketch.SKETCH_BYTES)], (Reject,), ("swarm.mixing.sketch:unpack",)),
        "layout": Parser(vector.Layout.decode, lambda: [vector.Layout((vector.TensorSpec("a", (2, 3)),
                         vector.TensorSpec("b", ()))).encode()], (Reject,), ("swarm.vector:Layout.decode",), "msgpack"),
        "result": Parser(
            _file("result.json", lambda path: Result.load(path.parent)),
            lambda: [RESULT], (UsageError,),
            ("node.simulation.results:Result.load",), "text",
        ),
        "rows": Parser(
            _file("rows.csv", lambda path: datasets.load(f"csv:{path}")),
            lambda: [b"a,b,label\n" + b"1,2,x\n3,4.5,y\n" * 6], (UsageError,), ("node.simulation.datasets:_csv",), "text",
            memory_byte=1_000,
        ),
        "arrays": Parser(
            _file("rows.npz", lambda path: datasets.load(f"npz:{path}")),
            lambda: [_npz("x", "y"), _npz("x_train", "y_train", "x_test", "y_test"), _npy(CLAIM), b"PK\3\4"],
            (UsageError,), ("node.simulation.datasets:_arrays", "node.simulation.datasets:_check_claims"), memory=64 << 20,
            memory_byte=1_100,
        ),
        "digits": Parser(
            _file("mnist.npz", lambda path: datasets.load(f"mnist:{path}")),
            lambda: [_npz("x_train", "y_train", "x_test", "y_test"), _npy(CLAIM)],
            (UsageError,), ("node.simulation.datasets:_arrays",), memory=64 << 20, memory_byte=1_100,
        ),
        "trust": Parser(
            lambda data: Memory(Path("trust.json"))._parsed(data), lambda: [_remembered()], (UsageError,),
            ("node.cli.ledger.trust:Memory._parsed",), "text",
        ),
    }
)  # fmt: skip
