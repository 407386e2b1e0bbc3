"""One member's copy: what it builds others accept, and what it does not know yet delays its vote and nothing else.

Four replicas agree on blocks by hand: one builds, the others judge, all are told that it is final.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from swarm import codec
from swarm.errors import LedgerError, Reject
from swarm.identity import Verify
from swarm.ledger import entry as e
from swarm.ledger import replica as module
from swarm.ledger.block import NOTARIZE, Block, Certificate, FinalBlock, Header
from swarm.ledger.consensus import Invalid, Overtaken, Valid, Verdict, Wait
from swarm.ledger.merkle import leaf_hash
from swarm.ledger.replica import ATTEST_GATHER_S, GATHER_S, PENDING_PER_AUTHOR_MAX, Pending, Replica
from swarm.ledger.state import genesis
from swarm.machine import Digest, NodeId
from swarm.terms import remove
from tests.builders import Feeds, Swarm, certify, contribution, digest, make_swarm
from topologies.world.clock import EPOCH_S

SWARM = make_swarm(4)
MODEL, OTHER_MODEL = digest("model 1"), digest("another model 1")
NOW = EPOCH_S
NODES = [who.node for who in SWARM.identities]


@dataclass(slots=True)
class Knowledge:
    """A witness that is told what to say. Updates it was told nothing about are `otherwise`."""

    otherwise: bool | None = True
    updates: dict[Digest, bool | None] = field(default_factory=dict)
    arriving: list[Digest] = field(default_factory=list)
    gone: list[NodeId] = field(default_factory=list)
    slow: list[tuple[NodeId, int]] = field(default_factory=list)
    nowhere: bool = False
    """Whether the charter's route seems to lead nowhere."""

    def absent(self, node: NodeId, now: float) -> bool:
        return node in self.gone

    def usable(self, digest: Digest) -> bool | None:
        return self.updates.get(digest, self.otherwise)

    def arrived(self, author: NodeId, body: e.Contribution) -> bool:
        return self.usable(Digest(body.update_digest)) is True

    def stuck(self) -> bool:
        return self.nowhere

    def moving(self, digest: Digest, now: float) -> bool:
        return digest in self.arriving

    def silent(self, node: NodeId, now: float) -> bool:
        return node in self.gone

    def outpaced(self, node: NodeId, round_: int, now: float) -> bool:
        return (node, round_) in self.slow


class Table:
    """A replica for every member, and the chain they have agreed on."""

    def __init__(self, swarm: Swarm = SWARM) -> None:
        self.swarm = swarm
        self.feeds = Feeds(swarm)
        self.knowledge = [Knowledge() for _ in swarm.identities]
        self.replicas = [Replica(swarm.signed, knowledge) for knowledge in self.knowledge]
        self.tip: Header | None = None
        self.view = 0

    def tell(self, leaf: bytes, now: float = NOW) -> None:
        for replica in self.replicas:
            assert replica.admit(leaf, now) is not None

    def contribute(self, *authors: int, **fields: int | bytes) -> None:
        for author in authors:
            self.tell(self.feeds.write(author, contribution(self.swarm, author, **fields)))  # type: ignore[arg-type]

    def attest(self, *authors: int, model: bytes = MODEL) -> None:
        state = self.replicas[0].head
        assert state.close is not None
        for author in authors:
            self.tell(self.feeds.write(author, e.Attest(state.round, state.close.index, model, 128, (), b"")))

    def build(self, proposer: int = 0, now: float = NOW) -> tuple[Block, Header]:
        self.view += 1
        parent = (self.swarm.signed.ledger_id, 0) if self.tip is None else (self.tip.hash, self.tip.view)
        built = self.replicas[proposer].build(*parent, self.view, (), now)
        assert built is not None
        header, leaves = built
        return Block(header.encode(), leaves, (), proposer, b""), header

    def verdicts(self, block: Block, header: Header, now: float = NOW) -> list[Verdict]:
        return [replica.judge(block, header, now) for replica in self.replicas]

    def look(self, now: float) -> None:
        """Let everybody see how things stand."""
        for replica in self.replicas:
            replica.wants_block(self.swarm.signed.ledger_id if self.tip is None else self.tip.hash, now)

    def finalize(self, block: Block, header: Header, now: float = NOW) -> None:
        for replica in self.replicas:
            replica.finalized(FinalBlock(block, (certify(self.swarm, header),)), header, now)
        self.tip = header

    def agree(self, proposer: int = 0, now: float = NOW) -> list[int]:
        """Build, judge and finalize one block; return the kinds of its entries."""
        block, header = self.build(proposer, now)
        assert self.verdicts(block, header, now) == [Valid()] * len(self.replicas)
        self.finalize(block, header, now)
        assert len({replica.head.digest() for replica in self.replicas}) == 1
        return kinds(block)


