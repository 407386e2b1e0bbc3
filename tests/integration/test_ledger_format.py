"""A second reader of the ledger, written from `docs/reference/ledger-format.md` and from nothing else.

Below this line nothing of this project is imported until the tests themselves make a ledger to read.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

if TYPE_CHECKING:
    from swarm.charter import SignedCharter

HEADER = struct.Struct(">QQQ32sQQQIQ32s32s32s32s")
ZERO = bytes(32)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def records(folder: Path, ledger_id: bytes) -> list[bytes]:
    """The payloads of all blocks, in order."""
    found = []
    for number, path in enumerate(sorted(folder.glob("*.seg"))):
        data = path.read_bytes()
        head = b"SWARMSEG" + struct.pack(">H", 1) + b"blocks" + ledger_id + struct.pack(">Q", number)
        assert data[: len(head)] == head
        assert data[len(head) : len(head) + 4] == struct.pack(">I", zlib.crc32(head))
        place = 64
        while place + 21 <= len(data):
            length, kind, _, _ = struct.unpack_from(">IBQI", data, place)
            if kind == 0:
                break
            body = data[place : place + 17 + length]
            assert data[place + len(body) : place + len(body) + 4] == struct.pack(">I", zlib.crc32(body))
            if kind == 1:
                found.append(body[17:])
            elif kind == 255:
                assert struct.unpack(">Q32s", body[17:])[1] == sha(data[:place])
                break
            place += (len(body) + 4 + 7) // 8 * 8
    return found


def tree_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if len(leaves) == 1:
        return sha(b"\x00", leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha(b"\x01", tree_root(leaves[:split]), tree_root(leaves[split:]))


def check_signature(key: bytes, signed: bytes, signature: bytes) -> None:
    VerifyKey(key).verify(signed, signature)


@dataclasses.dataclass
class Terms:
    """Who judges: the terms of an epoch, as the array that its digest is of."""

    array: list

    @property
    def epoch(self) -> int:
        return self.array[0]

    @property
    def cards(self) -> list:
        return [card for _, card in self.array[1]]

    @property
    def by_id(self) -> dict[bytes, list]:
        return dict(self.array[1])

    @property
    def quorum(self) -> int:
        n = len(self.array[1])
        return (n + (n - 1) // 3) // 2 + 1

    @property
    def digest(self) -> bytes:
        return sha(b"swarm-ledger/terms/v1\0", pack(self.array))

    def changed(self, change: list, proposer: bytes) -> Terms:
        """The next epoch's terms."""
        kind, node, cards, named, policies = change
        epoch, members, links, policy = self.array
        places = [id_ for id_, _ in members]
        if kind == 1:
            if links:
                links = [*links, *([places.index(id_), len(members)] for id_ in named or [proposer])]
            members = [*members, [node_id(cards[0][1]), cards[0]]]
        elif kind == 2:
            gone = places.index(node)
            if links:
                row = sorted(a + b - gone for a, b in links if gone in (a, b))
                links = [link for link in links if gone not in link]
                links += [link for link in map(list, itertools.pairwise(row)) if link not in links]
                links = [[a - (a > gone), b - (b > gone)] for a, b in links]
            members = [member for member in members if member[0] != node]
        elif kind == 3:
            members = [[id_, cards[0] if id_ == node else card] for id_, card in members]
        else:
            policy = policies[0]
        for card in cards:
            for key, proof in zip(card[1:4], card[7], strict=True):
                check_signature(key, b"swarm-ledger/card/v1\0" + pack(card[:-1]), proof)
        after = Terms([epoch + 1, members, sorted(links), policy])
        assert after.linked(), "or the change would have had no effect"
        return after

    def linked(self) -> bool:
        """Whether every member is reached from the first, over links one end of which can be dialled."""
        members = self.array[1]
        links = self.array[2] or [[a, b] for b in range(len(members)) for a in range(b)]
        usable = [{a, b} for a, b in links if members[a][1][5] or members[b][1][5]]
        reached = {0}
        while any(len(link & reached) == 1 for link in usable):
            reached |= next(link for link in usable if len(link & reached) == 1)
        return len(reached) == len(members)


SLOTS = {"none": 0, "fedavgm": 1, "nesterov": 1, "fedadam": 2, "fedyogi": 2, "fedadagrad": 2}


