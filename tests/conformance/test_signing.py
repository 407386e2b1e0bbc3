"""The bytes that members sign, field by field, so that a second implementation can hold its own against them.

`tests/vectors/signing-v1.json` has one member's keys, an entry, a proposal and votes of each kind, with every
intermediate byte string. Here they are computed twice: by the product, and from `docs/reference/ledger-format.md` with
nothing but SHA-256, HMAC, integers and the hand-written profile. The file is frozen.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from pathlib import Path

import pytest

from swarm import identity
from swarm.errors import Reject
from swarm.identity import Identity, SigningKey
from swarm.ledger import entry as e
from swarm.ledger.block import Header, Vote, propose_message, vote_message
from swarm.ledger.merkle import leaf_hash
from tests.conformance import curve
from tests.conformance.profile import shortest

FACTS = json.loads((Path(__file__).parents[1] / "vectors" / "signing-v1.json").read_text())
LEDGER = bytes.fromhex(FACTS["ledger_id"])
MEMBER = {name: bytes.fromhex(value) for name, value in FACTS["member"].items()}
ENTRY, PROPOSAL, VOTES = FACTS["entry"], FACTS["proposal"], FACTS["votes"]
KINDS = {"notarize": 1, "skip": 2, "finalize": 3}

FIELDS = {"domain": 21, "ledger_id": 32, "epoch": 8, "view": 8, "kind": 1, "block": 32}
"""A vote's layout: widths in bytes, in order, integers big-endian."""


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(seed: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 and an empty salt, one block of output."""
    pseudorandom_key = hmac.new(bytes(32), seed, "sha256").digest()
    return hmac.new(pseudorandom_key, info + b"\x01", "sha256").digest()


def laid_out(vote: dict[str, object]) -> bytes:
    """The 102 bytes of a vote, from the table of its fields."""
    values = {
        "domain": b"swarm-ledger/vote/v1\0",
        "ledger_id": LEDGER,
        "kind": bytes([KINDS[str(vote["kind"])]]),
        "block": bytes.fromhex(str(vote["block"])),
        **{name: int(str(vote[name])).to_bytes(8, "big") for name in ("epoch", "view")},
    }
    assert {name: len(value) for name, value in values.items()} == FIELDS
    return b"".join(values[name] for name in FIELDS)


def product_vote(vote: dict[str, object]) -> bytes:
    return vote_message(
        LEDGER,
        int(str(vote["epoch"])),
        int(str(vote["view"])),
        KINDS[str(vote["kind"])],
        bytes.fromhex(str(vote["block"])),
    )


def test_the_keys_of_a_member_follow_from_its_seed() -> None:
    who = Identity.from_seed(MEMBER["seed"], bytes(32))
    for name, info in (("id", b"swarm/id/v1"), ("vote", b"swarm/vote/v1"), ("cosign", b"swarm/cosign/v1")):
        assert hkdf(MEMBER["seed"], info) == identity.derive(MEMBER["seed"], info) == MEMBER[f"{name}_seed"]
        assert curve.public_key(MEMBER[f"{name}_seed"]) == MEMBER[f"{name}_key"]
        assert getattr(who, f"{name}_key").public == MEMBER[f"{name}_key"]
    assert sha(b"swarm-ledger/node/v1\0", MEMBER["id_key"]) == who.node == MEMBER["node"]


def test_the_layout_of_a_vote_is_102_bytes_and_the_file_says_where_each_field_stands() -> None:
    ends = list(itertools.accumulate(FIELDS.values()))
    assert ends[-1] == 102
    expected = [[name, end - width, width] for (name, width), end in zip(FIELDS.items(), ends, strict=True)]
    assert FACTS["vote_layout"] == expected


@pytest.mark.parametrize("vote", VOTES, ids=[f"{v['kind']} {v['epoch']} {v['view']}" for v in VOTES])
def test_a_vote_is_these_bytes_and_this_signature(vote: dict[str, object]) -> None:
    message, signature = bytes.fromhex(str(vote["message"])), bytes.fromhex(str(vote["signature"]))
    assert laid_out(vote) == product_vote(vote) == message
    assert (
        curve.sign(MEMBER["vote_seed"], message) == SigningKey.from_seed(MEMBER["vote_seed"]).sign(message) == signature
    )
    assert identity.verify(MEMBER["vote_key"], message, signature)
    assert not identity.verify(MEMBER["id_key"], message, signature)
    assert (vote["block"] == "00" * 32) == (vote["kind"] == "skip")
    Vote(int(str(vote["epoch"])), int(str(vote["view"])), KINDS[str(vote["kind"])], message[-32:], 0, signature).check()


def test_the_votes_of_the_file_reach_the_ends_of_their_ranges() -> None:
    assert {v["kind"] for v in VOTES} == set(KINDS)
    assert {v["view"] for v in VOTES} >= {1, 2**63 - 1}
    assert {v["epoch"] for v in VOTES} >= {0, 2**63 - 1}
    for epoch, view in ((2**63, 1), (0, 2**63), (0, 0), (-1, 1)):
        with pytest.raises(Reject, match="out of range"):
            Vote(epoch, view, 1, b"\x01" * 32, 0, b"").check()


def test_changing_one_field_changes_the_bytes_of_that_field_alone() -> None:
    base = {"epoch": 5, "view": 6, "kind": "notarize", "block": "11" * 32}
    for name, value in {"epoch": 7, "view": 8, "kind": "finalize", "block": "22" * 32}.items():
        other = product_vote({**base, name: value})
        start, width = next((at, width) for field, at, width in FACTS["vote_layout"] if field == name)
        changed = {at for at, (a, b) in enumerate(zip(product_vote(base), other, strict=True)) if a != b}
        assert changed
        assert changed <= set(range(start, start + width))


def test_no_vote_is_valid_as_another() -> None:
    for one, other in itertools.permutations(VOTES, 2):
        assert not identity.verify(MEMBER["vote_key"], bytes.fromhex(other["message"]), bytes.fromhex(one["signature"]))


def test_an_entry_is_these_bytes_this_id_and_this_signature() -> None:
    body = ENTRY["body"]
    evaluation = [body["round"], bytes.fromhex(body["model_digest"]), body["samples"], body["metrics"]]
    fields = [1, 13, LEDGER, MEMBER["node"], ENTRY["seq"], bytes.fromhex(ENTRY["prev"]), ENTRY["ts_ms"]]
    unsigned = shortest([*fields, shortest(evaluation)])
    message = b"swarm-ledger/entry/v1\0" + LEDGER + unsigned
    signature = curve.sign(MEMBER["id_seed"], message)
    leaf = shortest([*fields, shortest(evaluation), signature])
    assert unsigned.hex() == ENTRY["unsigned"]
    assert message.hex() == ENTRY["message"]
    assert signature.hex() == ENTRY["signature"]
    assert leaf.hex() == ENTRY["leaf"]
    assert sha(unsigned).hex() == ENTRY["id"]
    assert sha(b"\x00", leaf).hex() == ENTRY["leaf_hash"]
    made = e.sign_entry(
        SigningKey.from_seed(MEMBER["id_seed"]),
        ledger_id=LEDGER,
        author=identity.NodeId(MEMBER["node"]),
        kind=e.EVALUATION,
        seq=ENTRY["seq"],
        prev=bytes.fromhex(ENTRY["prev"]),
        ts_ms=ENTRY["ts_ms"],
        body=e.Evaluation(*evaluation[:3], tuple(map(tuple, body["metrics"]))),
    )
    assert (made.encode(), made.signed_bytes(), made.id) == (leaf, unsigned, sha(unsigned))
    read = e.decode_entry(leaf)
    e.verify_entry(read, MEMBER["id_key"], LEDGER)
    assert read == made
    assert leaf_hash(leaf).hex() == ENTRY["leaf_hash"]


def test_a_proposal_is_a_header_of_220_bytes_in_a_domain_of_its_own() -> None:
    header = b""
    for name, value in PROPOSAL["header"].items():
        width = 4 if name == "count" else 8
        header += bytes.fromhex(value) if isinstance(value, str) else value.to_bytes(width, "big")
    message = b"swarm-ledger/propose/v1\0" + LEDGER + header
    assert len(header) == 220
    assert Header.decode(header).encode() == header
    assert sha(b"swarm-ledger/header/v1\0", header).hex() == Header.decode(header).hash.hex() == PROPOSAL["hash"]
    assert message == propose_message(LEDGER, header)
    assert message.hex() == PROPOSAL["message"]
    assert curve.sign(MEMBER["vote_seed"], message).hex() == PROPOSAL["signature"]
    assert identity.verify(MEMBER["vote_key"], message, bytes.fromhex(PROPOSAL["signature"]))


def test_nothing_the_file_signs_is_valid_for_another_purpose_or_ledger() -> None:
    signed = [(bytes.fromhex(item["message"]), bytes.fromhex(item["signature"])) for item in (ENTRY, PROPOSAL, *VOTES)]
    domains = [value for name, value in vars(identity).items() if name.startswith("DOMAIN_")]
    for message, signature in signed:
        (own,) = [domain for domain in domains if message.startswith(domain)]
        rest = message.removeprefix(own)
        assert rest.startswith(LEDGER)
        others = [domain + rest for domain in domains if domain != own]
        others += [own + bytes([LEDGER[0] ^ 1]) + rest[1:], rest, own + rest.removeprefix(LEDGER)]
        for other in others:
            assert not identity.verify(MEMBER["vote_key"], other, signature)
            assert not identity.verify(MEMBER["id_key"], other, signature)