def kinds(block: Block) -> list[int]:
    return [e.decode_entry(leaf).kind for leaf in block.leaves]


def update(author: int, swarm: Swarm = SWARM) -> Digest:
    return Digest(contribution(swarm, author).update_digest)


def close_of(block: Block) -> e.RoundClose:
    entry = e.decode_entry(block.leaves[-1])
    assert entry.kind == e.ROUND_CLOSE
    return msgspec.msgpack.decode(entry.body, type=e.RoundClose)


# --- building and judging -----------------------------------------------------------------------------------------


def test_what_one_replica_builds_the_others_accept_round_after_round() -> None:
    table = Table()
    model = SWARM.charter.task.initial_model
    for number in (1, 2, 3):
        table.contribute(0, 1, 2, 3, number=number, base=model)
        first = [] if number == 1 else [e.BLOCK_CERT]
        assert table.agree(proposer=number) == [*first, *[e.CONTRIBUTION] * 4, e.ROUND_CLOSE]
        model = digest(f"model {number}")
        table.attest(0, 1, 2, 3, model=model)
        assert table.agree(proposer=0) == [e.BLOCK_CERT, *[e.ATTEST] * 4, e.ROUND_COMMIT]
        head = table.replicas[3].head
        assert (head.committed.round, head.committed.model) == (number, model)
    assert table.replicas[0].head.complete
    assert not table.replicas[0].wants_block(table.replicas[0].head.ledger_id, NOW)


def test_a_block_is_dated_after_its_parent_even_if_the_clock_went_back() -> None:
    table = Table()
    table.agree(now=NOW)
    before = table.replicas[0].head.time_ms
    table.agree(now=NOW - 100)
    assert table.replicas[0].head.time_ms == before + 1


def test_a_replica_that_does_not_know_the_parent_builds_nothing_and_wants_nothing() -> None:
    replica = Table().replicas[0]
    assert replica.build(digest("nobody's block"), 0, 1, (), NOW) is None
    assert not replica.wants_block(digest("nobody's block"), NOW)


def test_a_block_dated_in_the_future_waits() -> None:
    table = Table()
    skew_s = SWARM.charter.ledger.max_skew_ms / 1000
    block, header = table.build(now=NOW + skew_s + 1)
    assert table.replicas[1].judge(block, header, NOW) == Wait("it is dated in the future")
    assert table.replicas[1].judge(block, header, NOW + 1.5) == Valid()


def test_a_block_that_breaks_the_rules_is_invalid_and_so_is_what_extends_it() -> None:
    table = Table()
    table.contribute(0)
    block, header = table.build()
    bad_header = replace(header, state_hash=digest("state"))
    bad = msgspec.structs.replace(block, header=bad_header.encode())
    verdict = table.replicas[1].judge(bad, bad_header, NOW)
    assert isinstance(verdict, Invalid)
    assert "its state is not what follows" in verdict.reason
    table.replicas[1].observe(bad, bad_header)
    child = replace(header, height=2, parent_hash=bad_header.hash)
    verdict = table.replicas[1].judge(block, child, NOW)
    assert verdict == Invalid("couldn't accept block 2: the block it extends is not acceptable")
    assert table.replicas[1].judge(block, header, NOW) == Valid(), "the good one still is"


def test_a_block_may_extend_one_that_is_only_observed() -> None:
    table = Table()
    table.contribute(0)
    block, header = table.build()
    judge = table.replicas[2]
    judge.observe(block, header)
    table.tip = header
    child, child_header = table.build()
    assert judge.judge(child, child_header, NOW) == Valid()
    assert judge.head.height == 0, "nothing is final"


def test_an_unsigned_entry_in_a_block_is_invalid() -> None:
    table = Table()
    table.contribute(0)
    block, header = table.build()
    forged = msgspec.structs.replace(e.decode_entry(block.leaves[0]), ts_ms=1).encode()
    verdict = table.replicas[1].judge(msgspec.structs.replace(block, leaves=(forged,)), header, NOW)
    assert isinstance(verdict, Invalid)
    assert "entry 0 of" in verdict.reason


