"""A snapshot is all of the state, and its hash is the one in the header."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import typing
from collections.abc import Mapping

import msgpack
import msgspec
import pytest
from msgspec.structs import replace

from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.audit import audit
from swarm.ledger.block import FinalBlock, Header, Root
from swarm.ledger.exchange import Exchange, Own
from swarm.ledger.masking import Dealt, Keyed, Masking, Rostered
from swarm.ledger.motions import Motion
from swarm.ledger.state import Closed, Counted, Head, Placed, State
from swarm.machine import NodeId
from swarm.masking.statements import Keys, Reveal
from swarm.stopping import Best, Heard, Watch
from swarm.terms import founding, remove
from tests.benchmarks.ledgers import make_ledger
from tests.builders import contribution, digest, make_swarm

SWARM = make_swarm(4)


@functools.cache
def states() -> tuple[SignedCharter, tuple[State, ...], tuple[Header, ...]]:
    """Every state of a run of four members, and the header of each block."""
    signed, payloads, _ = make_ledger(members=4, rounds=3)
    finals = [codec.decode(payload, FinalBlock, limit=1 << 20) for payload in payloads]
    found = tuple(result.state for result in audit(payloads, signed))
    return signed, found, tuple(Header.decode(final.block.header) for final in finals)


def full() -> State:
    """A state in which no field is empty."""
    signed, found, _ = states()
    state = next(state for state in found if state.close is not None)
    node = NodeId(digest("somebody"))
    change = remove(SWARM.identities[1].node)
    return replace(
        state,
        late=(7, 9),
        attests={node: (digest("model"), 128)},
        certified=1,
        accused={(node, 2): 5, (NodeId(digest("another")), 1): 6},
        motions=(Motion(3, digest("motion"), node, change, 99, True, {node: False}),),
        coming=founding(signed.charter),
        past=(founding(signed.charter),),
        partials={(3, node): e.Partial(1, 8, 3, digest("part"), 64, (5,))},
        models=(digest("model before"), digest("model before that")),
        counted={node: Counted(3, 100)},
        exchange=Exchange({node: (4, 5)}, {node: Own(1, digest("model"), 128)}, {node: b"sketch"}),
        stopping=Watch(
            best=Best(1, digest("model"), 128),
            references={node: -7},
            idle=2,
            heard=(Heard(2, digest("another"), 128, {node: (-5,), NodeId(digest("another")): ()}),),
            last=3,
        ),
        masking=masked(node),
    )


def masked(node: NodeId) -> Masking:
    """Masks with nothing left out."""
    keyed = Keyed(9, node, Keys(1, 2, 3, digest("model"), 100, digest("mask key"), digest("seal key")))
    other = NodeId(digest("another"))
    return Masking(
        attempt=2,
        keys={node: keyed},
        barred=(other,),
        roster=Rostered(10, e.MaskRoster(1, 2, ((9, 100),), (other,), ((8, 3),)), (keyed,), 4),
        deals={node: Dealt(11, e.MaskDeal(1, 10, digest("deal"), 1_000))},
        reveals={node: Reveal(1, 2, 12, ((0, bytes(64)),))},
    )


def test_every_state_of_a_run_comes_back_from_its_snapshot_and_hashes_to_its_header() -> None:
    signed, found, headers = states()
    assert len(found) == len(headers) + 1
    for state, header in zip(found[1:], headers, strict=True):
        data = state.encode()
        assert snapshot.digest(data) == header.state_hash
        assert snapshot.decode(data, State, signed) == state


def test_a_state_with_everything_in_it_comes_back() -> None:
    state = full()
    empty = [name for name in State.__struct_fields__ if getattr(state, name) in ((), {}, None)]
    assert empty == [], "or this test shows nothing of them"
    assert snapshot.decode(state.encode(), State, state.signed) == state


def test_what_the_charter_does_not_ask_for_leaves_no_trace_in_the_bytes() -> None:
    """So a field can be added and every state under a charter without it, and its hash, stay what they were."""
    state = full()
    shorter = replace(state, masking=None)
    told, less, least = (msgpack.unpackb(one.encode()) for one in (state, shorter, replace(shorter, stopping=None)))
    assert less == told[:-1]
    assert least == told[:-2]
    assert msgpack.unpackb(replace(state, stopping=None).encode()) == [*least, [], told[-1]]
    assert snapshot.decode(shorter.encode(), State, state.signed) == shorter
    with pytest.raises(Reject, match="not in canonical form"):
        snapshot.decode(codec.encode((*codec.decode(shorter.encode(), tuple, limit=1 << 20), ())), State, state.signed)


def test_a_state_without_corrections_has_the_bytes_that_it_had_before_there_were_any() -> None:
    state = full()
    assert state.exchange is not None
    assert state.exchange.anew is None
    corrected = replace(state, exchange=replace(state.exchange, anew=4))
    told, less = (msgpack.unpackb(one.encode()) for one in (corrected, state))
    place = State.__struct_fields__.index("exchange")
    assert told[place][0][:-1] == less[place][0]
    assert told[place][0][-1] == [4]
    assert snapshot.decode(corrected.encode(), State, state.signed) == corrected


def _changed(value: object) -> object:
    """Another value of the same type, for every type a state is made of."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case bytes():
            return hashlib.sha256(value).digest()
        case None:
            return None
        case tuple():
            return value[:-1]
        case Mapping():
            return dict(list(value.items())[:-1])
        case msgspec.Struct():
            name = value.__struct_fields__[0]
            return replace(value, **{name: _changed(getattr(value, name))})
        case _:
            assert dataclasses.is_dataclass(value)
            assert not isinstance(value, type)
            name = dataclasses.fields(value)[0].name
            return dataclasses.replace(value, **{name: _changed(getattr(value, name))})


