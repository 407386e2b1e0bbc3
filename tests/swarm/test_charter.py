"""What the founders sign: every term is refused in words when it cannot stand, and voids signatures when it changes."""

import random
import re
from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from swarm import charter as c
from swarm import codec
from swarm.errors import LedgerError, Reject, SwarmError, UsageError
from swarm.identity import DOMAIN_CHARTER, Identity, verify
from swarm.ledger.entry import Contribution
from swarm.terms import founding
from tests.builders import Swarm, changed, contribution, digest, identity, make_swarm

EDGES = ((0, 1), (1, 2), (2, 3))


def rich() -> Swarm:
    """A swarm whose charter uses every kind of term."""
    return make_swarm(4, edges=EDGES, metrics=("loss", "accuracy"))


def card(number: int, *, name: str = "", endpoint: str = "tcp://127.0.0.1:1") -> c.Card:
    return c.make_card(identity(number), name=name or f"site-{number}", endpoint=endpoint)


def with_members(*cards: c.Card, edges: tuple[tuple[int, int], ...] = ()) -> c.Charter:
    return changed(make_swarm(4), members=cards, edges=edges)


# --- the text form --------------------------------------------------------------------------------------------------


def test_toml_reads_back_to_the_same_bytes_and_signatures() -> None:
    signed = rich().signed
    back = c.from_toml(c.to_toml(signed))
    assert back.charter.encode() == signed.charter.encode()
    assert back.signatures == signed.signatures
    assert back.ledger_id == signed.ledger_id
    back.check()
    assert c.to_toml(back) == c.to_toml(signed)


def test_toml_keeps_a_predecessor() -> None:
    charter = changed(rich(), predecessor=((b"\x01" * 32, 7, b"\x02" * 32),))
    back = c.from_toml(c.to_toml(c.SignedCharter(charter, {})))
    assert back.charter.predecessor == ((b"\x01" * 32, 7, b"\x02" * 32),)
    assert back.charter.encode() == charter.encode()


def test_a_card_reads_back_the_same() -> None:
    mine = card(1)
    assert c.card_from_toml(c.card_to_toml(mine)) == mine


def test_a_card_text_with_another_address_is_refused() -> None:
    text = c.card_to_toml(card(1)).replace("tcp://127.0.0.1:1", "tcp://10.0.0.6:1")
    with pytest.raises(UsageError, match="'site-1': a proof of its keys does not verify"):
        c.card_from_toml(text)


def test_any_changed_value_of_the_text_is_noticed() -> None:
    lines = c.to_toml(rich().signed).splitlines()
    touched = 0
    for number, line in enumerate(lines):
        if "=" not in line:
            continue
        key, _, value = line.partition(" = ")
        for other in other_values(value):
            text = "\n".join([*lines[:number], f"{key} = {other}", *lines[number + 1 :]])
            with pytest.raises(SwarmError):
                c.from_toml(text).check()
            touched += 1
    assert touched > 60


def other_values(value: str) -> list[str]:
    """TOML values close to `value` but different from it."""
    if value in ("true", "false"):
        return ["false" if value == "true" else "true"]
    if value.startswith('"'):
        inner = value[1:-1]
        return [f'"{inner[:-1]}{"0" if inner[-1:] != "0" else "1"}"', f'"{inner}00"']
    if value.startswith("["):
        return ["[]"] if value != "[]" else ['[["a", "b"]]', '["x"]']
    return [str(int(value) + 1)]


def every_term(charter: c.Charter) -> list[tuple[str, c.Charter]]:
    """The charter with one term changed, for each of its terms."""
    found = []
    for struct in ("task", "round", "ledger"):
        table = getattr(charter, struct)
        for name in table.__struct_fields__:
            new = msgspec.structs.replace(table, **{name: bumped(getattr(table, name))})
            found.append((f"{struct}.{name}", msgspec.structs.replace(charter, **{struct: new})))
    tops = ("version", "name", "created_ms", "metrics", "edges", "predecessor")
    found += [(name, msgspec.structs.replace(charter, **{name: bumped(getattr(charter, name))})) for name in tops]
    for name in c.Card.__struct_fields__:
        other = msgspec.structs.replace(charter.members[1], **{name: bumped(getattr(charter.members[1], name))})
        members = (charter.members[0], other, *charter.members[2:])
        found.append((f"card.{name}", msgspec.structs.replace(charter, members=members)))
    return found


def bumped(value: object) -> object:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case bytes():
            return bytes((value[0] ^ 1,)) + value[1:]
        case str():
            return value + "x"
        case ():
            return ((b"\x01" * 32, 7, b"\x02" * 32),)
        case tuple():
            return value[1:]
        case _:
            raise AssertionError(f"{value!r} is no kind of term")


