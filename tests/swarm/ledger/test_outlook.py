"""What would be so if all that waits were ordered: kept up entry by entry, it says what a fresh look would say."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from swarm.ledger import entry as e
from swarm.ledger.outlook import Outlook
from swarm.ledger.replica import Pending
from swarm.ledger.state import State
from swarm.machine import NodeId
from tests.builders import contribution, digest
from tests.swarm.ledger.test_replica import NODES, NOW, SWARM, Table, update

ROUNDS = 3


def meaning(state: State) -> object:
    """What is asked of an outlook: all but where in the log things would stand."""
    return (
        state.round,
        {key: placed.body for key, placed in state.contributions.items()},
        dict(state.attests),
        dict(state.heads),
        len(state.late),
        state.close,
    )


def bodies(table: Table, rng: random.Random) -> Iterator[tuple[int, msgspec.Struct]]:
    """Yield authors and bodies of what members might say, in the order in which each writes it."""
    close = table.replicas[0].head.close
    for _ in range(12):
        author = rng.randrange(4)
        if close is not None and rng.random() < 0.5:
            model = digest(f"model {rng.randrange(2)}")
            yield author, e.Attest(close.body.round, close.index, model, 128, (), b"")
        elif rng.random() < 0.3:
            yield author, e.Evaluation(0, digest("model 0"), 5, ())
        else:
            number, attempt = rng.randrange(1, ROUNDS), rng.randrange(1, 4)
            yield author, contribution(table.swarm, author, number=number, attempt=attempt)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("closed", [False, True])
def test_kept_up_in_any_order_of_arrival_it_is_what_a_fresh_look_finds(seed: int, closed: bool) -> None:
    rng = random.Random(seed)
    table = Table()
    if closed:
        table.contribute(0, 1, 2, 3)
        table.agree()
    replica = table.replicas[0]
    leaves = [table.feeds.write(author, body) for author, body in bodies(table, rng)]
    rng.shuffle(leaves)
    feeds: dict[NodeId, dict[int, Pending]] = {node: {} for node in NODES}
    kept = Outlook.of(replica.head, ())
    for at, leaf in enumerate(leaves):
        pending = replica.admit(leaf, NOW + at)
        assert pending is not None
        author = NodeId(pending.entry.author)
        feeds[author][pending.entry.seq] = pending
        assert kept.grow(author, feeds[author])
        fresh = Outlook.of(replica.head, replica.pending(replica.head))
        assert meaning(kept.state) == meaning(fresh.state)
        assert (kept.oldest, kept.fresh) == (fresh.oldest, fresh.fresh)
        assert meaning(kept.reopened(5)) == meaning(fresh.reopened(5))


def test_who_has_spoken_is_not_waited_for_and_the_last_one_is_enough() -> None:
    table = Table()
    replica, parent = table.replicas[0], SWARM.signed.ledger_id
    for author in (3, 1, 0):
        table.contribute(author)
        assert not replica.wants_block(parent, NOW)
    table.contribute(2)
    assert replica.wants_block(parent, NOW)
    table.knowledge[0].updates[update(1)] = None
    assert replica.wants_block(parent, NOW), "what has been found fit to be averaged stays so"


def test_a_member_that_comes_back_is_waited_for_again() -> None:
    table = Table()
    replica, parent = table.replicas[0], SWARM.signed.ledger_id
    table.contribute(0, 1, 2)
    assert not replica.wants_block(parent, NOW)
    table.knowledge[0].gone = [NODES[3]]
    assert replica.wants_block(parent, NOW)
    table.knowledge[0].gone = []
    assert not replica.wants_block(parent, NOW)