def test_the_hash_covers_every_field_also_one_that_is_added_tomorrow() -> None:
    state = full()
    for name in State.__struct_fields__:
        if name == "signed":
            continue  # Which founders' signatures a reader holds is no part of the state: their ledger is its id.
        if name == "frontier":
            other = replace(state, frontier=state.frontier.append(digest("leaf")))
        else:
            other = replace(state, **{name: _changed(getattr(state, name))})
        assert other != state, name
        assert other.digest() != state.digest(), name


def test_bodies_of_contributions_are_part_of_it() -> None:
    state = full()
    key, placed = next(iter(state.contributions.items()))
    other = replace(placed, body=replace(placed.body, update_bytes=placed.body.update_bytes + 1))
    assert replace(state, contributions={**state.contributions, key: other}).digest() != state.digest()


def test_an_added_field_without_a_canonical_form_is_refused_and_not_left_out() -> None:
    class Wider(msgspec.Struct, frozen=True):
        height: int
        share: float

    with pytest.raises(TypeError, match="no canonical form"):
        snapshot.encode(Wider(1, 0.5))


def test_it_is_within_the_canonical_profile_and_written_field_by_field_in_order() -> None:
    state = full()
    data = state.encode()
    plain = codec.decode(data, tuple, limit=1 << 20)
    assert codec.encode(plain) == data, "the bytes that msgspec writes are those of the codec"
    fields = dict(zip(State.__struct_fields__, msgpack.unpackb(data), strict=True))
    assert fields["signed"] == []
    assert fields["ledger_id"] == state.ledger_id
    assert fields["heads"] == sorted([node, [head.seq, head.prev]] for node, head in state.heads.items())
    assert [row[:2] for row in fields["contributions"]] == sorted([r, node] for r, node in state.contributions)
    assert state.close is not None
    assert fields["close"][0][0] == state.close.index
    assert fields["root"] == [state.root.hash, state.root.view, state.root.height]


def test_an_integer_of_each_size_is_written_as_the_codec_writes_it() -> None:
    for value in (0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1):
        root = Root(bytes(32), value, value)
        assert snapshot.encode(root) == codec.encode((root.hash, root.view, root.height))


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_bytes_that_are_not_a_snapshot_are_refused(cut: int) -> None:
    state = full()
    data = state.encode()
    for bad in (data[:-cut], data + b"\x00", b"", b"\x90", b"\xc0" + data[1:], bytes(cut)):
        with pytest.raises(Reject, match="couldn't"):
            snapshot.decode(bad, State, state.signed)


def test_values_out_of_shape_are_refused_in_words() -> None:
    state = full()
    plain = list(codec.decode(state.encode(), tuple, limit=1 << 20))
    place = {name: i for i, name in enumerate(State.__struct_fields__)}
    for name, value in (
        ("height", b"seven"),
        ("height", True),
        ("frontier", (5, (bytes(32),))),
        ("heads", ((bytes(32),),)),
        ("close", ((), ())),
        ("terms", ()),
        ("signed", (1,)),
        ("late", 7),
    ):
        bad = [*plain]
        bad[place[name]] = value
        with pytest.raises(Reject, match="couldn't read a snapshot"):
            snapshot.decode(codec.encode(tuple(bad)), State, state.signed)


def test_keys_out_of_order_or_twice_are_not_canonical() -> None:
    state = full()
    plain = list(codec.decode(state.encode(), tuple, limit=1 << 20))
    at = State.__struct_fields__.index("heads")
    rows = plain[at]
    for bad_rows in (tuple(reversed(rows)), (*rows, rows[-1])):
        bad = [*plain]
        bad[at] = bad_rows
        with pytest.raises(Reject, match="canonical"):
            snapshot.decode(codec.encode(tuple(bad)), State, state.signed)


def test_forms_follow_annotations() -> None:
    """What the state is made of today, each by itself."""
    body = contribution(SWARM, 0)
    placed = Placed(3, SWARM.identities[0].node, body)
    assert snapshot.encode(placed) == codec.encode((3, placed.author, body))
    assert snapshot.encode(Head(1, b"p")) == codec.encode((1, b"p"))
    hints = typing.get_type_hints(Closed)
    assert set(hints) == {"index", "body", "terms", "exchange", "epoch", "rest"}