def test_every_signature_is_voided_by_every_changed_term() -> None:
    signed = rich().signed
    terms = every_term(signed.charter)
    assert len(terms) == 6 + 8 + 4 + 6 + 8
    for what, other in terms:
        for index, signature in signed.signatures.items():
            key = signed.charter.members[index].id_key
            message = DOMAIN_CHARTER + other.encode()
            assert not verify(key, message, signature), what
        with pytest.raises(SwarmError):
            c.SignedCharter(other, signed.signatures).check()


def test_a_changed_text_is_blamed_on_the_signature_that_no_longer_fits() -> None:
    text = c.to_toml(rich().signed).replace("rounds = 3\n", "rounds = 4\n")
    with pytest.raises(LedgerError, match="the signature of 'site-0' does not match its terms") as caught:
        c.from_toml(text).check()
    assert "changed after it was signed" in caught.value.hint
    assert "remove every [[signature]]" in caught.value.hint


def test_every_void_signature_is_named() -> None:
    signed = rich().signed
    assert signed.void() == ()
    assert c.SignedCharter(signed.charter, {**signed.signatures, 1: bytes(64), 3: bytes(64)}).void() == (
        "site-1",
        "site-3",
    )


# --- signatures -----------------------------------------------------------------------------------------------------


def test_founders_that_have_not_signed_are_named() -> None:
    swarm = rich()
    signed = c.SignedCharter(swarm.charter, {}).sign(swarm.identities[0]).sign(swarm.identities[2])
    assert signed.missing() == ("site-1", "site-3")
    signed.check(complete=False)
    with pytest.raises(UsageError, match="not signed yet by site-1, site-3") as caught:
        signed.check()
    assert "swarm charter sign" in caught.value.hint


def test_a_stranger_cannot_sign() -> None:
    with pytest.raises(UsageError, match="this site's identity is not among its members"):
        rich().signed.sign(identity(99))


@pytest.mark.parametrize("index", [-1, 4])
def test_a_signature_of_nobody_is_refused(index: int) -> None:
    signed = rich().signed
    with pytest.raises(LedgerError, match="a signature belongs to no member"):
        c.SignedCharter(signed.charter, {**signed.signatures, index: bytes(64)}).check()


def test_a_signature_cannot_stand_in_for_anothers() -> None:
    signed = rich().signed
    swapped = {0: signed.signatures[1], 1: signed.signatures[0]}
    with pytest.raises(LedgerError, match="'site-0'"):
        c.SignedCharter(signed.charter, swapped).check(complete=False)


def test_the_order_of_signing_does_not_change_the_genesis() -> None:
    swarm = rich()
    backwards = c.SignedCharter(swarm.charter, {})
    for who in reversed(swarm.identities):
        backwards = backwards.sign(who)
    assert backwards.genesis().encode() == swarm.signed.genesis().encode()


# --- the text, refused in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 7\n", "seed = 7\nsead = 7\n", r"\[task\]: unknown key 'sead'"),
        ("seed = 7\n", "", r"\[task\]: 'seed' is missing"),
        ("t0_ms = 1000\n", "", r"\[ledger\]: 't0_ms' is missing"),
        ("deadline_ms = 600000\n", 'deadline_ms = "soon"\n', r"\[round\]: deadline_ms: expected `int`, got `str`$"),
        ("rounds = 3\n", "rounds = 3.5\n", r"\[round\]: rounds: expected `int`, got `float`$"),
        (
            "require_byzantine = false\n",
            "require_byzantine = 0\n",
            r"\[ledger\]: require_byzantine: expected `bool`, got `int`$",
        ),
        ("[share]\n", "[shore]\n", r"the table \[share\] is missing"),
        ("[swarm]\n", "", "version|swarm"),
        ('name = "test-swarm"\n', "", "'name' is missing"),
        ("[share]\n", "[more]\nx = 1\n\n[share]\n", "unknown table 'more'"),
        ('member = "site-0"', 'member = "site-9"', "a signature names 'site-9', who is not a member"),
        ("[round]\n", "[round\n", "couldn't read the TOML"),
        ('digest = "', 'digest = "zz', "is not hexadecimal"),
        ("[swarm]\n", "member = 3\n[swarm]\n", "couldn't"),
        ('member = "site-0"', 'member = ["site-0"]', "who is not a member"),
        ("seed = 7\n", "seed = 1" + 5000 * "0" + "\n", "couldn't read the TOML"),
        ("edges = ", "edges = " + 5000 * "[", "couldn't read the TOML"),
    ],
)
def test_bad_text_is_refused_in_words(old: str, new: str, words: str) -> None:
    text = c.to_toml(rich().signed)
    assert old in text
    with pytest.raises(UsageError, match=words) as caught:
        c.from_toml(text.replace(old, new, 1))
    assert caught.value.hint


def test_members_must_be_an_array_of_tables() -> None:
    text = "member = [1]\n" + c.to_toml(c.SignedCharter(rich().charter, {})).replace("[[member]]", "[[x]]")
    with pytest.raises(UsageError, match=r"member must be written as \[\[member\]\]"):
        c.from_toml(text)