@pytest.mark.parametrize("case", ["few", "forged", "notarized"])
def test_a_recorded_certificate_that_no_quorum_signed_is_invalid(case: str) -> None:
    table = Table()
    block, header = table.build()
    good = certify(SWARM, header)
    wrong: dict[str, Certificate] = {
        "few": certify(SWARM, header, signers=(0, 1)),
        "forged": msgspec.structs.replace(good, signatures=(*good.signatures[:2], good.signatures[0])),
        "notarized": certify(SWARM, header, kind=NOTARIZE),
    }
    for replica in table.replicas[1:]:
        replica.finalized(FinalBlock(block, (good,)), header, NOW)
    table.replicas[0].finalized(FinalBlock(block, (wrong[case],)), header, NOW)
    table.tip = header
    following, following_header = table.build(proposer=0)
    assert kinds(following) == [e.BLOCK_CERT]
    for verdict in table.verdicts(following, following_header)[1:]:
        assert isinstance(verdict, Invalid)


def test_a_recorded_certificate_is_judged_by_the_keys_of_the_epoch_that_made_it() -> None:
    """Site-1 was one of those who made the last block of epoch 0 final. It is gone, and 2 and 3 have other indices."""
    table = Table()
    removal = e.MemberProposal(codec.encode(remove(NODES[1])), int(NOW * 1000) + 60_000, b"")
    proposal = table.feeds.write(0, removal)
    table.tell(proposal)
    for author in (2, 3):
        table.tell(table.feeds.write(author, e.MemberVote(e.decode_entry(proposal).id, yes=True)))
    assert table.agree()[-1] == e.EPOCH
    block, header = table.build()
    certificate = codec.decode(e.decode_entry(block.leaves[0]).body, e.BlockCert, limit=1 << 16).proof
    assert (header.epoch, certificate.epoch, certificate.signers) == (1, 0, (0, 1, 2))
    assert table.verdicts(block, header) == [Valid()] * 4
    terms = table.replicas[0].head.terms
    with pytest.raises(Reject):
        certificate.check(SWARM.signed.ledger_id, terms.vote_keys, terms.quorum)


# --- what only the witness knows ----------------------------------------------------------------------------------


def test_a_vote_waits_for_the_bytes_and_says_whether_they_are_on_their_way() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    block, header = table.build()
    knowledge, judge = table.knowledge[1], table.replicas[1]
    knowledge.updates[update(2)] = None
    assert judge.judge(block, header, NOW) == Wait("the update of site-2 has not arrived", progressing=False)
    knowledge.arriving.append(update(2))
    assert judge.judge(block, header, NOW) == Wait("the update of site-2 has not arrived", progressing=True)
    knowledge.updates[update(2)] = True
    assert judge.judge(block, header, NOW) == Valid()


def test_a_close_with_an_unusable_update_is_invalid_for_whoever_read_it() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    block, header = table.build()
    table.knowledge[1].updates[update(2)] = False
    assert table.replicas[1].judge(block, header, NOW) == Invalid("the update of site-2 is unusable")


def test_an_unusable_update_is_rejected_by_name_and_nobody_waits_for_another() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    for knowledge in table.knowledge:
        knowledge.updates[update(3)] = False
    block, header = table.build()
    close = close_of(block)
    assert [index for index, _ in close.included] == [1, 2, 3]
    assert close.rejected == ((4, e.UNUSABLE),)
    assert table.verdicts(block, header) == [Valid()] * 4


def test_an_update_of_the_wrong_size_is_unusable_whatever_the_witness_says() -> None:
    table = Table()
    table.contribute(0, 1, 2)
    table.tell(table.feeds.write(3, msgspec.structs.replace(contribution(SWARM, 3), update_bytes=127)))
    block, header = table.build()
    assert close_of(block).rejected == ((4, e.UNUSABLE),)
    assert table.verdicts(block, header) == [Valid()] * 4


def test_a_good_update_that_is_called_unusable_is_defended() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.knowledge[0].updates[update(3)] = False
    block, header = table.build(proposer=0)
    verdicts = table.verdicts(block, header)
    assert verdicts[1:] == [Invalid("the update of site-3 is called unusable and is not")] * 3


def test_whoever_has_not_read_an_update_does_not_call_it_unusable() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.knowledge[0].updates[update(3)] = False
    block, header = table.build(proposer=0)
    knowledge, judge = table.knowledge[1], table.replicas[1]
    knowledge.updates[update(3)] = None
    assert judge.judge(block, header, NOW) == Wait("the update of site-3 has not arrived", progressing=False)
    knowledge.arriving.append(update(3))
    assert judge.judge(block, header, NOW) == Wait("the update of site-3 has not arrived", progressing=True)
    knowledge.arriving.clear()
    knowledge.gone.append(NODES[3])
    assert judge.judge(block, header, NOW) == Valid(), "its site is gone: nobody will ever read it"


def test_a_contribution_from_another_model_is_rejected_for_that_by_everybody() -> None:
    table = Table()
    table.contribute(0, 1, 2)
    table.contribute(3, base=OTHER_MODEL)
    for knowledge in table.knowledge:
        knowledge.updates[update(3)] = None  # its bytes do not matter
    block, header = table.build()
    assert close_of(block).rejected == ((4, e.OTHER_BASE),)
    assert table.verdicts(block, header) == [Valid()] * 4


