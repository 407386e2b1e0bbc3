"""What salt can stand with, how large a salted update is, what its name hangs on, and that older charters know none."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import charter as c
from swarm.errors import Reject, UsageError
from swarm.ledger.entry import Contribution
from swarm.ledger.state import genesis
from swarm.machine import Digest, Trained
from swarm.mixing.compress.forms import encoded_bytes
from swarm.round import Round, Say
from swarm.salt import SALT_BYTES, message_of, parse
from swarm.terms import amended, founding, repolicy
from swarm.vector import LEAF_BYTES, blob_digest, leaf_hashes
from tests.builders import make_swarm

SALTED = make_swarm(5, salt="32", min_contributions=2)


def name(data: bytes) -> bytes:
    return blob_digest(len(data), leaf_hashes(data))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"salt": "16"}, "salted with 32 bytes"),
        ({"salt": "yes"}, "salted with 32 bytes"),
        ({"schedule": "ring"}, "sketch of each model"),
        ({"masks": "pairwise", "min_contributions": 3}, "with masks"),
        ({"route": "sharded"}, "on the sharded route"),
        ({"codec": "topk:50"}, "under the codec topk:50"),
        ({"min_contributions": 1}, "close with 1 contribution"),
        ({"n": 1, "min_contributions": 1}, "close with 1 contribution"),
    ],
)
def test_what_a_salt_cannot_stand_with_is_refused_in_words(terms: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_swarm.__wrapped__(**({"n": 5, "min_contributions": 2, "salt": "32"} | terms)).charter.check()
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "terms",
    [
        {"route": "fold"},
        {"codec": "bf16"},
        {"codec": "int8", "route": "fold"},
        {"codec": "sign"},
        {"rule": "trimmed:1", "min_contributions": 3},
        {"staleness": 16, "asynchronous": "buffered"},
        {"outer": "fedadam", "contribution": "loo:loss:lower:20"},
    ],
)
def test_a_salt_stands_with_what_tells_no_more_of_an_update(terms: dict[str, object]) -> None:
    swarm = make_swarm(5, **({"min_contributions": 2, "salt": "32"} | terms))  # type: ignore[arg-type]
    swarm.charter.check()
    assert c.from_toml(c.to_toml(swarm.signed)).charter == swarm.charter


def test_a_charter_without_the_option_is_what_it_was() -> None:
    charter = make_swarm(5).charter
    assert charter.salt == 0
    assert b"salt" not in charter.encode()
    assert SALTED.charter.salt == SALT_BYTES == parse("32")


@pytest.mark.parametrize("codec", ["", "bf16", "int8", "int4", "sign"])
def test_an_update_is_as_long_as_its_message_and_its_salt_and_a_model_as_it_was(codec: str) -> None:
    charter = make_swarm(5, salt="32", min_contributions=2, codec=codec).charter
    size = encoded_bytes(charter.codec, 32) if charter.codec else 128
    carried = [extra for extra in range(-1, 66) if charter._fits(size + extra, 32)]
    assert carried == [32]
    assert charter.moves(size + 32)
    assert charter.moves(charter.outcome_bytes)
    assert not charter.moves(size + 31)
    assert not charter.moves(size + 64)


@given(st.binary(min_size=1, max_size=70), st.binary(min_size=32, max_size=32))
def test_what_lies_before_the_salt_is_the_message(message: bytes, salt: bytes) -> None:
    assert message_of(message + salt, 32) == message
    assert message_of(message, 0) == message


@pytest.mark.parametrize("size", [0, 5, 32])
def test_what_is_no_longer_than_its_salt_is_refused(size: int) -> None:
    with pytest.raises(Reject, match=f"it has {size} bytes, and 32 of them are to be salt"):
        message_of(bytes(size), 32)


@pytest.mark.parametrize("over", [0, 4, LEAF_BYTES - 32, LEAF_BYTES - 16, LEAF_BYTES - 4])
def test_the_name_of_an_update_of_several_leaves_hangs_on_the_salt_wherever_the_last_leaf_begins(over: int) -> None:
    """Leaves without a salt have the same hash whatever it is: those are not on the ledger, and their root is."""
    message = bytes(2 * LEAF_BYTES + over)
    salts = [bytes([number]) * 32 for number in (0, 1)]
    first, second = (leaf_hashes(message + salt) for salt in salts)
    assert first[:2] == second[:2] == leaf_hashes(message)[:2]
    names = {name(message), *(name(message + salt) for salt in salts)}
    assert len(names) == 3


def test_no_vote_lets_a_salted_round_close_with_one() -> None:
    terms = founding(SALTED.charter)
    policy = msgspec.structs.replace(terms.round, min_contributions=1)
    with pytest.raises(Reject, match="close with 1 contribution"):
        amended(terms, repolicy(policy), SALTED.identities[0].node, SALTED.charter)


@pytest.mark.parametrize(("salt", "told"), [("", ((0, 250_000),)), ("32", ())])
def test_what_training_measured_is_told_where_updates_are_not_salted(salt: str, told: object) -> None:
    swarm = make_swarm(5, salt=salt, min_contributions=2)
    state, me = genesis(swarm.signed), swarm.identities[0].node
    part = Round(swarm.charter, me, code_digest=bytes(32), data_digest=bytes(32))
    part.advance(state, (), lambda _: True, 0.0)
    update = name(np.zeros(32, "<f4").tobytes() + bytes(32))
    actions = part.trained(Trained(1, Digest(update), 160, 10, {"loss": 0.25}), state, (), 0.0)
    (body,) = [one.body for one in actions if isinstance(one, Say)]
    assert isinstance(body, Contribution)
    assert body.metrics == told