def test_a_predecessor_needs_its_three_values() -> None:
    text = c.to_toml(rich().signed) + '\n[predecessor]\nledger_id = "00"\n'
    with pytest.raises(UsageError, match="ledger_id, size and root"):
        c.from_toml(text)


@pytest.mark.parametrize("seed", range(8))
def test_mutilated_text_never_raises_anything_but_a_sentence(seed: int) -> None:
    rng = random.Random(seed)
    text = c.to_toml(rich().signed)
    for _ in range(40):
        start = rng.randrange(len(text))
        cut = text[:start] + rng.choice(["", '"', "]", "\n", "9", "=", "[", "é"]) + text[start + rng.randrange(9) :]
        try:
            c.from_toml(cut).check()
        except SwarmError as error:
            sentence = error.message
        else:
            continue
        assert sentence.startswith("couldn't ")


# --- terms, refused in words ----------------------------------------------------------------------------------------


def in_round(**fields: object) -> Callable[[Swarm], c.Charter]:
    return lambda swarm: changed(swarm, round=msgspec.structs.replace(swarm.charter.round, **fields))


def in_task(**fields: object) -> Callable[[Swarm], c.Charter]:
    return lambda swarm: changed(swarm, task=msgspec.structs.replace(swarm.charter.task, **fields))


def in_ledger(**fields: object) -> Callable[[Swarm], c.Charter]:
    return lambda swarm: changed(swarm, ledger=msgspec.structs.replace(swarm.charter.ledger, **fields))