def test_a_silent_site_is_left_out_only_when_its_patience_is_over() -> None:
    table = Table()
    table.contribute(0, 1, 2)
    block, _ = table.build()
    assert e.ROUND_CLOSE not in kinds(block), "site 3 may still come"
    table.knowledge[0].gone.append(NODES[3])
    block, header = table.build()
    assert close_of(block).missing == (bytes(NODES[3]),)
    assert table.verdicts(block, header) == [Valid(), *[Wait("site-3 is still making progress", False)] * 3]
    for knowledge in table.knowledge[1:]:
        knowledge.gone.append(NODES[3])
    assert table.verdicts(block, header) == [Valid()] * 4


def test_a_close_without_a_site_that_is_back_with_its_update_is_given_up_for_a_better_one() -> None:
    table = Table()
    table.contribute(0, 1, 2)
    table.knowledge[0].gone.append(NODES[3])
    block, header = table.build()
    table.knowledge[0].gone.clear()
    for knowledge in table.knowledge:
        knowledge.updates[update(3)] = None
    table.contribute(3)
    waiting = Wait("site-3 is still making progress", False)
    assert table.verdicts(block, header) == [waiting] * 4, "nobody has its bytes yet"
    for knowledge in table.knowledge[:2]:
        knowledge.updates[update(3)] = True
    overtaken = Overtaken("the update of site-3 is here after all")
    assert table.verdicts(block, header) == [overtaken, overtaken, waiting, waiting]
    better, _ = table.build()
    assert close_of(better).missing == ()


def test_an_update_for_another_round_or_model_makes_no_better_close() -> None:
    table = Table()
    table.contribute(0, 1, 2)
    table.knowledge[0].gone.append(NODES[3])
    block, header = table.build()
    table.contribute(3, base=OTHER_MODEL)
    assert table.verdicts(block, header)[1] == Wait("site-3 is still making progress", False)


def test_a_contribution_whose_bytes_are_lost_with_its_site_is_unavailable() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    for knowledge in table.knowledge:
        knowledge.updates[update(3)] = None
    assert e.ROUND_CLOSE not in kinds(table.build()[0])
    for knowledge in table.knowledge:
        knowledge.gone.append(NODES[3])
        knowledge.arriving.append(update(3))
    assert e.ROUND_CLOSE not in kinds(table.build()[0]), "somebody else is still sending it"
    for knowledge in table.knowledge:
        knowledge.arriving.clear()
    block, header = table.build()
    assert close_of(block).rejected == ((4, e.UNAVAILABLE),)
    assert table.verdicts(block, header) == [Valid()] * 4


DEADLINE_S = SWARM.charter.round.deadline_ms / 1000


def test_after_the_deadline_nobody_is_waited_for() -> None:
    table = Table()
    table.contribute(0, 1)
    table.look(NOW)
    assert e.ROUND_CLOSE not in kinds(table.build(now=NOW + DEADLINE_S - 1)[0])
    block, header = table.build(now=NOW + DEADLINE_S)
    assert close_of(block).missing == tuple(bytes(node) for node in NODES[2:])
    assert table.verdicts(block, header, now=NOW + DEADLINE_S) == [Valid()] * 4


def test_a_charter_that_was_signed_long_ago_does_not_cut_the_first_round_short() -> None:
    table = Table()
    table.contribute(0, 1)
    first = (SWARM.charter.created_ms / 1000) + 30 * DEADLINE_S
    assert e.ROUND_CLOSE not in kinds(table.build(now=first)[0])


def test_a_proposer_whose_clock_is_fast_ends_no_round_before_its_time() -> None:
    table = Table()
    table.contribute(0, 1)
    table.look(NOW)
    block, header = table.build(now=NOW + DEADLINE_S)  # it is that late for its own clock alone
    assert close_of(block).missing
    assert table.verdicts(block, header, now=NOW + 1.0)[1:] == [Wait("site-2 is still making progress", False)] * 3
    assert table.verdicts(block, header, now=NOW + DEADLINE_S)[1:] == [Valid()] * 3


def test_nobody_is_given_up_in_the_block_that_commits_the_round_before() -> None:
    """Who is may not vote for it; then neither the commit would be final, nor the deadline ever begin."""
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.agree()
    table.attest(0, 1, 2, 3)
    table.contribute(0, 1, 2, number=2, base=MODEL)
    for knowledge in table.knowledge:
        knowledge.gone.append(NODES[3])
    assert table.agree()[-1] == e.ROUND_COMMIT
    assert wants(table, NOW), "the next block may close without it"
    assert close_of(table.build()[0]).missing == (bytes(NODES[3]),)