class Rounds:
    """The open round, and what is left of those before: fields 7 to 12 and 20 to 23 of the state."""

    def __init__(self, charter: list) -> None:
        self.parameters, initial = charter[4][3:5]
        self.opened_ms: int = charter[2]
        slots = SLOTS[charter[5][2].partition(":")[0]]
        self.committed = [0, initial, 4 * self.parameters * (1 + slots)]
        self.contributions: dict[tuple[int, bytes], list] = {}
        self.late: list[int] = []
        self.close: list | None = None  # index, body, contributions, exchanging, epoch
        self.attests: dict[bytes, list] = {}
        self.gossips = charter[5][1] == "gossip"
        options = dict(map(tuple, charter[10]))
        self.codec = options.pop("codec", "")
        assert options.pop("relay", "sealed") == "sealed"
        assert int(options.pop("min_cell", "1")) > 0
        assert not options.pop("buffers", "") or slots
        assert not (slots and self.gossips)
        self.clips = options.pop("clip", "") != ""
        assert self.gossips or not self.clips
        self.rule = options.pop("rule", "")
        assert not self.rule or not ({*options} & {"route", "staleness", "asynchronous"} or self.gossips)
        route = options.pop("route", "")
        self.routed = bool(route)
        slices = int(route.partition(":")[2] or len(charter[3])) if route.startswith("sharded") else 0
        edges = [k * self.parameters // slices for k in range(slices + 1)] if slices else []
        self.lengths = [end - start for start, end in itertools.pairwise(edges)]
        self.partials: dict[tuple[int, bytes], list] = {}
        self.staleness = int(options.pop("staleness", "0"))
        assert not (self.staleness and self.gossips)
        self.asynchronous = options.pop("asynchronous", "") == "buffered"
        assert not options.pop("pace", "") or self.staleness
        self.metrics = charter[7]
        self.asked = options.pop("contribution", "")
        method, *judged = self.asked.split(":")
        assert method in ("", "size") or (judged[0] in self.metrics and judged[1] in ("higher", "lower"))
        assert not judged or not (self.gossips or self.routed or self.asynchronous)
        self.watch = Watch(options.pop("stop", ""), self.metrics)
        assert not (self.watch.asked and self.asynchronous)
        self.authors: dict[int, bytes] = {}
        self.scoring: dict[int, Scoring] = {}
        masks = options.pop("masks", "")
        assert masks in ("", "pairwise", "pairwise:32", "pairwise:64")
        self.bits = int(masks.partition(":")[2] or 36) if masks else 0
        assert not masks or not (self.gossips or self.rule or self.routed or self.asynchronous or self.codec or judged)
        self.masks: Masks | None = Masks() if masks else None
        self.salt = int(options.pop("salt", "0"))
        assert self.salt in (0, 32)
        assert not self.salt or not (self.gossips or self.lengths or masks or "topk" in self.codec)
        assert not self.salt or charter[5][3] >= 2
        noise = options.pop("site_noise", "")
        assert not noise or self.bits in (32, 36)
        self.paid = sums_paid(noise) if noise else 1 << 20
        self.noised = charter[5][3] if noise else 0
        assert not noise or charter[5][3] >= max(1, (len(charter[3]) - 1) // 3) + 2
        self.before: list[bytes] = []
        self.counted: dict[bytes, list[int]] = {}
        assert self.gossips or not {*options} & {"correction", "links"}
        self.tracks = options.pop("correction", "") == "gt"
        self.anew = 1
        epsilon, _, delta = options.pop("privacy", "3:1e-5").partition(":1e-")
        assert 0 < float(epsilon) <= 1000
        assert 1 <= int(delta) <= 10
        assert options.pop("local", "") != "scaffold" or not self.gossips
        links = options.pop("links", "")
        assert links in ("", "directed") or options["schedule"] == "links"
        self.directed = links != ""
        self.targets: dict[bytes, list[bytes]] = {}
        self.masses: dict[bytes, list[int]] = {}
        self.dues: dict[bytes, list] = {}
        gamma = options.pop("gamma", "")
        self.follows = self.gossips and self.codec not in ("", "bf16")
        assert self.follows or not gamma
        assert not self.tracks or not (self.follows or self.directed or self.clips)
        self.copies = {node_id(card[1]): initial for card in charter[3]} if self.follows else {}
        assert [*options] == ["schedule"] * self.gossips
        self.receipts: dict[bytes, list[int]] = {}
        self.models: dict[bytes, list] = {}
        self.sketches: dict[bytes, bytes] = {}
        self.pairs: dict[int, set[frozenset[bytes]]] = {}

    @property
    def open(self) -> int:
        return self.committed[0] + 1

    def exchanging(self, terms: Terms) -> bool:
        return self.close[3] if self.close else self.gossips and self.open < self.last(terms)

    def last(self, terms: Terms) -> int:
        return min(terms.array[3][0], self.watch.last or terms.array[3][0], self.paid)

    def judge(self, terms: Terms) -> None:
        """What members tell may end the run: in exact mixing with the round that is closed, or before the open one."""
        end = self.open + 1 if self.gossips else self.open if self.close else self.open - 1
        over = self.committed[0] >= self.last(terms)
        self.watch.judge([*terms.by_id], self.committed[0], 0 if over else min(end, terms.array[3][0]))

    def hear(self, entry: list, index: int, terms: Terms) -> None:
        author, body = entry[3], msgpack.unpackb(entry[7])
        if entry[1] == 17:
            self._score(author, body)
        elif entry[1] == 13 and self.watch.hear(author, body):
            self.judge(terms)
        elif entry[1] == 1:
            self.authors[index] = author
            place: int | None = body[0]
            if body[0] < self.open or (body[0] == self.open and self.close):
                self.late.append(index)
                place = self.open + bool(self.close)
                averaged = [placed[2][0] for placed in (self.close[2] if self.close else []) if placed[1] == author]
                done = max([0, self.counted.get(author, [0])[0], *averaged])
                if place - body[0] > self.staleness or body[0] <= done:
                    place = None
            if self.masks is not None:
                known = self.contributions.get((self.open, author))
                size = -(-self.bits * self.parameters // 8)
                offers = not self.close and known is None and self.masks.offers(author, body, self.open, self.bases())
                place = self.open if offers and (body[5], body[11]) == (size, []) else None
            if place is not None and place <= self.open + 1:
                known = self.contributions.get((place, author))
                if known is None or known[2][:2] < body[:2]:
                    self.contributions[place, author] = [index, author, body]
        elif entry[1] in (14, 16):
            assert all(one == sorted({*one}) for one in body[1:])
            counts = self.exchanging(terms) and not self.close and body[0] == self.open
            if counts and self.directed == (entry[1] == 16):
                self.receipts[author] = body[1]
                if self.directed:
                    self.targets[author] = body[2]
        elif entry[1] in (18, 20, 21):
            assert self.masks is not None
            if body[0] == self.open and self.open <= self.last(terms):
                self.masks.hear(entry[1], author, body, index, self.close)
        elif entry[1] == 15:
            named = self.close is not None and self.close[1][1] == 1 and body[:2] == [self.open, self.close[0]]
            if named and self.routed and (body[2], author) not in self.partials and self._computes(author, body):
                self.partials[body[2], author] = body
        elif entry[1] == 2:
            assert len(body[5]) in (0, 1024)
            assert self.rule or self.clips or not body[4]
            self._attest(author, body, terms)

    def _score(self, author: bytes, body: list) -> None:
        number, metric, method, evaluations, samples, scores = body
        asked = self.asked.split(":")
        assert [method, self.metrics[metric]] == [{"loo": 1, "shapley": 2}[asked[0]], asked[1]]
        assert min(evaluations, samples) >= 0
        assert max(evaluations, samples) < 2**40
        assert number >= 1
        assert 1 <= len(scores) <= 1000
        assert [at for at, _, _ in scores] == sorted({at for at, _, _ in scores})
        assert all(at >= 0 and abs(score) <= 2**40 and 0 <= error <= 2**40 for at, score, error in scores)
        if number in self.scoring:
            self.scoring[number].hear(author, {at: score for at, score, _ in scores})

    def _computes(self, author: bytes, body: list) -> bool:
        _, _, number, _, size, norms = body
        assert self.close is not None
        nodes = [placed[1] for placed in self.close[2]]
        if self.lengths:
            if number >= len(self.lengths):
                return False
            first = number % len(nodes) if len(self.lengths) >= len(nodes) else number * len(nodes) // len(self.lengths)
            theirs = author in {nodes[first], nodes[(first + 1) % len(nodes)]}
            least, _ = sizes(self.codec if self.codec in ("bf16", "int8") else "", self.lengths[number])
            return theirs and (size, len(norms)) == (least, len(nodes))
        steps = len(nodes).bit_length() - 1
        theirs = author in nodes[: 2**steps] and 1 <= number <= steps
        return theirs and (size, norms) == (8 * self.parameters, [])

    def _attest(self, author: bytes, body: list, terms: Terms) -> None:
        round_, close, digest, size, used, sketch = body
        named = self.close is not None and close == self.close[0]
        owes = author in self.dues and self.dues[author][0] == round_
        if self.gossips and sketch and (named or owes or round_ == self.committed[0]):
            own = self.models.get(author)
            if own is None or own[0] < round_:
                self.models[author] = [round_, digest, size]
            if owes:
                del self.dues[author]
        if named and author not in self.attests and (sketch or not self.exchanging(terms)):
            if self.rule or (self.clips and not self.exchanging(terms)):
                assert self.close is not None
                if [row[:2] for row in used] != [[placed[1], placed[2][4]] for placed in self.close[2]]:
                    return
                digest += sha(pack(used))
            self.attests[author] = [digest, size]
            if self.exchanging(terms):
                self.sketches[author] = sketch

    def weigh(self, number: int, chosen: list[list], terms: Terms) -> tuple[list[int], int]:
        """The weights of a close, and its rest."""
        if self.rule or (self.clips and not self.exchanging(terms)):
            return [1] * len(chosen), 0
        cap = terms.array[3][7]
        if self.masks is not None:
            worn = self.masks.weights()
            return [worn[placed[1]] for placed in chosen], 0
        late = [math.isqrt(10**6 * (1 + number - placed[2][0])) for placed in chosen]
        if not self.asynchronous:
            worth = [max(1, p[2][6] * 1000 // root) for p, root in zip(chosen, late, strict=True)]
            return weights(worth, cap), 0
        worth = {node: samples for node, (of, samples) in self.counted.items() if number - of <= self.staleness}
        worth |= {placed[1]: placed[2][6] for placed in chosen}
        order = [node for node, _ in terms.array[1] if node in worth]
        full = dict(zip(order, weights([worth[node] for node in order], cap), strict=True))
        found = [max(1, full[p[1]] * 1000 // root) for p, root in zip(chosen, late, strict=True)]
        return found, sum(full.values()) - sum(found)

    def closed(self, index: int, body: list, terms: Terms) -> None:
        """A close, which must be what follows from the log but for who is unusable or unavailable."""
        number, attempt, included, missing, rejected = body
        again = self.close is not None
        if again and (self.masks is not None or (self.routed and not included)):
            standing = sorted(placed[0] for (of, _), placed in self.contributions.items() if of == self.open)
            there = {node for of, node in self.contributions if of == self.open}
            assert self.close[2]  # type: ignore[index]
            assert self.close[1][1] == 1  # type: ignore[index]
            missing = [node for node, _ in terms.array[1] if node not in there]
            assert body == [self.open, 2, [], missing, [[at, 4] for at in standing]]
            self.close, self.attests, self.partials = [index, body, [], False, terms.epoch, 0], {}, {}
            return
        assert not again or (self.routed and self.close[1][1] == 1)  # type: ignore[index]
        assert (number, attempt) == (self.open, 2 if again else 1)
        assert number <= self.last(terms)
        order = [node for node, _ in terms.array[1]]
        mine = {node: self.contributions[number, node] for node in order if (number, node) in self.contributions}
        assert missing == [node for node in order if node not in mine]
        assert rejected == sorted(rejected)
        reasons = dict(map(tuple, rejected))
        assert [i for i, _ in included] == [placed[0] for placed in mine.values() if placed[0] not in reasons]
        assert sorted([*reasons, *(i for i, _ in included)]) == sorted(placed[0] for placed in mine.values())
        for node, (at, _, contribution) in mine.items():
            base = [self.committed[1], *self.before][number - contribution[0]]
            if node in self.dues:
                assert reasons.get(at) == 3
                continue
            if self.gossips:
                base = self.models[node][1] if node in self.models else contribution[3]
            assert (reasons.get(at) == 3) == (contribution[3] != base)
            assert reasons.get(at, 1) in (1, 2, 3)
            if at not in reasons:
                for size, (least, most) in zip(*self.forms(contribution, self.exchanging(terms)), strict=True):
                    assert least <= size <= most
            if contribution[11]:
                assert contribution[4] == sha(b"swarm-update/slices/v1\0", pack(contribution[11]))
                assert contribution[5] == sum(size for _, size in contribution[11])
        assert len(included) >= terms.array[3][3]
        if self.masks is not None:
            assert self.masks.closes(len(included), self.noised)
            assert {*reasons.values()} <= {2}
        if self.asked not in ("", "size"):
            there = {self.authors[at] for at in (*reasons, *(i for i, _ in included))} | {*missing}
            self.scoring[number] = Scoring({i: self.authors[i] for i, _ in included}, there)
        chosen = [placed for placed in mine.values() if placed[0] not in reasons]
        found, rest = self.weigh(number, chosen, terms)
        assert [w for _, w in included] == found
        exchanging = self.exchanging(terms)
        self.close = [index, body, chosen, exchanging, terms.epoch, rest]
        if exchanging and self.directed:
            self.pairs[number] = {frozenset(gift) for gift in self.gifts()}
        elif exchanging:
            self.pairs[number] = {
                frozenset((a[1], b[1]))
                for a, b in itertools.combinations(chosen, 2)
                if b[0] in self.receipts.get(a[1], ()) and a[0] in self.receipts.get(b[1], ())
            }
        self.close, self.attests, self.partials = [index, body, chosen, exchanging, terms.epoch, rest], {}, {}
        if exchanging and self.follows:
            self.copies |= {node: offered(said)[0] for _, node, said in chosen}

    def forms(self, contribution: list, exchanging: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """How large the parts of a contribution are, and how large each may be."""
        whole, parts = 4 * self.parameters, [size for _, size in contribution[11]] or [contribution[5]]
        if self.follows and contribution[11]:
            assert exchanging
            return parts, [sizes(self.codec, self.parameters), (whole, whole), (whole, whole)]
        assert bool(contribution[11]) == bool(self.lengths)
        if self.bits:
            size = -(-self.bits * self.parameters // 8)
            return parts, [(size, size)]
        codec = "" if self.follows else self.codec
        found = [sizes(codec, length) for length in self.lengths or [self.parameters]]
        return parts, [(least + self.salt, most + self.salt) for least, most in found]

    def bases(self) -> list[bytes]:
        return [self.committed[1], *self.before]

    def rostered(self, index: int, body: list, terms: Terms) -> None:
        """A roster, which must be what follows from the log, or the end of an attempt."""
        assert self.masks is not None
        assert not self.close
        assert self.open <= self.last(terms)
        order, policy = [node for node, _ in terms.array[1]], terms.array[3]
        offered = {node: placed[0] for (of, node), placed in self.contributions.items() if of == self.open}
        if self.masks.roster is None:
            total = 1 << 20 if self.bits == 64 else min(1 << 20, 64 * max(64, len(order)))
            done = {node: number for node, (number, _) in self.counted.items()}
            assert body == self.masks.follows(self.open, self.bases(), done, order, policy[7], total)
            assert len(body[2]) >= self.masks.fewest(order, policy[3])
            self.masks.take(index, body, len(order))
            assert self.masks.shares_noise(self.noised)
        else:
            self.masks.end(body, self.open, offered, order, policy[3], self.noised)
            self.contributions = {}

    def due(self, terms: Terms) -> list | None:
        """The body of the commit that must come now, if any."""
        if self.close is None:
            return None
        index, body, chosen, exchanging, _, _ = self.close
        if exchanging:
            today = [placed[1] for placed in chosen if placed[1] in terms.by_id]
            there = [node for node in today if node in self.attests]
            if len(there) < min(terms.quorum, len(today)):
                return None
            ended = [ZERO, 0, len(self.attests)]
            apart = distances([self.sketches[node] for node in there])
        else:
            said = list(self.attests.values())
            agreed = next((model for model in said if said.count(model) >= terms.quorum), None)
            if agreed is None:
                return None
            ended, apart = [agreed[0][:32], agreed[1], said.count(agreed)], (0, 0)
        samples = sum(placed[2][6] for placed in chosen)
        return [self.open, index, *ended, samples, body[3], self.late, *apart]

    def gifts(self) -> Iterator[tuple[bytes, bytes]]:
        """Who gave to whom in a closed round of a swarm whose links go one way."""
        there = {placed[1] for placed in self.close[2]}
        for index, giver, _ in self.close[2]:
            for taker in self.targets.get(giver, []):
                if taker in there and taker != giver and index in self.receipts.get(taker, []):
                    yield giver, taker

    def settle(self) -> dict[bytes, list[int]]:
        """What that made of the masses."""
        came = {placed[1]: w << 20 for placed, (_, w) in zip(self.close[2], self.close[1][2], strict=True)}
        after = {**{node: [units >> 20, units] for node, units in came.items()}, **copy.deepcopy(self.masses)}
        for giver, taker in self.gifts():
            gift = self.gift(giver, taker, came)
            after[giver][1] -= gift
            after[taker][1] += gift
        return after

    def gift(self, giver: bytes, taker: bytes, came: dict[bytes, int]) -> int:
        weight, held = self.masses.get(giver, [came[giver] >> 20, came[giver]])
        theirs = self.masses[taker][0] if taker in self.masses else came[taker] >> 20
        return held * min(weight, theirs) // (weight * (len(self.targets[giver]) + 1))

    def owed(self, node: bytes, after: dict[bytes, list[int]]) -> list:
        """What a member has yet to make of the round: `[round, close, epoch, mass before, parts]`."""
        index, body, chosen, _, epoch, _ = self.close
        came = {placed[1]: w << 20 for placed, (_, w) in zip(chosen, body[2], strict=True)}
        if not self.directed:
            met = {node, *(other for pair in self.pairs[body[0]] if node in pair for other in pair)}
            parts = [[who, *offered(said), came[who] >> 20] for _, who, said in chosen if who in met]
            return [body[0], index, epoch, 0, parts]
        got = {giver: self.gift(giver, node, came) for giver, taker in self.gifts() if taker == node}
        got[node] = after[node][1] - sum(got.values())
        before = self.masses[node][1] if node in self.masses else came[node]
        parts = [[who, *offered(said), got[who]] for _, who, said in chosen if who in got]
        return [body[0], index, epoch, before, parts]

    def commit(self, body: list, time_ms: int, terms: Terms) -> None:
        for number, scoring in self.scoring.items():
            scoring.open = number in (body[0], body[0] - 1) and not scoring.enough
        if self.directed and body[3]:
            self.masses, self.targets = {}, {}
        elif self.directed:
            after = self.settle()
            late = [placed for placed in self.close[2] if placed[1] not in self.attests and placed[1] in terms.by_id]
            self.dues |= {node: self.owed(node, after) for _, node, _ in late}
            self.masses = {node: mass for node, mass in after.items() if node in terms.by_id}
            self.targets = {}
        elif self.gossips and not body[3]:
            late = [placed for placed in self.close[2] if placed[1] not in self.attests and placed[1] in terms.by_id]
            self.dues |= {node: self.owed(node, {}) for _, node, _ in late}
        if body[3]:
            self.dues = {}
        if self.staleness:
            self.counted |= {author: [said[0], said[6]] for _, author, said in self.close[2]}
            self.before = [self.committed[1], *self.before][: self.staleness]
        self.committed, self.opened_ms = [body[0], body[2], body[3]], time_ms
        away = {at for at, reason in self.close[1][4] if reason == 2 and self.masks is None}
        for (number, author), placed in list(self.contributions.items()):
            if number == body[0] and placed[0] in away and number + 1 - placed[2][0] <= self.staleness:
                other = self.contributions.get((number + 1, author))
                if other is None or other[2][:2] < placed[2][:2]:
                    self.contributions[number + 1, author] = placed
        self.contributions = {key: placed for key, placed in self.contributions.items() if key[0] > body[0]}
        self.late, self.close, self.attests, self.receipts, self.sketches = [], None, {}, {}, {}
        self.partials = {}
        if self.gossips and body[3]:
            self.models = {node: list(self.committed) for node, _ in terms.array[1]}
            self.copies = dict.fromkeys(self.models, body[2]) if self.follows else {}
            self.anew = body[0] + 1
        self.masks = Masks() if self.bits else None
        if self.watch.asked and not self.watch.last:
            self.watch.heard.append([*self.committed, {}])
        self.judge(terms)

    def begin_anew(self) -> None:
        """Corrections learned until now are void, from the next close on."""
        self.anew = max(self.anew, self.open + bool(self.close))

    def forget(self, terms: Terms, before: Terms) -> None:
        """An epoch begins: its members are those of `terms`."""
        if {*before.by_id} - {*terms.by_id}:
            self.begin_anew()
        kept = (self.watch.references, *(one[3] for one in self.watch.heard))
        for gone in [(said, node) for said in kept for node in said if node not in terms.by_id]:
            del gone[0][gone[1]]
        if terms.array[3][0] != before.array[3][0]:
            self.watch.idle = self.watch.last = 0
        if not (self.masks is not None and self.close):
            self.contributions = {key: placed for key, placed in self.contributions.items() if key[1] in terms.by_id}
        if self.masks is not None and not self.close and [*terms.by_id] != [*before.by_id]:
            gone = {*before.by_id} - {*terms.by_id}
            self.contributions = {} if self.masks.roster else self.contributions
            self.masks.leave(gone)
        for node, due in self.dues.items():
            if node in self.masses:
                self.masses[node][1] -= sum(part[3] for part in due[4] if part[0] not in terms.by_id)
            due[4] = [part for part in due[4] if part[0] in terms.by_id]
        pending = [] if self.close else [self.receipts, self.targets, self.masses]
        for kept in (self.attests, self.models, self.sketches, self.dues, self.copies, *pending):
            for gone in [node for node in kept if node not in terms.by_id]:
                del kept[gone]
        self.partials = {key: body for key, body in self.partials.items() if key[1] in terms.by_id}

    def begun(self) -> list:
        """Fields 7 to 12."""
        contributions = [[*key, placed] for key, placed in sorted(self.contributions.items())]
        close = [self.close] if self.close else []
        return [self.opened_ms, self.committed, contributions, self.late, close, rows(self.attests)]

    def computed(self) -> list:
        """Field 21."""
        return [[*key, body] for key, body in sorted(self.partials.items())]

    def late_work(self) -> list:
        """Fields 22 and 23."""
        return [self.before, rows(self.counted)]

    def watched(self) -> list:
        """Fields 24 and 25, as far as they are written."""
        if self.masks is None:
            return self.watch.state()
        return [*(self.watch.state() or [[]]), [self.masks.state()]]

    def exchanges(self) -> list:
        """Field 20."""
        kept = (self.receipts, self.models, self.sketches, self.targets, self.masses, self.dues, self.copies)
        return [[*map(rows, kept), *([[self.anew]] if self.tracks else [])]] if self.gossips else []


def sums_paid(text: str) -> int:
    """How many sums of noise a budget pays, in floating point, which is near enough unless a budget is used up exactly."""
    multiplier, epsilon, delta = text.split(":", 2)
    assert multiplier == f"{float(multiplier):.3f}".rstrip("0").rstrip(".")
    assert 0 < float(multiplier) <= 10_000
    each = 1 / (2 * float(multiplier) ** 2) + 2.0**-60
    orders = [1 + 2.0**k * (16 + j) / 16 for k in range(-4, 24) for j in range(16)]
    left = [math.log(1 - 1 / a) - (math.log(float(delta)) + math.log(a)) / (a - 1) for a in orders]
    pays = max((float(epsilon) - b) / a for a, b in zip(orders, left, strict=True)) / each
    assert 1e-6 < pays % 1 < 1 - 1e-6, "too near to a whole number to be told from it so"
    return min(1_000_000, int(pays))


class Masks:
    """Field 25: who masks with whom in the open round, under a charter with `masks`."""

    def __init__(self) -> None:
        self.attempt = 1
        self.keys: dict[bytes, list] = {}
        self.barred: list[bytes] = []
        self.roster: list | None = None  # index, body, keys `[index, author, body]`, members
        self.deals: dict[bytes, list] = {}
        self.reveals: dict[bytes, list] = {}

    def seats(self) -> dict[bytes, list]:
        return {keyed[1]: keyed for keyed in self.roster[2]} if self.roster else {}

    def weights(self) -> dict[bytes, int]:
        assert self.roster is not None
        return {keyed[1]: weight for keyed, (_, weight) in zip(self.roster[2], self.roster[1][2], strict=True)}

    def offers(self, author: bytes, body: list, number: int, bases: list[bytes]) -> bool:
        keyed = self.seats().get(author)
        if keyed is None or keyed[2][3] not in bases:
            return False
        late = bases.index(keyed[2][3])
        own = [number - late, self.attempt + 65_536 * late, keyed[2][3], keyed[2][4]]
        return [body[0], body[1], body[3], body[6]] == own

    def hear(self, kind: int, author: bytes, body: list, index: int, close: list | None) -> None:
        if kind == 18:
            round_, attempt, height, base, samples, *keys = body
            assert min(round_, attempt) >= 1
            assert height >= 0
            assert len(base) == 32
            assert 0 < samples < 1 << 40
            assert keys[0] != keys[1]
            assert all(len(key) == 32 for key in keys)
            if not (close or self.roster) and attempt == self.attempt and author not in self.barred:
                self.keys[author] = [index, author, body]
        elif kind == 20:
            assert 0 < body[3] <= 1 << 18
            if not close and self.roster and body[1] == self.roster[0] and author in {*self.seats()} - {*self.deals}:
                self.deals[author] = [index, body]
        else:
            places = [place for place, _ in body[3]]
            assert places == sorted({*places})
            if (
                close
                and close[2]
                and body[1:3] == [self.attempt, close[0]]
                and author in {*self.seats()} - {*self.reveals}
            ):
                self.reveals[author] = body

    def fewest(self, order: list[bytes], policy: int) -> int:
        return max(3, (len(order) - 1) // 3 + 2, policy)

    def follows(
        self, number: int, bases: list[bytes], done: dict[bytes, int], order: list[bytes], cap: int, total: int
    ) -> list:
        standing, rejected, known = [], [], set()
        for index, author, body in [self.keys[node] for node in order if node in self.keys]:
            late = bases.index(body[3]) if body[3] in bases else number
            if number - late <= done.get(author, 0):
                rejected.append([index, 3])
            elif {*body[5:]} & known:
                rejected.append([index, 1])
            else:
                standing.append((index, max(1, body[4] * 1000 // math.isqrt(10**6 * (1 + late)))))
                known |= {*body[5:]}
        found = weights([samples for _, samples in standing], cap, total) if standing else []
        included = [[index, weight] for (index, _), weight in zip(standing, found, strict=True)]
        return [number, self.attempt, included, [node for node in order if node not in self.keys], sorted(rejected)]

    def take(self, index: int, body: list, members: int) -> None:
        known = {keyed[0]: keyed for keyed in self.keys.values()}
        self.roster, self.keys = [index, body, [known[at] for at, _ in body[2]], members], {}

    def least(self, noised: int) -> int:
        """Of how many a sum is at least, as far as the policy of today is not asked; with noise, that of the charter."""
        assert self.roster is not None
        m, f = len(self.roster[2]), (self.roster[3] - 1) // 3
        assert m <= 30, "beyond that swarm/masking/graph.py says how many"
        return max(3, (m + f) // 2 + 1, min(noised, m))

    def closes(self, included: int, noised: int) -> bool:
        assert self.roster is not None
        return len(self.deals) == len(self.roster[2]) and included >= self.least(noised)

    def shares_noise(self, noised: int) -> bool:
        assert self.roster is not None
        return not noised or self.least(noised) - max(1, (self.roster[3] - 1) // 3) >= 2

    def end(
        self, body: list, number: int, offered: dict[bytes, int], order: list[bytes], policy: int, noised: int
    ) -> None:
        _, attempt, included, missing, rejected = body
        assert (body[0], attempt, included) == (number, self.attempt, [])
        assert rejected == sorted(rejected)
        useless = {index for index, _ in rejected}
        assert {reason for _, reason in rejected} <= {1, 2}
        dealt = {deal[0]: node for node, deal in self.deals.items()}
        undealt = [node for node in self.seats() if node not in self.deals]
        if undealt or useless & {*dealt}:
            assert useless <= {*dealt}
            assert missing == undealt
        else:
            assert useless <= {*offered.values()}
            assert missing == [node for node in self.seats() if node not in offered]
            enough = len(offered) - len(useless)
            assert not self.closes(enough, noised) or enough < policy
        authors = dealt | {index: node for node, index in offered.items()}
        late = {*missing, *self.barred, *(authors[index] for index in useless)}
        attempt = self.attempt + 1
        self.__init__()  # type: ignore[misc]
        self.attempt = attempt
        if len(order) - len(late) >= self.fewest(order, policy):
            self.barred = [node for node in order if node in late]

    def leave(self, gone: set[bytes]) -> None:
        barred, keys = [node for node in self.barred if node not in gone], self.keys
        if self.roster:
            attempt = self.attempt + 1
            self.__init__()  # type: ignore[misc]
            self.attempt = attempt
        else:
            self.keys = {node: keyed for node, keyed in keys.items() if node not in gone}
        self.barred = barred

    def state(self) -> list:
        roster = [self.roster] if self.roster else []
        return [self.attempt, rows(self.keys), self.barred, roster, rows(self.deals), rows(self.reveals)]


class Watch:
    """Field 24: whether members find that models still become better, where the charter asks for that."""

    def __init__(self, asked: str, metrics: list[str]) -> None:
        self.asked = asked
        metric, sense, patience, least = [*asked.split(":"), "0"][:4] if asked else ("", "lower", "0", "0")
        self.metric = metrics.index(metric) if asked else 0
        self.sign = {"higher": 1, "lower": -1}[sense]
        self.patience, self.least = int(patience), round(float(least) * 10**6)
        self.best: list[list] = []
        self.references: dict[bytes, int] = {}
        self.idle = self.last = 0
        self.heard: list[list] = []  # round, model digest, model bytes, words by author

    def hear(self, author: bytes, body: list) -> bool:
        number, model, _, metrics = body
        for one in self.heard:
            if one[0] == number and not self.last and author not in one[3] and (not one[2] or one[1] == model):
                one[3][author] = [value for at, value in metrics if at == self.metric]
                return True
        return False

    def judge(self, members: list[bytes], done: int, end: int) -> None:
        while self.heard and not self.last:
            number, model, size, said = self.heard[0]
            if number > done - 2 and not {*members} <= {*said}:
                break
            del self.heard[0]
            scores = {node: word[0] for node, word in said.items() if word}
            gains = sorted(
                self.sign * (scores[node] - self.references[node]) for node in scores if node in self.references
            )
            told, least = (gains if self.best else [*scores]), 2 * ((len(members) - 1) // 3) + 1
            middle = gains[(len(gains) - 1) // 2 : len(gains) // 2 + 1]
            if len(told) >= least and (not self.best or sum(middle) // len(middle) > self.least):
                self.best, self.references, self.idle = [[number, model, size]], scores, 0
            elif self.best:
                self.references = scores | self.references
                self.idle += len(told) >= least
            if end and self.idle >= self.patience:
                self.last = end

    def state(self) -> list:
        heard = [[*one[:3], rows(one[3])] for one in self.heard]
        return [[[self.best, rows(self.references), self.idle, heard, self.last]]] if self.asked else []


@dataclasses.dataclass
class Scoring:
    """Who says what of the contributions to a round: by index those included, and by author what counts."""

    included: dict[int, bytes]
    members: set[bytes]
    open: bool = False
    said: dict[bytes, dict[int, int]] = dataclasses.field(default_factory=dict)

    def values(self, index: int) -> list[int]:
        own = self.included[index]
        return sorted(scores[index] for author, scores in self.said.items() if author != own and index in scores)

    @property
    def enough(self) -> bool:
        n = len(self.members)
        least = min((n + (n - 1) // 3) // 2 + 1, n - 1)
        return all(len(self.values(index)) >= least for index in self.included)

    def hear(self, author: bytes, scores: dict[int, int]) -> None:
        if self.open and author in self.members and author not in self.said and {*scores} <= {*self.included}:
            self.said[author] = scores
            self.open = not self.enough

    def agreed(self) -> dict[bytes, int | None]:
        found: dict[bytes, int | None] = {}
        for index, author in self.included.items():
            values = self.values(index)
            middle = values[(len(values) - 1) // 2 : len(values) // 2 + 1]
            enough = len(values) >= 2 * ((len(self.members) - 1) // 3) + 1
            found[author] = sum(middle) // len(middle) if enough else None
        return found


def sizes(codec: str, d: int) -> tuple[int, int]:
    """The fewest and the most bytes of a contribution of d parameters."""
    kind, *more = codec.split(":")
    if kind == "topk":
        k = -(-d * int(more[0]) // 1000)
        where = min(-(-d // 8), k + sum(min(k, (d - k) >> 7 * j) for j in range(1, 5)))
        return 1, 8 + where + (4 if more[1:] else 2) * k
    size = {
        "": 4 * d,
        "bf16": 8 + 2 * d,
        "int8": 8 + 4 * -(-d // 1024) + d,
        "int4": 8 + 4 * -(-d // 128) + -(-d // 2),
        "sign": 8 + 2 * -(-d // 64) + -(-d // 8),
    }[kind]
    return size, size


def offered(said: list) -> list:
    """Digest and size of what gossip blends of a contribution: the model, or the last of its slices."""
    return said[11][-1] if said[11] else said[4:6]


def rows(table: dict) -> list:
    return [[key, value] for key, value in sorted(table.items())]


def weights(samples: list[int], cap: int, total: int = 1 << 20) -> list[int]:
    """The weights of a close, from the numbers of samples of the included and the cap in millionths."""
    n, capped = len(samples), set()
    if cap * n <= 10**6:
        return [1] * n
    left = sum(samples)
    for i in sorted(range(n), key=lambda i: -samples[i]):
        if samples[i] * (10**6 - cap * len(capped)) <= cap * left:
            break
        capped.add(i)
        left -= samples[i]
    if not capped and sum(samples) <= total:
        return samples
    scale = total - n
    most = scale * cap // 10**6
    shares = (most if i in capped else s * (scale - most * len(capped)) // left for i, s in enumerate(samples))
    return [max(1, share) for share in shares]


def distances(sketches: list[bytes]) -> tuple[int, int]:
    """The largest and the mean distance, in millionths of the largest norm."""
    vectors = [struct.unpack(">128q", sketch) for sketch in sketches]
    largest = max((sum(x * x for x in vector) for vector in vectors), default=0)
    if len(vectors) < 2 or largest == 0:
        return 0, 0
    pairs = itertools.combinations(vectors, 2)
    apart = [math.isqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) * 10**12 // largest) for a, b in pairs]
    return max(apart), sum(apart) // len(apart)


def philox(counter: int, key: int) -> list[int]:
    """A block of Philox 4x64-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011."""
    word = (1 << 64) - 1
    x, k = [counter, 0, 0, 0], [key, 0]
    for _ in range(10):
        a, b = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [b >> 64 ^ x[1] ^ k[0], b & word, a >> 64 ^ x[3] ^ k[1], a & word]
        k = [k[0] + 0x9E3779B97F4A7C15 & word, k[1] + 0xBB67AE8584CAA73B & word]
    return x


def sketched(model: Sequence[float], ledger_id: bytes) -> bytes:
    """The sketch of a model of which every sum of float64 is exact, in whatever order."""
    key, sums = int.from_bytes(ledger_id[:8], "big"), [0.0] * 128
    words = [word for block in range(len(model) // 256 + 1) for word in philox(block + 1, key)]
    for i, value in enumerate(model):
        sums[i % 128] += -value if words[i // 64] >> i % 64 & 1 else value
    return struct.pack(">128q", *(round(total * 2**20) for total in sums))


class Votes:
    """Open proposals: [index, author, change, time of lapse, last words by author], by entry id, in order of the log."""

    def __init__(self) -> None:
        self.open: dict[bytes, tuple[int, bytes, list, int, dict[bytes, bool]]] = {}

    def hear(self, entry: list, index: int, time_ms: int) -> None:
        author, body = entry[3], msgpack.unpackb(entry[7])
        if entry[1] == 4:
            mine = sum(one[1] == author for one in self.open.values())
            assert body[2] == b"", "none of these ledgers has an invitation in it"
            if mine < 4 and time_ms < body[1] <= time_ms + 91 * 86_400_000:
                self.open[sha(pack(entry[:-1]))] = (index, author, msgpack.unpackb(body[0]), body[1], {author: True})
        elif entry[1] == 5 and body[0] in self.open:
            self.open[body[0]][4][author] = body[1]

    def state(self) -> list:
        """Field 17."""
        return [
            [index, id_, author, change, lapse, False, rows(said)]
            for id_, (index, author, change, lapse, said) in self.open.items()
        ]

    def carried(self, terms: Terms) -> tuple[bytes, list, Terms] | None:
        """The entry id, the body that the epoch entry must have, the new terms."""
        for id_, (index, author, change, _, said) in self.open.items():
            yes, no = ([node for node, _ in terms.array[1] if said.get(node) is word] for word in (True, False))
            if len(yes) >= terms.quorum:
                after = terms.changed(change, author)
                return id_, [after.epoch, index, yes, no, after.digest], after
        return None


def node_id(key: bytes) -> bytes:
    return sha(b"swarm-ledger/node/v1\0", key)


def frontier(leaves: list[bytes]) -> list:
    """Field 5."""
    hashes, start = [], 0
    for bit in range(len(leaves).bit_length() - 1, -1, -1):
        if len(leaves) >> bit & 1:
            hashes.append(tree_root(leaves[start : start + (1 << bit)]))
            start += 1 << bit
    return [len(leaves), hashes]


def read(folder: Path, genesis: bytes) -> tuple[bytes, int, bytes]:
    """Verify a ledger from its entry 0 and its files. Return (ledger id, entries, root)."""
    ledger_id, leaves, _ = followed(folder, genesis)
    return ledger_id, len(leaves), tree_root(leaves)


def followed(folder: Path, genesis: bytes) -> tuple[bytes, list[bytes], Rounds]:
    """Verify a ledger from its entry 0 and its files. Return its id, its leaves and its rounds."""
    version, kind, zeros, nobody, seq, prev, _, charter, signatures = msgpack.unpackb(genesis)
    assert (version, kind, zeros, nobody, seq, prev) == (1, 0, ZERO, ZERO, 0, ZERO)
    ledger_id = sha(pack(msgpack.unpackb(genesis)[:-1]))
    fields = msgpack.unpackb(charter)
    signed_by = dict(msgpack.unpackb(signatures))
    for index, card in enumerate(fields[3]):
        check_signature(card[1], b"swarm-ledger/charter/v1\0" + charter, signed_by[index])
    terms = Terms([0, [[node_id(card[1]), card] for card in fields[3]], fields[8], fields[5]])
    coming: Terms | None = None
    rounds = Rounds(fields)
    votes, past, begun = Votes(), [terms], [ledger_id, 0, 0]
    chain: list[bytes] = []
    recorded, state = 0, b""

    def check_certificate(certificate: list, terms: Terms, kind: int, view: int, block: bytes) -> None:
        assert certificate[:4] == [terms.epoch, view, kind, block]
        signers, signatures = certificate[4:]
        assert len(signers) >= terms.quorum
        assert signers == sorted({*signers})
        statement = struct.pack(">QQB", terms.epoch, view, kind) + block
        for signer, signature in zip(signers, signatures, strict=True):
            check_signature(terms.cards[signer][2], b"swarm-ledger/vote/v1\0" + ledger_id + statement, signature)

    leaves, feeds = [genesis], dict.fromkeys(terms.by_id, (0, ledger_id))
    parent, parent_view, last_ms, covered = ledger_id, 0, 0, True
    for height, payload in enumerate(records(folder, ledger_id), 1):
        (header, block_leaves, justify, proposer, signature), certificates, cover = msgpack.unpackb(payload)
        fields = HEADER.unpack(header)
        begins = coming is not None
        if coming is not None:
            assert covered
            terms, coming = coming, None
            rounds.forget(terms, past[-1])
            past.append(terms)
            begun = [parent, parent_view, height - 1]
            feeds = dict.fromkeys(terms.by_id, (0, ledger_id)) | feeds
        assert (fields[0], fields[2]) == (terms.epoch, height)
        block = sha(b"swarm-ledger/header/v1\0", header)
        check_signature(terms.cards[proposer][2], b"swarm-ledger/propose/v1\0" + ledger_id + header, signature)
        assert (fields[3], fields[4]) == (parent, parent_view)
        assert fields[5] > last_ms
        assert (fields[6], fields[7]) == (len(leaves), len(block_leaves))
        assert fields[10] == sha(pack(block_leaves))
        assert fields[12] == sha(pack(justify))
        notarized = [] if begins or height == 1 else [(1, parent_view, parent)]
        rests_on = [*notarized, *((2, view, ZERO) for view in range(parent_view + 1, fields[1]))]
        for certificate, (kind, view, named) in zip(justify, rests_on, strict=True):
            final = kind == 1 and certificate[2] == 3  # Who signs that a block is final has seen it notarized.
            check_certificate(certificate, terms, 3 if final else kind, view, named)
        votes.open = {id_: one for id_, one in votes.open.items() if fields[5] <= one[3]}
        chain.append(block)
        last_place = 0
        for leaf in block_leaves:
            assert coming is None, "an epoch entry is the last of its block"
            entry = msgpack.unpackb(leaf)
            assert entry[2] == ledger_id
            unsigned = pack(entry[:-1])
            if entry[3] == ZERO:
                assert (entry[4], entry[5], entry[6], entry[8]) == (len(leaves), ZERO, fields[5], b"")
            else:
                assert (entry[4], entry[5]) == feeds[entry[3]]
                key = terms.by_id[entry[3]][1]
                check_signature(key, b"swarm-ledger/entry/v1\0" + ledger_id + unsigned, entry[8])
                feeds[entry[3]] = (entry[4] + 1, sha(unsigned))
            place = {8: 0, 3: 2, 12: 3, 19: 3, 6: 4}.get(entry[1], 1)
            assert place > last_place or place == last_place == 1 or leaf is block_leaves[0]
            last_place = place
            votes.hear(entry, len(leaves), fields[5])
            rounds.hear(entry, len(leaves), terms)
            if entry[1] in (3, 12, 19):
                body, due = msgpack.unpackb(entry[7]), rounds.due(terms)
                assert due == (body if entry[1] == 3 else None)
                if entry[1] == 3:
                    rounds.commit(body, fields[5], terms)
                elif entry[1] == 19:
                    rounds.rostered(len(leaves), body, terms)
                else:
                    rounds.closed(len(leaves), body, terms)
            if entry[1] == 8:
                of, certificate = msgpack.unpackb(entry[7])
                named, certificate = HEADER.unpack(of), msgpack.unpackb(certificate)
                assert recorded < named[2] < height
                assert chain[named[2] - 1] == sha(b"swarm-ledger/header/v1\0", of)
                check_certificate(certificate, past[certificate[0]], 3, named[1], chain[named[2] - 1])
                recorded = named[2]
            assert entry[1] not in (0, 7), "none of these ledgers has evidence in it"
            if entry[1] == 10:
                code, first, last = msgpack.unpackb(entry[7])
                assert code in (1, 2) if rounds.tracks else code == 1
                if code == 2:
                    rounds.begin_anew()
                assert 1 <= first <= last <= 1_000_000
            if entry[1] == 6:
                carried = votes.carried(terms)
                assert carried is not None
                id_, body, coming = carried
                assert msgpack.unpackb(entry[7]) == body
                del votes.open[id_]
            leaves.append(leaf)
        assert coming is not None or votes.carried(terms) is None, "an epoch is not a choice"
        assert rounds.due(terms) is None, "nor is a commit"
        assert (fields[8], fields[9]) == (len(leaves), tree_root(leaves))
        whole = [[], ledger_id, height, fields[5], frontier(leaves), rows(feeds), *rounds.begun(), recorded]
        whole += [terms.array, begun, [], votes.state(), [coming.array] if coming else []]
        whole += [[before.array for before in past[-2:-6:-1]], rounds.exchanges(), rounds.computed()]
        state = pack([*whole, *rounds.late_work(), *rounds.watched()])
        assert fields[11] == sha(b"swarm-ledger/state/v6\0", state)
        covered, certified, view = False, block, fields[1]
        assert not cover or (coming is not None and certificates)
        for place, empty in enumerate(cover, 1):
            child = HEADER.unpack(empty)
            assert (child[0], child[2], child[3], child[4], child[7]) == (
                terms.epoch,
                height + place,
                certified,
                view,
                0,
            )
            assert child[1] > view
            certified, view = sha(b"swarm-ledger/header/v1\0", empty), child[1]
        for certificate in certificates:
            check_certificate(certificate, terms, 3, view, certified)
            covered = True
        parent, parent_view, last_ms = block, fields[1], fields[5]
    snapshot = folder.parent / "snapshot"
    assert not snapshot.exists() or snapshot.read_bytes() == struct.pack(">Q", len(chain)) + state
    return ledger_id, leaves, rounds


# --- the ledgers to read --------------------------------------------------------------------------------------------


def calm() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of four members who stay."""
    from tests.benchmarks.ledgers import make_ledger

    return make_ledger(members=4, rounds=3)[:2]


def changing() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of four epochs: a site joins, one takes new keys, one is voted out."""
    from tests.epochs import changing_ledger

    return changing_ledger()


def taken_back() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger in which a member takes back its work of two rounds."""
    from tests.node.test_lineage import taken_back

    return taken_back()


def lossy() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of two epochs whose first one ended with a block that only empty ones above it made final."""
    from tests.epochs import covered_ledger

    return covered_ledger()


def ring() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of four epochs in a ring of four: the newcomer is linked to whoever proposed it."""
    from tests.epochs import changing_ledger

    return changing_ledger(((0, 1), (0, 3), (1, 2), (2, 3)))


def star() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same in a star whose hub is the one that is voted out: those it leaves behind are linked in a row."""
    from tests.epochs import changing_ledger

    return changing_ledger(((0, 1), (1, 2), (1, 3)))


def gossiping() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of five members who exchange models along a ring; one round, the last, averages them."""
    from tests.exchanges import calm

    played = calm("ring")
    return played.signed, played.payloads


def in_turns() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same by a schedule in which each round has other pairs."""
    from tests.exchanges import calm

    played = calm("base2")
    return played.signed, played.payloads


def troubled() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ring in which messages are lost, a member is away for some rounds, and one attests when its round is over."""
    from tests.exchanges import troubled

    played = troubled()
    return played.signed, played.payloads


def changing_ring() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ring of four epochs: a site joins, one takes new keys, one leaves, each while models are exchanged."""
    from tests.exchanges import changing_gossip

    played = changing_gossip()
    return played.signed, played.payloads


@functools.cache
def in_slices() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members average slice by slice; one of them computes wrongly, and rounds are closed a second time."""
    from tests.simulation.test_routes import ledger_of, lies

    return ledger_of("sharded:7", compressed="int8", prepare=lies(1))


@functools.cache
def behind() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members of whom one is slow, all are cut off for a while, and what they did counts later."""
    from swarm.ledger import entry as e
    from tests.simulation.test_late import late, ran, said, troubles
    from tests.simulation.test_routes import HARSH, blocks, head

    world = ran(staleness=5, rounds=12, faults=troubles(5), seed=5, network=HARSH)
    assert late(world)
    assert {reason for body in said(world, e.ROUND_CLOSE, e.RoundClose) for _, reason in body.rejected} == {2}
    return head(world, 0).replica.head.signed, blocks(world)


@functools.cache
def unwaiting() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members of whom one is slow; nobody waits for anybody."""
    from tests.simulation.test_asynchronous import ran
    from tests.simulation.test_late import late, troubles
    from tests.simulation.test_routes import HARSH, blocks, head

    world = ran(rounds=20, faults=troubles(4), seed=4, network=HARSH)
    assert late(world)
    return head(world, 0).replica.head.signed, blocks(world)


@functools.cache
def ruled() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members average by a rule, one of them poisons; blocks hold weights that not everybody attests."""
    from tests.simulation.test_rules import ledger_of

    return ledger_of("nnm:1+trimmed:1")


@functools.cache
def clipping() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members exchange models and clip; the last round is a geometric median, with weights in the attests."""
    from tests.simulation.test_clipping import ledger

    return ledger()


@functools.cache
def folded() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members add up their updates in pairs, in two steps; one is away for a while."""
    from swarm.machine import AddUp
    from tests.simulation.test_routes import CrashAt, ledger_of

    return ledger_of("fold", rounds=6, checkers=[CrashAt(2, AddUp, down_s=40.0)])


@functools.cache
def bereft() -> tuple[SignedCharter, Sequence[bytes]]:
    """Four members that fold lose an update after the close of a round, which then is void."""
    from tests.simulation.test_routes import void_ledger

    return void_ledger()


@functools.cache
def judged() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members judge each other's work; one is away for a while, and two have too little time for it in between."""
    from tests.simulation.test_contributions import hurried, ran, swarm_of
    from tests.simulation.test_routes import blocks
    from topologies.world.faults import Crash

    swarm = swarm_of(rounds=7)
    away = Crash(at_s=8.0, slot=4, down_s=6.0)
    return swarm.signed, blocks(ran(swarm, hurried({0, 1}, rounds={3, 4}), faults=[away]))


@functools.cache
def remembering() -> tuple[SignedCharter, Sequence[bytes]]:
    """Four members whose outcomes are three times as long as their model."""
    from tests.simulation.test_outer import blocks, head, ran

    world = ran("fedadam:0.1,0.5", rounds=6, buffers="3-7 60-64")
    return head(world, 0).replica.head.signed, blocks(world)


@functools.cache
def masked() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members mask; one is away when it should deal, and two lose their secrets when they should reveal."""
    from tests.simulation.test_masks import ledger

    return ledger()


@functools.cache
def masked_and_changing() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members mask, and one is voted out."""
    from tests.simulation.test_masks_abused import changing_ledger

    return changing_ledger()


@functools.cache
def noised() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members mask sums with noise on them, of which their budget pays two; one drops out."""
    from tests.simulation.test_site_noise import ledger

    return ledger()


@functools.cache
def salted() -> tuple[SignedCharter, Sequence[bytes]]:
    """Five members add up salted updates in pairs; one offers an update without a salt in every round."""
    from tests.simulation.test_salts import blocks, head, without_one

    world = without_one()
    return head(world, 0).replica.head.signed, blocks(world)


@functools.cache
def stopped() -> tuple[SignedCharter, Sequence[bytes]]:
    """Four members who end the run early; messages are lost, one is away for a while and another keeps scores back."""
    from tests.simulation.test_stopping import troubled

    return troubled()


@functools.cache
def stopped_gossip() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same in a ring: the round after the open one makes all models one."""
    from tests.simulation.test_stopping import troubled

    return troubled(schedule="ring")


@functools.cache
def resumed() -> tuple[SignedCharter, Sequence[bytes]]:
    """Four members who vote for more rounds when their run has been stopped, and are joined by a fifth."""
    from tests.simulation.test_stopping import resumed

    return resumed()


def one_way() -> tuple[SignedCharter, Sequence[bytes]]:
    """Links that go one way, with the same trouble; each takes its model from one and gives it to another."""
    from tests.exchanges import one_way

    played = one_way()
    return played.signed, played.payloads


def changing_one_way() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same where nothing is lost and members come and go, each with its mass."""
    from tests.exchanges import changing_gossip

    played = changing_gossip("static_exponential", "directed")
    return played.signed, played.payloads


def compressed() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ring under a coarse codec, with the trouble of the first: messages say how public copies move."""
    from tests.exchanges import compressed

    played = compressed()
    return played.signed, played.payloads


def changing_compressed() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same where members come and go: who joins has no public copy, and offers its model whole."""
    from tests.exchanges import changing_gossip

    played = changing_gossip("ring", codec="topk:100")
    return played.signed, played.payloads


def tracking() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ring whose members correct their steps: one loses its correction and says so, and all begin anew."""
    from tests.exchanges import tracking

    played = tracking()
    return played.signed, played.payloads


def changing_tracking() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same where members come and go: whoever leaves has all begin anew, who joins does not."""
    from tests.exchanges import changing_gossip

    played = changing_gossip("ring", correction="gt")
    return played.signed, played.payloads


GOSSIP = [
    tracking,
    changing_tracking,
    gossiping,
    in_turns,
    troubled,
    changing_ring,
    one_way,
    changing_one_way,
    compressed,
    changing_compressed,
]

Made: TypeAlias = "Callable[[], tuple[SignedCharter, Sequence[bytes]]]"


def made(folder: Path, make: Made = calm, *, segment_bytes: int = 1 << 14) -> tuple[Path, bytes, bytes, int, bytes]:
    """Write a ledger as a node does; return what this project says of it."""
    from node.storage import RealDisk, SnapshotFile
    from swarm.ledger.audit import audit
    from swarm.ledger.journal import Journal
    from swarm.machine import RECORD_BLOCK, Record, Snapshot

    signed, payloads = make()
    disk = RealDisk(folder)
    journal = Journal(disk, ledger_id=signed.ledger_id, segment_bytes=segment_bytes)
    journal.open()
    for height, payload in enumerate(payloads, 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
    *_, result = audit(payloads, signed)
    SnapshotFile(folder / "snapshot").save(Snapshot(result.state.height, result.state.encode()))
    disk.close()
    root = result.state.frontier.root()
    return folder / "blocks", signed.genesis().encode(), signed.ledger_id, result.entries, root


@pytest.mark.parametrize(
    "make",
    [
        *(calm, taken_back, changing, lossy, ring, star, in_slices, folded, bereft, ruled, clipping, behind, unwaiting),
        *(judged, remembering, stopped, stopped_gossip, resumed),
        *(masked, masked_and_changing, noised, salted),
        *GOSSIP,
    ],
)
def test_the_documented_format_is_enough_to_verify_a_ledger(tmp_path: Path, make: Made) -> None:
    folder, genesis, ledger_id, entries, root = made(tmp_path, make)
    assert len(list(folder.glob("*.seg"))) > 1, "sealed segments are read too"
    assert read(folder, genesis) == (ledger_id, entries, root)


def test_the_second_reader_would_notice(tmp_path: Path) -> None:
    """Or it would show nothing: each changed byte of a block's record ends it."""
    folder, genesis, *_ = made(tmp_path)
    path = min(folder.glob("*.seg"))
    whole = path.read_bytes()
    for place in range(64, 4000, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((AssertionError, ValueError, BadSignatureError, msgpack.UnpackException, struct.error)):
            read(folder, genesis)


@pytest.mark.parametrize("make", GOSSIP)
def test_both_readers_say_the_same_of_who_exchanged_with_whom(tmp_path: Path, make: Made) -> None:
    from node.exchanges import every_exchange
    from swarm.ledger.audit import audit

    folder, genesis, *_ = made(tmp_path, make)
    *_, result = audit(make()[1], make()[0])
    theirs = {met.number: {frozenset(pair) for pair in met.pairs} for met in every_exchange(make()[0], result)}
    ours = followed(folder, genesis)[2].pairs
    assert ours.keys() == theirs.keys()
    for met in every_exchange(make()[0], result):
        planned = {frozenset((a.node, b)) for a in met.terms.members for b in met.planned(a.node)}
        assert theirs[met.number] == ours[met.number] & planned, "an epoch may have begun since the receipts"
    assert len(ours) == result.state.committed.round - 1, "all but the last round"
    assert any(ours.values())


def test_both_readers_come_to_the_same_scores_and_gaps(tmp_path: Path) -> None:
    from swarm.ledger.audit import audit

    folder, genesis, *_ = made(tmp_path, judged)
    *_, result = audit(judged()[1], judged()[0])
    ours = followed(folder, genesis)[2].scoring
    theirs = result.scores.rounds
    assert ours.keys() == theirs.keys()
    for number, scoring in ours.items():
        agreed = theirs[number].agreed()
        assert scoring.agreed() == {node: None if one is None else one.score for node, one in agreed.items()}
        assert scoring.said.keys() == theirs[number].scores.keys()
        assert theirs[number].settled == (not scoring.open)
    told = [score for scoring in ours.values() for score in scoring.agreed().values()]
    assert None in told
    assert len({*told}) > 10


def test_the_ledgers_of_gossip_hold_what_can_go_wrong() -> None:
    """A late attest, a round that lacks a member, a pair that only one side vouches for, members that come and go."""
    from swarm.ledger.audit import audit

    rounds = [view for make in GOSSIP for view in list(audit(make()[1], make()[0]))[-1].rounds.values()]
    assert any(view.commit and len(view.models) > view.commit.attests for view in rounds), "a late attest"
    assert any(view.closed and view.closed.body.missing for view in rounds)
    assert len({len(view.terms.members) for view in rounds if view.terms}) == 2
    one_sided = 0
    for view in rounds:
        at = {placed.author: placed.index for placed in view.closed.terms} if view.closed else {}
        for a, b in itertools.permutations(at, 2):
            one_sided += at[b] in view.receipts.get(a, ()) and at[a] not in view.receipts.get(b, ())
    assert one_sided


@given(st.lists(st.integers(1, 2**40 - 1) | st.integers(1, 2000), min_size=1, max_size=12), st.integers(1, 10**6))
def test_weights_are_as_documented(samples: list[int], cap: int) -> None:
    from swarm.mixing.average import integer_weights

    assert weights(samples, cap) == list(integer_weights(samples, cap_ppm=cap))


@pytest.mark.parametrize("elements", [1, 127, 128, 1000, 70_000])
def test_sketches_are_as_documented(elements: int) -> None:
    import numpy as np

    from swarm.mixing.sketch import sketch

    ledger_id = sha(b"a ledger")
    model = [(i * 37 % 2001 - 1000) / 1024 for i in range(elements)]  # Sums of these are exact in float64.
    told = sketch(np.array(model, np.float32), int.from_bytes(ledger_id[:8], "big"))
    assert told == sketched(model, ledger_id)


@pytest.mark.parametrize("salt", [0, 32])
@pytest.mark.parametrize("codec", ["", "bf16", "int8", "int4", "sign", "topk:1", "topk:50", "topk:500:f32"])
@pytest.mark.parametrize("parameters", [1, 64, 1000, 1_000_003])
def test_sizes_of_contributions_are_as_documented(codec: str, parameters: int, salt: int) -> None:
    from msgspec.structs import replace

    from tests.builders import contribution, make_swarm

    swarm = make_swarm(1)
    charter = swarm.charter
    options = ((("codec", codec),) if codec else ()) + ((("salt", str(salt)),) if salt else ())
    charter = replace(charter, task=replace(charter.task, parameters=parameters), options=options)
    least, most = (size + salt for size in sizes(codec, parameters))
    offers = [replace(contribution(swarm, 0), update_bytes=size) for size in (least - 1, least, most, most + 1)]
    assert [charter.carries(offer) for offer in offers] == [False, True, True, False]