def at_top(**fields: object) -> Callable[[Swarm], c.Charter]:
    return lambda swarm: changed(swarm, **fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at_top(name=""), "'' as the name of the swarm"),
        (at_top(name="a b"), "'a b' as the name of the swarm"),
        (at_top(name="ж"), "as the name of the swarm"),
        (at_top(name="x" * 65), "as the name of the swarm"),
        (at_top(version=2), "version = 2, it must be 1 to 1"),
        (at_top(created_ms=-1), "created_ms = -1"),
        (at_top(members=()), "0 members, 1 to 1000"),
        (at_top(metrics=("loss", "loss")), "different names"),
        (at_top(metrics=tuple(f"m{i}" for i in range(33))), "at most 32 different names"),
        (at_top(metrics=("sharp!",)), "'sharp!' as the name of a metric"),
        (at_top(options=(("dp", "on"),)), "unknown option 'dp'"),
        (at_top(predecessor=((bytes(32), 0, bytes(32)),)), "predecessor is not one ledger"),
        (at_top(predecessor=((bytes(32), 2**62, bytes(32)),)), "predecessor is not one ledger"),
        (at_top(predecessor=((bytes(31), 1, bytes(32)),)), "predecessor is not one ledger"),
        (at_top(predecessor=((bytes(32), 1, b""),)), "predecessor is not one ledger"),
        (at_top(predecessor=((bytes(32), 1, bytes(32)),) * 2), "predecessor is not one ledger"),
        (at_top(edges=((1, 0),)), r"link \(1, 0\) is not an ascending pair"),
        (at_top(edges=((0, 0),)), r"link \(0, 0\)"),
        (at_top(edges=((0, 4),)), r"link \(0, 4\)"),
        (at_top(edges=((-1, 2),)), r"link \(-1, 2\)"),
        (at_top(edges=((1, 2), (0, 1), (2, 3))), "not sorted and unique"),
        (at_top(edges=((0, 1), (0, 1), (1, 2), (2, 3))), "not sorted and unique"),
        (at_top(edges=((0, 1), (2, 3))), "no chain of links leads to 'site-2'"),
        (in_round(rounds=0), "rounds = 0"),
        (in_round(rounds=1_000_001), "rounds = 1000001"),
        (in_round(min_contributions=0), "min_contributions = 0, it must be 1 to 4"),
        (in_round(min_contributions=5), "min_contributions = 5, it must be 1 to 4"),
        (in_round(deadline_ms=999), "deadline_ms = 999"),
        (in_round(patience_ms=499), "patience_ms = 499, it must be 500 to 600000"),
        (in_round(patience_ms=600_001), "patience_ms = 600001, it must be 500 to 600000"),
        (in_round(clip_norm_milli=0), "clip_norm_milli = 0"),
        (in_round(clip_norm_milli=1_024_001), "clip_norm_milli = 1024001"),
        (in_round(weight_cap_ppm=0), "weight_cap_ppm = 0"),
        (in_round(weight_cap_ppm=1_000_001), "weight_cap_ppm = 1000001"),
        (in_round(mixing="median"), "mixing = 'median', known are exact, gossip"),
        (in_round(outer="adam"), "'adam' is not one, known are none, fedavgm"),
        (in_task(parameters=0), "parameters = 0"),
        (in_task(parameters=2**33 + 1), "parameters = "),
        (in_task(seed=-1), "seed = -1"),
        (in_task(name="x" * 301), "the name of the task"),
        (in_task(name="a\nb"), "the name of the task"),
        (in_task(name="e\u0301"), "the name of the task"),
        (in_task(seed=2**32), "seed = 4294967296"),
        (in_task(digest=b"short"), "task.digest is not a digest of 32 bytes"),
        (in_task(layout=bytes(33)), "task.layout is not a digest"),
        (in_task(initial_model=b""), "initial_model is not a digest"),
        (in_ledger(max_skew_ms=999), "max_skew_ms = 999"),
        (in_ledger(t0_ms=99), "t0_ms = 99"),
        (in_ledger(t0_ms=300_001), "t0_ms = 300001"),
        (in_ledger(evidence="evict"), "evidence = 'evict', known are record"),
    ],
)
def test_a_bad_term_is_refused_in_words(change: Callable[[Swarm], c.Charter], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        change(make_swarm(4)).check()
    assert caught.value.hint


def test_the_bounds_themselves_are_accepted() -> None:
    for change in (
        in_round(rounds=1, min_contributions=4, deadline_ms=1_000, patience_ms=500, clip_norm_milli=1),
        in_round(rounds=1_000_000, patience_ms=600_000, clip_norm_milli=1_024_000, weight_cap_ppm=1),
        in_task(parameters=2**33, seed=2**32 - 1),
        in_ledger(max_skew_ms=1_000, t0_ms=100),
        at_top(name="x" * 64, metrics=()),
    ):
        change(make_swarm(4)).check()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_byzantine_tolerance_cannot_be_required_of_three(n: int) -> None:
    with pytest.raises(UsageError, match=f"{n} members? cannot outvote a liar") as caught:
        in_ledger(require_byzantine=True)(make_swarm(n)).check()
    assert "fourth member" in caught.value.hint
    assert "trust every member" in caught.value.hint


def test_byzantine_tolerance_can_be_required_of_four() -> None:
    in_ledger(require_byzantine=True)(make_swarm(4)).check()


def test_two_members_may_share_neither_name_nor_keys() -> None:
    one, two = card(1), card(2, name="site-1")
    with pytest.raises(UsageError, match="two members have the same name"):
        with_members(one, two).check()
    with pytest.raises(UsageError, match="two members have the same node"):
        with_members(one, card(1, name="other")).check()


@pytest.mark.parametrize(("part", "words"), [("vote_key", "vote key"), ("cosign_key", "cosign key")])
def test_two_members_may_not_share_a_second_key(part: str, words: str) -> None:
    mine, theirs = identity(1), identity(2)
    mixed = Identity(
        theirs.id_key,
        mine.vote_key if part == "vote_key" else theirs.vote_key,
        mine.cosign_key if part == "cosign_key" else theirs.cosign_key,
        theirs.curve_public,
        theirs.curve_secret,
    )
    with pytest.raises(UsageError, match=f"two members have the same {words}"):
        with_members(card(1), c.make_card(mixed, name="site-2", endpoint="")).check()


def test_two_members_may_not_share_a_transport_key() -> None:
    mine, theirs = identity(1), identity(2)
    mixed = Identity(theirs.id_key, theirs.vote_key, theirs.cosign_key, mine.curve_public, mine.curve_secret)
    with pytest.raises(UsageError, match="two members have the same curve key"):
        with_members(card(1), c.make_card(mixed, name="site-2", endpoint="")).check()


# The identity point, and a point of order 8: signatures under them hold for messages nobody signed.
SMALL_ORDER = (b"\x01" + bytes(31), bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))


@pytest.mark.parametrize("key", [*SMALL_ORDER, b"\xff" * 32, b"short", b""])
@pytest.mark.parametrize(("part", "words"), [("id_key", "identity"), ("vote_key", "vote"), ("cosign_key", "cosigning")])
def test_an_inadmissible_key_is_refused(part: str, words: str, key: bytes) -> None:
    with pytest.raises(UsageError, match=f"its {words} key is not a valid Ed25519 key"):
        msgspec.structs.replace(card(1), **{part: key}).check()


def test_a_card_needs_four_different_keys() -> None:
    mine = card(1)
    for fields in ({"curve_key": mine.id_key}, {"vote_key": mine.id_key}, {"curve_key": b"short"}):
        with pytest.raises(UsageError, match="four different keys of 32 bytes"):
            msgspec.structs.replace(mine, **fields).check()


def test_a_wrong_proof_of_each_key_is_refused() -> None:
    mine = card(1)
    for i in range(3):
        proof = tuple(bytes(64) if i == j else good for j, good in enumerate(mine.proof))
        with pytest.raises(UsageError, match="a proof of its keys does not verify"):
            msgspec.structs.replace(mine, proof=proof).check()
    for proof in ((), mine.proof[:2], (*mine.proof, mine.proof[0]), mine.proof[::-1]):
        with pytest.raises(UsageError, match="a proof of its keys does not verify"):
            msgspec.structs.replace(mine, proof=proof).check()