def test_a_round_does_not_close_with_fewer_than_the_charter_asks_for() -> None:
    table = Table(make_swarm(4, min_contributions=3))
    table.contribute(0, 1)
    table.look(NOW)
    late = NOW + 10_000
    assert e.ROUND_CLOSE not in kinds(table.build(now=late)[0])
    table.contribute(2)
    assert close_of(table.build(now=late)[0]).included == ((1, 10), (2, 10), (3, 10))


def bereft() -> tuple[Table, Digest]:
    """Return four members that need each other's updates, closed on a route that leads nowhere, and the one lost."""
    swarm = make_swarm(4, route="fold", min_contributions=4)
    table = Table(swarm)
    table.contribute(0, 1, 2, 3)
    assert table.agree()[-1] == e.ROUND_CLOSE
    lost = update(3, swarm)
    for knowledge in table.knowledge:
        knowledge.nowhere, knowledge.updates[lost] = True, None
        knowledge.gone.append(NODES[3])
    table.look(NOW)
    return table, lost


def test_a_route_of_which_too_little_is_left_for_a_whole_deadline_ends_with_nothing() -> None:
    table, _ = bereft()
    assert e.ROUND_CLOSE not in kinds(table.build(now=NOW + DEADLINE_S - 1)[0])
    late = NOW + DEADLINE_S
    block, header = table.build(now=late)
    close = close_of(block)
    assert (close.attempt, close.included, close.missing) == (2, (), ())
    assert [reason for _, reason in close.rejected] == [e.VOID] * 4
    early = table.verdicts(block, header, now=NOW + DEADLINE_S - 1)
    assert early[1:] == [Wait("updates may still come", progressing=False)] * 3
    assert table.verdicts(block, header, now=late) == [Valid()] * 4
    table.finalize(block, header, late)
    base = table.swarm.charter.task.initial_model
    table.attest(0, 1, 2, model=base)
    assert e.ROUND_COMMIT in kinds(table.build(now=late + GATHER_S)[0])


def test_who_was_cut_off_has_not_looked_for_updates_in_vain() -> None:
    table, _ = bereft()
    cut_off = [*NODES[1:3]]
    for knowledge in table.knowledge:
        knowledge.gone += cut_off
    late = NOW + DEADLINE_S
    table.look(late - 1.0)
    for knowledge in table.knowledge:
        knowledge.gone = [NODES[3]]
    table.look(late)
    assert e.ROUND_CLOSE not in kinds(table.build(now=late)[0])
    assert close_of(table.build(now=late + DEADLINE_S)[0]).included == ()


def test_nobody_gives_a_round_up_who_has_enough_of_it_or_is_still_on_its_route() -> None:
    table, lost = bereft()
    late = NOW + DEADLINE_S
    block, header = table.build(now=late)
    table.knowledge[1].updates[lost] = True
    table.knowledge[2].nowhere = False
    found = table.verdicts(block, header, now=late)
    assert found[1:3] == [
        Overtaken("enough updates are here after all"),
        Wait("the charter's route may still lead to the mean", progressing=False),
    ]
    for knowledge in table.knowledge:
        knowledge.updates[lost] = True
    assert len(close_of(table.build(now=late)[0]).included) == 4, "and then it is closed again with all of them"


# --- waiting for nobody ---------------------------------------------------------------------------------------------


def asynchronous(fewest: int = 2) -> Swarm:
    return make_swarm(4, min_contributions=fewest, staleness=8, asynchronous="buffered")


def test_where_nobody_is_waited_for_a_round_closes_with_enough_and_the_others_are_not_asked_about() -> None:
    table = Table(asynchronous())
    table.contribute(0)
    assert not wants(table, NOW)
    assert e.ROUND_CLOSE not in kinds(table.build()[0])
    table.contribute(2)
    assert wants(table, NOW)
    block, header = table.build()
    assert close_of(block).missing == (bytes(NODES[1]), bytes(NODES[3]))
    assert table.verdicts(block, header) == [Valid()] * 4


def test_an_update_that_has_not_arrived_stands_in_the_next_round_and_voters_who_have_it_do_not_mind() -> None:
    table = Table(asynchronous())
    table.knowledge[0].updates[update(3, table.swarm)] = None
    table.contribute(0, 1, 3)
    block, header = table.build()
    assert close_of(block).rejected == ((3, e.UNAVAILABLE),)
    assert table.verdicts(block, header) == [Valid()] * 4
    table.finalize(block, header)
    table.attest(0, 1, 2)
    table.agree()
    head = table.replicas[1].head
    assert (head.round, head.contributions[2, NODES[3]].body.round) == (2, 1)