def test_a_proof_binds_everything_on_the_card() -> None:
    mine = card(1)
    for fields in (
        {"name": "other"},
        {"endpoint": ""},
        {"roles": ("vote",)},
        {"curve_key": card(2).curve_key},
        {"vote_key": card(2).vote_key},
    ):
        with pytest.raises(UsageError, match="a proof of its keys does not verify"):
            msgspec.structs.replace(mine, **fields).check()


def test_an_endpoint_that_is_not_tcp_is_refused() -> None:
    with pytest.raises(UsageError, match="endpoint 'http://h'") as caught:
        card(1, endpoint="http://h")
    assert "tcp://host:port" in caught.value.hint


@pytest.mark.parametrize("endpoint", ["tcp://h\n[x]", "tcp://" + 300 * "h", "tcp://e\u0301"])
def test_an_endpoint_that_would_not_survive_its_text_form_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="couldn't accept the endpoint of 'site-1'"):
        msgspec.structs.replace(card(1), endpoint=endpoint).check()


def test_a_role_is_a_name() -> None:
    with pytest.raises(UsageError, match="as the name of a role"):
        c.make_card(identity(1), name="site-1", endpoint="", roles=("tr\nain",))


# --- links ----------------------------------------------------------------------------------------------------------


def test_neighbours_without_edges_are_everyone_else() -> None:
    charter = make_swarm(4).charter
    assert [founding(charter).neighbours(i) for i in range(4)] == [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)]


def test_neighbours_follow_the_edges() -> None:
    charter = make_swarm(4, edges=EDGES).charter
    assert [founding(charter).neighbours(i) for i in range(4)] == [(1,), (0, 2), (1, 3), (2,)]


def test_of_two_reachable_sites_the_higher_index_dials() -> None:
    charter = make_swarm(3).charter
    assert founding(charter).dials(2, 0)
    assert not founding(charter).dials(0, 2)


def test_a_site_that_cannot_be_reached_dials_whatever_its_index() -> None:
    charter = with_members(card(0, endpoint=""), card(1), card(2))
    assert founding(charter).dials(0, 2)
    assert not founding(charter).dials(2, 0)
    charter.check()


def test_exactly_one_end_dials() -> None:
    charter = with_members(card(0), card(1, endpoint=""), card(2), card(3, endpoint=""))
    for a in range(4):
        for b in range(4):
            if a != b:
                assert founding(charter).dials(a, b) != founding(charter).dials(b, a)


def test_a_site_with_only_unreachable_neighbours_is_named() -> None:
    charter = with_members(card(0), card(1, endpoint=""), card(2, endpoint=""), edges=((0, 1), (1, 2)))
    with pytest.raises(UsageError, match="no chain of links leads to 'site-2'") as caught:
        charter.check()
    assert "endpoint" in caught.value.hint


def test_two_unreachable_sites_may_meet_through_a_third() -> None:
    with_members(card(0, endpoint=""), card(1), card(2, endpoint="")).check()


def relayed(*hidden: int, n: int = 5, edges: tuple[tuple[int, int], ...] = ()) -> c.Charter:
    charter = with_members(*(card(i, endpoint="") if i in hidden else card(i) for i in range(n)), edges=edges)
    return replace(charter, options=(("relay", "sealed"),))


def test_two_unreachable_sites_are_linked_through_those_that_listen_if_the_charter_says_so() -> None:
    charter = relayed(1, 3, 4)
    charter.check()
    assert charter.relayed
    assert not with_members(card(0), card(1)).relayed
    terms = founding(charter)
    assert [terms.further(i) for i in range(5)] == [(), (3, 4), (), (1, 4), (1, 3)]
    assert terms.neighbours(1) == (0, 2)
    for a in (1, 3, 4):
        for other, relays in terms.relayed(a):
            assert sorted(relays) == [0, 2]
            assert dict(terms.relayed(other))[a] == relays, "both ends know the same first choice"
    assert terms.relayed(0) == ()


def test_pairs_do_not_all_choose_one_relay_and_a_relay_that_goes_moves_its_own_pairs_only() -> None:
    hidden, terms = range(4, 16), founding(relayed(*range(4, 16), n=16))
    first = {(a, b): relays[0] for a in hidden for b, relays in terms.relayed(a) if a < b}
    assert len(first) == 66
    counts = [sum(relay == one for one in first.values()) for relay in range(4)]
    assert min(counts) >= 6, counts
    second = {(a, b): relays[1] for a in hidden for b, relays in terms.relayed(a) if a < b}
    assert all(second[pair] != first[pair] for pair in first)


def test_a_relay_is_a_listener_with_a_link_to_both() -> None:
    edges = ((0, 1), (0, 2), (1, 2), (2, 3), (3, 4))
    terms = founding(relayed(1, 2, edges=edges))
    assert terms.relayed(1) == ((2, (0,)),)
    assert terms.relayed(2) == ((1, (0,)),)
    assert terms.relayed(3) == ()


def test_a_link_that_nobody_can_relay_is_refused_if_links_are_to_be_relayed() -> None:
    charter = relayed(1, 2, edges=((0, 1), (0, 3), (1, 2), (2, 3), (3, 4)))
    with pytest.raises(UsageError, match="site-1 and site-2 are linked, both dial out only") as caught:
        charter.check()
    assert "link both to one member that has an endpoint" in caught.value.hint
    replace(charter, options=()).check()  # Without relays the link is idle, and others pass on what is said.


def test_a_relay_of_another_kind_is_not_known_here() -> None:
    with pytest.raises(UsageError, match="relay = 'open'"):
        replace(relayed(1, 2), options=(("relay", "open"),)).check()


# --- genesis --------------------------------------------------------------------------------------------------------


def test_the_genesis_opens_to_the_same_signed_charter() -> None:
    signed = rich().signed
    opened = c.open_genesis(signed.genesis().encode())
    assert opened == signed
    assert opened.ledger_id == signed.ledger_id


def test_a_genesis_with_a_changed_body_is_refused() -> None:
    signed = rich().signed
    entry = signed.genesis()
    other = in_round(rounds=4)(rich()).encode()
    with pytest.raises(LedgerError, match="does not match its terms"):
        c.open_genesis(msgspec.structs.replace(entry, body=other).encode())


@pytest.mark.parametrize("fields", [{"kind": 1}, {"version": 2}])
def test_a_genesis_of_another_kind_is_refused(fields: dict[str, int]) -> None:
    entry = msgspec.structs.replace(rich().signed.genesis(), **fields)
    with pytest.raises(Reject, match="it is not a charter"):
        c.open_genesis(entry.encode())


@pytest.mark.parametrize("fields", [{"seq": 1}, {"ts_ms": 5}, {"author": b"\x01" * 32}, {"prev": b"\x01" * 32}])
def test_a_genesis_has_one_form_only(fields: dict[str, object]) -> None:
    entry = msgspec.structs.replace(rich().signed.genesis(), **fields)
    with pytest.raises(Reject, match="not in canonical form"):
        c.open_genesis(entry.encode())


def test_a_genesis_with_repeated_signatures_is_refused() -> None:
    signed = rich().signed
    pairs = tuple(sorted(signed.signatures.items()))
    entry = msgspec.structs.replace(signed.genesis(), signature=codec.encode((pairs[0], *pairs)))
    with pytest.raises(Reject, match="not in canonical form"):
        c.open_genesis(entry.encode())


def test_every_cut_of_a_genesis_is_refused() -> None:
    leaf = rich().signed.genesis().encode()
    for end in range(0, len(leaf), 7):
        with pytest.raises(Reject):
            c.open_genesis(leaf[:end])


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "silent", "liars"),
    [
        (1, "no sites", "no liars"),
        (2, "no sites", "no liars"),
        (3, "1 site", "no liars"),
        (4, "1 site", "1 liar"),
        (5, "1 site", "1 liar"),
        (6, "2 sites", "1 liar"),
        (7, "2 sites", "2 liars"),
    ],
)
def test_fault_tolerance_in_words(n: int, silent: str, liars: str) -> None:
    assert (
        make_swarm(n).charter.fault_tolerance()
        == f"{n} member{'s' if n > 1 else ''}: goes on with {silent} silent, tolerates {liars}"
    )


def test_sizes_follow_from_the_terms() -> None:
    charter = make_swarm(4, elements=33, clip_norm_milli=2_500).charter
    assert (charter.model_bytes, charter.clip_norm, charter.quorum) == (132, 2.5, 3)


def test_messages_name_no_secret() -> None:
    swarm = rich()
    text = c.to_toml(swarm.signed) + repr(swarm.identities)
    secret = swarm.identities[0].curve_secret.hex()
    assert not re.search(secret, text)


# --- gossip ---------------------------------------------------------------------------------------------------------


def gossiping(**fields: object) -> c.Charter:
    policy = msgspec.structs.replace(make_swarm(4).charter.round, mixing="gossip")
    return changed(make_swarm(4), **{"round": policy, "options": (("schedule", "base2"),), **fields})


def test_gossip_names_its_schedule() -> None:
    charter = gossiping()
    charter.check()
    assert charter.schedule == "base2"
    assert make_swarm(4).charter.schedule == ""


@pytest.mark.parametrize("schedule", ["", "Base2", "base2:", "base2:0", "base 2", "../x", "a" * 40])
def test_a_schedule_is_a_name_and_perhaps_a_degree(schedule: str) -> None:
    with pytest.raises(UsageError, match="one schedule"):
        gossiping(options=(("schedule", schedule),)).check()


def test_gossip_without_a_schedule_is_refused_and_so_is_a_schedule_without_gossip() -> None:
    with pytest.raises(UsageError, match="one schedule, such as base2"):
        gossiping(options=()).check()
    with pytest.raises(UsageError, match="no schedule with exact mixing"):
        changed(make_swarm(4), options=(("schedule", "base2"),)).check()