def test_voters_hold_what_a_close_names_though_nobody_is_waited_for() -> None:
    table = Table(asynchronous())
    table.knowledge[1].updates[update(2, table.swarm)] = None
    table.contribute(0, 2)
    block, header = table.build()
    assert table.verdicts(block, header)[1] == Wait("the update of site-2 has not arrived", progressing=False)


def test_an_update_is_not_lost_at_the_word_of_a_leader_though_nobody_is_waited_for() -> None:
    """What is called unusable never comes back; what is not there does."""
    table = Table(asynchronous())
    table.knowledge[0].updates[update(3, table.swarm)] = False
    table.knowledge[1].updates[update(3, table.swarm)] = None
    table.contribute(0, 1, 3)
    block, header = table.build()
    assert close_of(block).rejected == ((3, e.UNUSABLE),)
    assert table.verdicts(block, header)[1] == Wait("the update of site-3 has not arrived", progressing=False)


def test_nobody_is_passed_over_in_the_block_that_commits_the_round_before() -> None:
    table = Table(asynchronous())
    table.contribute(0, 1, 2, 3)
    table.agree()
    table.attest(0, 1, 2, 3)
    table.contribute(0, 1, number=2, base=MODEL)
    assert table.agree()[-1] == e.ROUND_COMMIT
    assert wants(table, NOW)
    assert len(close_of(table.build()[0]).included) == 2


# --- when a block is worth it -------------------------------------------------------------------------------------


def wants(table: Table, now: float) -> bool:
    return table.replicas[0].wants_block(table.replicas[0].head.ledger_id if table.tip is None else table.tip.hash, now)


def test_entries_that_complete_nothing_are_gathered_for_a_second() -> None:
    table = Table()
    assert not wants(table, NOW)
    assert table.replicas[0].next_wake(NOW) is None
    table.contribute(0)
    assert not wants(table, NOW + GATHER_S - 0.01)
    assert table.replicas[0].next_wake(NOW + 0.5) == NOW + GATHER_S
    assert wants(table, NOW + GATHER_S)
    table.agree()
    assert not wants(table, NOW + GATHER_S), "they are final"
    assert table.replicas[0].next_wake(NOW) is None


def test_a_round_that_is_ready_waits_for_nothing() -> None:
    table = Table()
    table.contribute(0, 1, 2)
    assert not wants(table, NOW)
    table.contribute(3)
    assert wants(table, NOW)


def test_a_quorum_of_attests_waits_a_moment_for_those_who_are_still_there() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.agree()
    table.attest(0, 1, 2)
    assert not wants(table, NOW + ATTEST_GATHER_S / 2)
    assert table.replicas[0].next_wake(NOW) == NOW + ATTEST_GATHER_S
    assert wants(table, NOW + ATTEST_GATHER_S)
    table.knowledge[0].gone.append(NODES[3])
    assert wants(table, NOW), "site 3 is gone"
    table.knowledge[0].gone.clear()
    table.attest(3)
    assert wants(table, NOW), "all are in"


# --- entries that wait --------------------------------------------------------------------------------------------


def test_entries_are_taken_in_any_order_and_used_in_their_authors() -> None:
    table = Table()
    leaves = [table.feeds.write(0, contribution(SWARM, 0, attempt=attempt)) for attempt in (1, 2, 3)]
    replica = table.replicas[0]
    assert isinstance(replica.admit(leaves[2], NOW), Pending)
    assert isinstance(replica.admit(leaves[1], NOW), Pending)
    assert list(replica.pending(replica.head)) == []
    assert replica.feed_heads()[0] == (bytes(NODES[0]), 0), "what is lacking begins at 0"
    assert isinstance(replica.admit(leaves[0], NOW), Pending)
    assert [pending.leaf for pending in replica.pending(replica.head)] == leaves
    assert replica.feed_heads()[0] == (bytes(NODES[0]), 3)
    assert replica.entries_from(NODES[0], 1) == leaves[1:]
    assert replica.entries_from(NODES[0], 3) == []
    following = replica.next_entry(NODES[0])
    assert (following.seq, following.prev) == table.feeds.ends[0]
    assert [author for author, _ in replica.bodies(e.Contribution)] == [NODES[0]] * 3
    assert list(replica.bodies(e.Attest)) == []


def test_the_same_entry_is_new_once_and_never_after_it_is_final() -> None:
    table = Table()
    leaf = table.feeds.write(0, contribution(SWARM, 0))
    table.tell(leaf)
    assert table.replicas[0].admit(leaf, NOW) is None
    table.agree()
    assert table.replicas[0].admit(leaf, NOW) is None
    assert list(table.replicas[0].pending(table.replicas[0].head)) == []