def test_a_correction_is_a_momentum_and_none_without_it() -> None:
    for text, beta in (("qg", 0.7), ("qg:500", 0.5), ("qg:999", 0.999)):
        charter = gossiping(options=c.options_of(correction=text, schedule="ring"))
        charter.check()
        assert charter.momentum == beta
    assert gossiping().momentum == 0.0


def test_steps_are_corrected_if_the_charter_says_so() -> None:
    charter = gossiping(options=c.options_of(codec="bf16", correction="gt", schedule="ring"))
    charter.check()
    assert (charter.tracks, charter.correction.gain, charter.momentum) == (True, 0.25, 0.0)
    assert gossiping(options=c.options_of(correction="gt:500", schedule="ring")).correction.gain == 0.5
    assert not gossiping().tracks
    assert not gossiping(options=c.options_of(correction="qg", schedule="ring")).tracks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"links": "directed", "schedule": "one_peer_exponential"}, "correction = gt where links go one way"),
        ({"clip": "100", "schedule": "complete"}, "correction = gt with a clip"),
        ({"codec": "int8", "schedule": "ring"}, "correction = gt under the codec int8"),
        ({"asynchronous": "buffered", "schedule": "ring"}, "couldn't accept the charter: "),
    ],
)
def test_steps_are_not_corrected_where_corrections_would_not_sum_to_zero(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gossiping(options=c.options_of(correction="gt", **options)).check()


@pytest.mark.parametrize(
    "text", ["QG", "GT", "gt:0", "gt:1000", "gt:0.5", "gtqg", "qg:", "qg:0", "qg:1000", "qg:0.5", "tracking"]
)
def test_a_correction_nobody_knows_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't choose a correction"):
        gossiping(options=c.options_of(correction=text, schedule="ring")).check()


def test_late_work_counts_for_as_many_rounds_as_the_charter_says_in_exact_mixing() -> None:
    charter = changed(make_swarm(4), options=(("staleness", "16"),))
    charter.check()
    assert (charter.staleness, make_swarm(4).charter.staleness) == (16, 0)
    with pytest.raises(UsageError, match="rounds for which late work counts: it must be 1 to 1000"):
        changed(make_swarm(4), options=(("staleness", "0"),)).check()
    with pytest.raises(UsageError, match="late work counts in exact mixing"):
        gossiping(options=c.options_of(schedule="ring", staleness="3")).check()


def test_a_pace_takes_late_work_that_counts() -> None:
    charter = changed(make_swarm(4), options=c.options_of(pace="4", staleness="16"))
    charter.check()
    assert (charter.pace, make_swarm(4).charter.pace) == (4, 0)
    with pytest.raises(UsageError, match="slow sites are left out of rounds, so late work must count"):
        changed(make_swarm(4), options=(("pace", "4"),)).check()
    with pytest.raises(UsageError, match="must be 2 to 1000"):
        changed(make_swarm(4), options=c.options_of(pace="1", staleness="16")).check()


def test_a_correction_is_for_gossip() -> None:
    with pytest.raises(UsageError, match="a correction is for gossip"):
        changed(make_swarm(4), options=(("correction", "qg"),)).check()


def test_links_go_one_way_if_the_charter_says_so() -> None:
    assert not gossiping().directed
    charter = gossiping(options=c.options_of(links="directed", schedule="one_peer_exponential"))
    charter.check()
    assert charter.directed
    assert charter.arcs == ()


def of_ones_own(links: str, schedule: str = "links", **fields: object) -> c.Charter:
    return gossiping(options=c.options_of(links=links, schedule=schedule), **fields)


def test_a_charter_lists_who_gives_to_whom() -> None:
    charter = of_ones_own("0>1 1>2 2>0 2>3 3>0", edges=((0, 1), (0, 2), (0, 3), (1, 2), (2, 3)))
    charter.check()
    assert charter.directed
    assert charter.arcs == ((0, 1), (1, 2), (2, 0), (2, 3), (3, 0))


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ("0>1", "nothing that 'site-0' gives ever reaches 'site-2'"),
        ("0>1 0>2 0>3 1>0 2>0", "nothing that 'site-3' gives ever reaches 'site-0'"),
        ("0>1 1>2 2>3 3>0 3>3", "no link leads from member 3 to 3"),
        ("0>1 1>2 2>3 3>4", "no link leads from member 3 to 4"),
        ("0>1 1>2 3>0 2>3", "in order"),
        ("0>1 0>1 1>2 2>3 3>0", "in order"),
        ("0>1 1>02 2>3 3>0", "in order"),
        ("one way", "in order"),
    ],
)
def test_links_of_one_way_that_cannot_stand_are_refused(links: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        of_ones_own(links).check()


def test_links_of_ones_own_need_the_links_that_carry_them_and_no_schedule() -> None:
    with pytest.raises(UsageError, match="no link leads from member 2 to 0"):
        of_ones_own("0>1 1>2 2>0 2>3 3>0", edges=((0, 1), (0, 3), (1, 2), (2, 3))).check()
    with pytest.raises(UsageError, match="in order"):
        of_ones_own("0>1 1>2 2>3 3>0", schedule="ring").check()
    with pytest.raises(UsageError, match="are for gossip"):
        changed(make_swarm(4), options=(("links", "directed"),)).check()


def test_two_schedules_are_refused() -> None:
    with pytest.raises(UsageError, match="repeated"):
        gossiping(options=(("schedule", "base2"), ("schedule", "ring"))).check()


def test_an_option_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match="unknown option 'colour'"):
        gossiping(options=(("colour", "red"),)).check()