def test_one_author_can_make_a_replica_keep_so_much_and_no_more() -> None:
    table = Table()
    table.contribute(1)
    replica = table.replicas[0]
    for _ in range(PENDING_PER_AUTHOR_MAX + 5):
        replica.admit(table.feeds.write(0, e.Evaluation(0, MODEL, 1, ())), NOW)
    assert replica.feed_heads()[0] == (bytes(NODES[0]), PENDING_PER_AUTHOR_MAX)
    far = Feeds(SWARM)
    far.ends[2] = (PENDING_PER_AUTHOR_MAX, MODEL)
    assert replica.admit(far.write(2, contribution(SWARM, 2)), NOW) is None
    assert replica.entries_from(NODES[2], PENDING_PER_AUTHOR_MAX) == []
    table.tip = None
    block, header = table.build()
    for other in table.replicas:
        other.finalized(FinalBlock(block, ()), header, NOW)
    assert replica.admit(table.feeds.write(0, e.Evaluation(0, MODEL, 1, ())), NOW) is not None, "there is room again"


def test_what_no_member_signed_is_refused() -> None:
    replica = Table().replicas[0]
    stranger = make_swarm(4, first=100)
    with pytest.raises(Reject, match="is not a member"):
        replica.admit(Feeds(stranger).write(0, contribution(stranger, 0)), NOW)
    entry = e.decode_entry(Feeds(SWARM).write(0, contribution(SWARM, 0)))
    with pytest.raises(Reject, match="entry 0 of"):
        replica.admit(msgspec.structs.replace(entry, ts_ms=5).encode(), NOW)
    with pytest.raises(Reject):
        replica.admit(b"\xc1", NOW)
    assert list(replica.pending(replica.head)) == []
    assert replica.forks == {}


def test_a_forked_feed_is_on_record_and_whoever_passed_it_on_is_not_blamed() -> None:
    table = Table()
    first = table.feeds.write(0, contribution(SWARM, 0, samples=1), advance=False)
    second = table.feeds.write(0, contribution(SWARM, 0, samples=2), advance=False)
    third = table.feeds.write(0, contribution(SWARM, 0, samples=3))
    replica = table.replicas[1]
    assert isinstance(replica.admit(first, NOW), Pending)
    assert replica.admit(second, NOW) is None
    assert replica.admit(third, NOW) is None
    assert replica.forks == {NODES[0]: (first, second)}
    assert [pending.leaf for pending in replica.pending(replica.head)] == [first]


def test_two_contributions_as_one_attempt_are_a_contradiction() -> None:
    table = Table()
    first = table.feeds.write(0, contribution(SWARM, 0, samples=1))
    second = table.feeds.write(0, contribution(SWARM, 0, samples=2))
    other = table.feeds.write(0, contribution(SWARM, 0, samples=3, attempt=2))
    replica = table.replicas[1]
    for leaf in (first, other):
        replica.admit(leaf, NOW)
    assert replica.forks == {}
    assert replica.admit(second, NOW) is not None, "it is a well-formed entry, and evidence"
    assert replica.forks == {NODES[0]: (first, second)}


def test_a_fork_ends_with_the_branch_that_became_final() -> None:
    table = Table()
    ours = table.feeds.write(0, contribution(SWARM, 0, samples=1), advance=False)
    theirs = table.feeds.write(0, contribution(SWARM, 0, samples=2))
    table.replicas[0].admit(ours, NOW)
    for replica in table.replicas[1:]:
        replica.admit(theirs, NOW)
    block, header = table.build(proposer=1)
    assert table.verdicts(block, header) == [Valid()] * 4
    table.finalize(block, header)
    assert list(table.replicas[0].pending(table.replicas[0].head)) == []
    assert table.replicas[0].forks == {NODES[0]: (ours, theirs)}, "what waited here contradicts what is final"
    assert table.replicas[1].forks == {}
    assert table.replicas[1].admit(ours, NOW) is None, "too late to count"
    assert table.replicas[1].forks == {NODES[0]: (theirs, ours)}, "and noticed all the same"
    assert table.replicas[2].admit(theirs, NOW) is None
    assert table.replicas[2].forks == {}, "to hear what is final again is nothing"
    table.contribute(0, attempt=2)
    assert table.agree(proposer=0) == [e.BLOCK_CERT, e.CONTRIBUTION]


def test_a_block_holds_as_many_entries_as_fit_and_the_rest_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    table.contribute(0, 1, 2)
    leaf = len(next(table.replicas[0].pending(table.replicas[0].head)).leaf)
    monkeypatch.setattr(module, "BLOCK_BYTES_MAX", module.RESERVED_BYTES + 2 * leaf)
    assert table.agree() == [e.CONTRIBUTION] * 2
    monkeypatch.undo()
    assert table.agree() == [e.BLOCK_CERT, e.CONTRIBUTION]


# --- finality -----------------------------------------------------------------------------------------------------


def test_final_blocks_are_handed_on_once_and_in_order() -> None:
    table = Table()
    table.agree()
    table.contribute(0)
    table.agree()
    assert [header.height for header, _ in table.replicas[0].take_final()] == [1, 2]
    assert table.replicas[0].take_final() == []


def test_a_final_block_that_was_never_judged_is_followed_all_the_same() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    for knowledge in table.knowledge[1:]:
        knowledge.otherwise = None  # a laggard holds no bytes, and need not
    block, header = table.build()
    late = Replica(SWARM.signed, Knowledge(otherwise=None))
    late.finalized(FinalBlock(block, (certify(SWARM, header),)), header, NOW)
    assert late.head.close is not None
    assert late.head.digest() == header.state_hash


def test_a_certified_block_that_breaks_the_rules_is_an_error_of_the_ledger() -> None:
    table = Table()
    block, header = table.build()
    bad = replace(header, state_hash=digest("state"))
    with pytest.raises(LedgerError, match="couldn't follow the ledger past height 0") as caught:
        table.replicas[1].finalized(FinalBlock(block, ()), bad, NOW)
    assert "keep the evidence" in caught.value.hint


def test_entries_of_final_blocks_are_believed_up_to_the_trusted_height_and_no_further() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.agree()
    ((final, header),) = chain_of(table)
    leaves = []
    for leaf in final.block.leaves:
        entry = e.decode_entry(leaf)
        leaves.append(
            leaf if entry.author == e.NO_AUTHOR else msgspec.structs.replace(entry, signature=bytes(64)).encode()
        )
    state = table.replicas[0].head
    frontier = genesis(SWARM.signed).frontier.extend([leaf_hash(leaf) for leaf in leaves])
    outcome = msgspec.structs.replace(state, frontier=frontier)
    unsigned = final.block, replace(header, root=frontier.root(), state_hash=outcome.digest())
    for height, believed in ((0, False), (1, True)):
        again = Replica(SWARM.signed, Knowledge())
        again.trusted_height = height
        bad = FinalBlock(msgspec.structs.replace(unsigned[0], leaves=tuple(leaves)), ())
        if believed:
            again.finalized(bad, unsigned[1], NOW)
            assert again.head.height == 1
        else:
            with pytest.raises(LedgerError, match="signature"):
                again.finalized(bad, unsigned[1], NOW)


def test_a_replica_resumes_at_a_snapshot_and_refuses_another_state() -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.agree()
    table.attest(0, 1, 2)
    table.agree()
    whole = table.replicas[0]
    (first, one), (second, two) = chain_of(table)
    again = Replica(SWARM.signed, Knowledge())
    again.resume(whole.settled, two)
    again.recall(first, one)
    again.recall(second, two)
    assert (again.head, again.feed_heads()) == (whole.head, whole.feed_heads())
    assert [header.height for header, _ in again.take_final()] == [1, 2]
    author = NodeId(SWARM.identities[0].node)
    assert again.last_of(author) == whole.last_of(author) != b""
    for header in (one, two):
        other = Replica(SWARM.signed, Knowledge())
        with pytest.raises(LedgerError, match="not the state that block names"):
            other.resume(msgspec.structs.replace(whole.settled, certified=9), header)
        assert other.head.height == 0


def chain_of(table: Table) -> Sequence[tuple[FinalBlock, Header]]:
    return [(FinalBlock(block, (certify(SWARM, header),)), header) for header, block in table.replicas[0].take_final()]


def test_a_restored_replica_stands_where_it_stood_and_checks_signatures_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table()
    table.contribute(0, 1, 2, 3)
    table.agree()
    table.attest(0, 1, 2)
    table.agree()
    checked: list[int] = []
    verify = e.verify_entry

    def counted(entry: e.Entry, key: bytes, ledger_id: bytes, by: Verify) -> None:
        checked.append(entry.seq)
        verify(entry, key, ledger_id, by)

    monkeypatch.setattr(e, "verify_entry", counted)
    again = Replica(SWARM.signed, Knowledge())
    for final, header in chain_of(table):
        again.restore(final, header)
    assert again.head == table.replicas[0].head
    assert checked == [], "they were checked before they were written"
    again.admit(table.feeds.write(3, contribution(SWARM, 3, number=2, base=MODEL)), NOW)
    assert len(checked) == 1