# --- compression ----------------------------------------------------------------------------------------------------


def compressed(codec: str, **fields: object) -> c.Charter:
    return changed(make_swarm(4, elements=1000), **{"options": (("codec", codec),), **fields})


def offer(size: int) -> Contribution:
    return replace(contribution(make_swarm(4, elements=1000), 0), update_bytes=size)


@pytest.mark.parametrize(("codec", "size"), [("bf16", 2008), ("int8", 1012), ("int4", 540)])
def test_a_codec_says_how_large_a_contribution_is(codec: str, size: int) -> None:
    charter = compressed(codec)
    charter.check()
    assert str(charter.codec) == codec
    assert charter.carries(offer(size))
    assert not charter.carries(offer(size - 1))
    assert not charter.carries(offer(4000))


def test_the_largest_elements_may_take_fewer_bytes() -> None:
    charter = compressed("topk:50")
    charter.check()
    assert charter.carries(offer(150))
    assert not charter.carries(offer(0))
    assert not charter.carries(offer(4000))


def test_without_a_codec_a_contribution_is_as_large_as_the_model() -> None:
    charter = make_swarm(4, elements=1000).charter
    assert charter.codec is None
    assert charter.carries(offer(4000))
    assert not charter.carries(offer(2008))


@pytest.mark.parametrize("codec", ["f32", "randk:50", "zip", "topk", "int8:3"])
def test_a_codec_that_rounds_cannot_use_is_refused(codec: str) -> None:
    with pytest.raises(UsageError):
        compressed(codec).check()


def following(codec: str = "int8", **options: str) -> c.Charter:
    """A swarm that gossips under a codec."""
    swarm = make_swarm(4, elements=1000, schedule="ring", rounds=3)
    return changed(swarm, options=c.options_of(codec=codec, schedule="ring", **options))


def test_under_bf16_models_travel_and_under_coarser_codecs_public_copies_move() -> None:
    assert not gossiping(options=(("codec", "bf16"), ("schedule", "base2"))).follows
    assert not compressed("int8").follows, "in exact mixing updates travel"
    for name in ("int8", "int4", "sign", "topk:50"):
        following(name).check()
        assert following(name).follows
    with pytest.raises(UsageError, match="known are bf16, int8, int4, sign, topk"):
        following("randk:50").check()


def test_what_moves_a_copy_names_it_before_and_after() -> None:
    charter = following("int8")

    def carried(*sizes: int) -> bool:
        slices = tuple((digest(f"{size}"), size) for size in sizes)
        return charter.carries(replace(offer(sum(sizes)), slices=slices))

    assert carried(1012, 4000, 4000)
    assert not carried(1012, 4000)
    assert not carried(1012, 4000, 3996)
    assert not carried(1013, 4000, 4000)
    assert not carried(4000, 4000, 4000)
    assert charter.carries(offer(4000)), "a model that goes whole"
    assert not charter.carries(offer(1012)), "a message alone says nothing"


@pytest.mark.parametrize(("codec", "gamma"), [("int8", 1.0), ("int4", 0.9), ("sign", 0.1), ("topk:50", 0.1)])
def test_the_step_follows_from_the_codec_unless_the_charter_says_it(codec: str, gamma: float) -> None:
    assert following(codec).gamma == gamma
    following(codec, gamma="0.025").check()
    assert following(codec, gamma="0.025").gamma == 0.025
    assert gossiping(options=(("codec", "bf16"), ("schedule", "base2"))).gamma == 1.0


@pytest.mark.parametrize("gamma", ["0", "0.0", "1.0", "1.5", "-0.1", "0.10", ".5", "half", "1e-3", "0.12345"])
def test_a_step_has_one_spelling(gamma: str) -> None:
    with pytest.raises(UsageError, match="write a number above 0|gamma = "):
        following(gamma=gamma).check()


def test_a_step_is_for_public_copies_and_those_for_links_of_both_ways() -> None:
    with pytest.raises(UsageError, match="gamma is for gossip under"):
        following("bf16", gamma="0.5").check()
    with pytest.raises(UsageError, match="where links go one way"):
        following("int4", links="directed").check()
