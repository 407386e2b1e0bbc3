"""What a round's sum costs under encryption, beside masks; and Paillier here beside Paillier elsewhere.

    PYTHONPATH=. python scripts/bench_homomorphic.py [--elements 1000000] [--members 10] [--slice 128] [--repeats 5]

One process, processor time. Everything is done in turn, several times over, and ratios are taken within a turn; what
is printed are their medians. Masks are measured at full size, by the functions of `bench_masking`; so are encrypting,
proofs and adding. Decrypting would take an hour: answers, combining them and decrypting by one are measured on a slice
of so many ciphertexts and *multiplied up*, which is what they are, one ciphertext after the other. What is multiplied
up is printed with a ~. CKKS is measured on a slice of 65,536 parameters.

Who does what in a round of ten, all of whom may offer:

- *offer*: weighting, packing, encrypting, proving that one knows what is offered.
- *take*: reading everybody's offer, checking proofs. Without those one member that cheats opens another's update.
- *add*: the sum of all.
- *answer*: a holder's share of the decryption, with its proof. *check*, *combine*: of as many answers as it takes.
- *decrypt*: in place of these three, by somebody who has the whole key.

Beside it what the peers have, where it is installed: TenSEAL (CKKS, the scheme that NVFlare uses), sf-heu (of
SecretFlow) and fate-utils (of FATE). Goals are the product's own for Paillier, each a ratio of rates on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scripts.bench_masking import CLIP_NORM_MILLI, SAMPLES, Swarm, spent
from swarm import codec
from swarm.errors import Reject
from swarm.homomorphic import integers
from swarm.homomorphic.paillier import Encryptor, Exponents, generate
from swarm.homomorphic.sums import Opening, Part, Roster, read_offer
from swarm.homomorphic.threshold import deal
from swarm.machine import Digest, NodeId
from swarm.masking import masks
from swarm.masking.attempt import Attempt
from swarm.masking.graph import shape
from swarm.masking.keys import Occasion
from swarm.masking.ring import Ring, Words, weight_total
from swarm.masking.statements import Close
from swarm.vector import Vector

CKKS_ELEMENTS = 1 << 16

WINDOW = 10
"""Of tables: a million parameters pay for the larger one."""

GOALS = (
    ("encrypt", "encrypt, half", "fate-utils Paillier", 12.0),
    ("encrypt, with the secret key", "encrypt, half, own key", "fate-utils Paillier", 20.0),
    ("encrypt, short exponents", "encrypt, short", "fate-utils Paillier", 40.0),
    ("encrypt", "encrypt, half", "sf-heu ZPaillier", 1.2),
    ("decrypt", "decrypt", "fate-utils Paillier", 1.0),
    ("add", "add", "fate-utils Paillier", 0.8),
)
"""What, ours, whose, and how many times theirs the rate is to be. The second and third are stretches."""


class Bench:
    """What is measured: calls, each with how many units it does, and the seconds a unit of each turn."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Callable[[], object], int]] = {}
        self.seconds: dict[str, list[float]] = {}

    def add(self, name: str, call: Callable[[], object], units: int) -> None:
        """Have a call measured, that does so many units of work."""
        call()
        self.calls[name] = call, units

    def turn(self) -> None:
        """Do everything once."""
        for name, (call, units) in self.calls.items():
            self.seconds.setdefault(name, []).append(spent(call) / units)

    def median(self, name: str) -> float:
        """Return the seconds a unit."""
        return statistics.median(self.seconds[name])

    def ratio(self, above: Callable[[int], float], below: str) -> float:
        """Return the median, over turns, of some seconds of a turn to those of another call in it."""
        values = self.seconds[below]
        return statistics.median(above(turn) / one for turn, one in enumerate(values))

    def rate_ratio(self, ours: str, theirs: str) -> float:
        """Return how many times as many units a second the first does."""
        return self.ratio(lambda turn: self.seconds[theirs][turn], ours)


def masking(bench: Bench, bits: int, elements: int, members: int) -> float:
    """Have masks measured at full size, and return the bytes a member sends, to those of float32."""
    swarm = Swarm(members)
    ring = Ring.fitting(bits, weight_total=weight_total(bits, members), clip_norm_milli=CLIP_NORM_MILLI)
    update = (np.random.default_rng(1).standard_normal(elements) * 1e-3).astype(np.float32)

    def mask() -> bytes:
        one = swarm.member(0)
        return ring.pack(masks.masked(update, ring, one.weight, one.masks()))

    attempts = [swarm.member(number) for number in range(members)]
    words = [ring.pack(masks.masked(update, ring, one.weight, one.masks())) for one in attempts]
    close, reveals = Close(9, tuple(swarm.nodes)), []
    for one in attempts:
        assert one.offer(Digest(bytes(32))), "the first"
        restored = Attempt.from_bytes(one.to_bytes())
        restored.enrol(swarm.roster)
        for node, data in zip(swarm.nodes, swarm.deals, strict=True):
            restored.take_deal(node, data)
        said = restored.close(close)
        assert said is not None, "nothing was said before"
        reveals.append(said)
    bench.add(f"masks {bits}: offer", mask, 1)
    bench.add(f"masks {bits}: open", lambda: swarm.unmasks(ring, elements, words, reveals, close), 1)
    return (len(words[0]) + len(swarm.deals[0]) + len(codec.encode(reveals[0]))) / update.nbytes


class Encrypted:
    """Ten members and their key: some of it at full size, some on a slice."""

    def __init__(self, bench: Bench, args: argparse.Namespace) -> None:
        draw = secrets.token_bytes
        made = []
        self.keygen_s = spent(lambda: made.append(generate(args.key_bits, draw)))
        (secret,) = made
        public, members, slice_ = secret.public, args.members, args.slice
        nodes = [NodeId(draw(32)) for _ in range(members)]
        self.threshold = shape(members, members).threshold
        key, shares = deal(secret, nodes, self.threshold, draw)
        total = weight_total(args.bits, members)
        ring = Ring.fitting(args.bits, weight_total=total, clip_norm_milli=CLIP_NORM_MILLI)
        seats = tuple((node, SAMPLES) for node in nodes)

        def roster(elements: int, round_: int) -> Roster:
            return Roster(Occasion(bytes(32), round_, 1), ring, elements, key, seats)

        whole = roster(args.elements, 1)
        packing, self.roster = whole.packing, whole
        update = (np.random.default_rng(1).standard_normal(args.elements) * 1e-3).astype(np.float32)

        encryptors: dict[Exponents, Encryptor] = {}
        for exponents in Exponents:
            self.table_s = spent(
                lambda one=exponents: encryptors.update({one: Encryptor(public, one, draw, window=WINDOW)})
            )
        half = encryptors[Exponents.HALF]
        own = Encryptor(public, Exponents.HALF, draw, secret=secret, window=WINDOW)

        # One ciphertext after the other.
        words = _words(ring, np.resize(update, slice_ * packing.slots))
        self.plaintexts = numbers = list(packing.plaintexts(words, SAMPLES))
        ciphertexts = half.encrypt(numbers)
        for name, one in (
            ("encrypt, half", half),
            ("encrypt, short", encryptors[Exponents.SHORT]),
            ("encrypt, half, own key", own),
        ):
            bench.add(name, lambda one=one: one.encrypt(numbers), slice_)
        again, adds = ciphertexts[::-1], 200
        bench.add("add", lambda: [public.add_all(ciphertexts, again) for _ in range(adds)], adds * slice_)
        bench.add("decrypt", lambda: [secret.decrypt(one) for one in ciphertexts], slice_)
        bench.add("rerandomise", lambda: half.rerandomise(ciphertexts), slice_)
        bench.add("multiply, 33 bits", lambda: [public.multiply(one, (1 << 33) - 1) for one in ciphertexts], slice_)

        # A round, at full size. What a share of a decryption is does not matter to how long checking takes.
        part = Part(whole, nodes[0], encryptor=half, draw=draw)
        hasty = Part(whole, nodes[0], encryptor=encryptors[Exponents.SHORT], draw=draw)
        bench.add("offer", lambda: part.offer(update), 1)
        bench.add("offer, short", lambda: hasty.offer(update), 1)
        data = part.offer(update)
        self.offer_bytes = len(data)
        bench.add("take", lambda: read_offer(data, whole, nodes[0]), 1)
        read, close = read_offer(data, whole, nodes[0]), Close(9, tuple(nodes))
        bench.add("sum", lambda: Opening(whole, close, dict.fromkeys(nodes, read)), 1)
        proof = b"\x7f" * key.proof_bytes
        bench.add("check", lambda: _refused(lambda: key.check_share(1, b"", read, read[::-1], proof)), 1)
        sums = [one * members for one in packing.plaintexts(_words(ring, update), SAMPLES)]
        bench.add("unpack", lambda: packing.words(sums, args.elements, SAMPLES * members), 1)

        # A round, on a slice.
        few = roster(max(1, slice_ // 4) * packing.slots, 2)
        offers = {}
        for node in nodes:
            offered = Part(few, node, encryptor=half, draw=draw).offer(update[: few.elements])
            offers[node] = read_offer(offered, few, node)
        opening = Opening(few, close, offers)
        holders = [
            Part(few, node, encryptor=half, draw=draw, share=share) for node, share in zip(nodes, shares, strict=True)
        ]
        for node, holder in zip(nodes[: self.threshold], holders, strict=False):
            said = holder.answer(opening)
            assert said is not None, "it holds a share"
            assert opening.take(node, said) == (), opening.lacking()
        bench.add("answer", lambda: holders[0].answer(opening), few.count)
        bench.add("combine", opening.sums, few.count)
        self.answer_bytes = key.proof_bytes + public.ciphertext_bytes * whole.count


def _words(ring: Ring, update: Vector) -> Words:
    words = ring.words(update.size)
    ring.encode_into(words, update, SAMPLES)
    return words


def _refused(check: Callable[[], None]) -> None:
    with contextlib.suppress(Reject):
        check()


def fate(bench: Bench, slice_: int) -> str:
    """Have FATE's Paillier measured, or return why not."""
    try:
        from fate_utils import paillier
    except ImportError:
        return "fate-utils is not installed"
    secret, public, coder = paillier.keygen(2048)
    encoded = coder.encode_i64_vec(np.arange(slice_) + (1 << 60))
    made = public.encrypt_encoded(encoded, True)
    bench.add("fate-utils Paillier: encrypt", lambda: public.encrypt_encoded(encoded, True), slice_)
    bench.add("fate-utils Paillier: add", lambda: [made.add(public, made) for _ in range(200)], 200 * slice_)
    bench.add("fate-utils Paillier: decrypt", lambda: secret.decrypt_to_encoded(made), slice_)
    return ""


def heu(bench: Bench, slice_: int, numbers: list[int]) -> str:
    """Have SecretFlow's Paillier and Okamoto-Uchiyama measured, or return why not."""
    try:
        from heu import numpy as arrays
        from heu import phe
    except ImportError:
        return "sf-heu is not installed"
    for name in ("ZPaillier", "OU"):
        kit = arrays.setup(getattr(phe.SchemaType, name), 2048)
        bits = 2040 if name == "ZPaillier" else 640
        values = np.array([[int(number) % (1 << bits) for number in numbers]], dtype=object)
        plain = kit.array(values, kit.bigint_encoder())
        encryptor, evaluator, decryptor = kit.encryptor(), kit.evaluator(), kit.decryptor()
        made = encryptor.encrypt(plain)

        def adding(evaluator: object = evaluator, made: object = made) -> None:
            for _ in range(50):
                evaluator.add(made, made)  # type: ignore[attr-defined]

        bench.add(f"sf-heu {name}: encrypt", lambda e=encryptor, p=plain: e.encrypt(p), slice_)
        bench.add(f"sf-heu {name}: add", adding, 50 * slice_)
        bench.add(f"sf-heu {name}: decrypt", lambda d=decryptor, m=made: d.decrypt(m), slice_)
    return ""


def ckks(bench: Bench) -> tuple[float, str]:
    """Have TenSEAL's CKKS measured; return its bytes to those of float32, or why not."""
    try:
        import tenseal
    except ImportError:
        return 0.0, "tenseal is not installed"
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    context.global_scale = 2**40
    update = (np.random.default_rng(1).standard_normal(CKKS_ELEMENTS) * 1e-3).tolist()
    slots = 4096
    chunks = [update[start : start + slots] for start in range(0, CKKS_ELEMENTS, slots)]
    made = [tenseal.ckks_vector(context, chunk) for chunk in chunks]
    bench.add("ckks: offer", lambda: [tenseal.ckks_vector(context, one).serialize() for one in chunks], CKKS_ELEMENTS)
    bench.add("ckks: add", lambda: [one + one for one in made], CKKS_ELEMENTS)
    bench.add("ckks: decrypt", lambda: [one.decrypt() for one in made], CKKS_ELEMENTS)
    return sum(len(one.serialize()) for one in made) / (4 * CKKS_ELEMENTS), ""


def told(bench: Bench, ours: Encrypted, args: argparse.Namespace, sizes: dict[str, float]) -> dict[str, float]:
    """Print a round's work as ratios to masks of the same width, and return them."""
    count, slots = ours.roster.count, ours.roster.packing.slots
    members, found = args.members, dict[str, float]()
    print(f"\n{args.elements:,} parameters among {members}, ring of {args.bits} bits: a member's processor time")
    print(
        f"  Paillier, {args.key_bits:,} bits: {count:,} ciphertexts of {slots} elements each,"
        f" read by {ours.threshold} of {members} holders"
    )
    for words, size in (("an offer", ours.offer_bytes), ("an answer", ours.answer_bytes)):
        found[f"bytes of {words}"] = value = size / (4 * args.elements)
        print(f"    {'bytes of ' + words:44}{value:10.2f} of float32{value / sizes['masks']:10.1f} times masks'")
    steps = (
        ("offer, half-long exponents", 1, "offer", "offer"),
        ("offer, short exponents", 1, "offer, short", "offer"),
        (f"take {members} offers, proofs checked", members, "take", "open"),
        (f"add {members} offers", 1, "sum", "open"),
        ("~ answer, by a holder of a share", count, "answer", "open"),
        (f"check {ours.threshold} answers", ours.threshold, "check", "open"),
        (f"~ combine {ours.threshold} answers", count, "combine", "open"),
        ("unpack", 1, "unpack", "open"),
        ("~ or decrypt, by who has the whole key", count, "decrypt", "open"),
    )
    for words, times, name, below in steps:
        masked = f"masks {args.bits}: {below}"
        value = bench.ratio(lambda turn, times=times, name=name: times * bench.seconds[name][turn], masked)
        found[words] = value
        print(f"    {words:44}{times * bench.median(name):10.2f} s{value:18,.0f} times masks' {below}")
    beside = [
        sum(pair) for pair in zip(*(bench.seconds[f"masks {args.bits}: {p}"] for p in ("offer", "open")), strict=True)
    ]
    for words, chosen in (
        ("a member's whole part", (0, 2, 3, 4, 5, 6, 7)),
        ("with one key, and no proof", (0, 3, 8, 7)),
    ):
        totals = [
            sum(steps[at][1] * bench.seconds[steps[at][2]][turn] for at in chosen) for turn in range(args.repeats)
        ]
        value = found[words] = statistics.median(a / b for a, b in zip(totals, beside, strict=True))
        print(f"    {words:44}{statistics.median(totals):10.2f} s{value:18,.0f} times all of masks'")
    print(f"  masks: {sizes['masks']:.2f} of float32 in bytes, a member's whole part {statistics.median(beside):.3f} s")
    return found


def main() -> None:
    """Print ratios, and which goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--bits", type=int, default=36, help="of the ring")
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--slice", type=int, default=128, help="ciphertexts of what is multiplied up")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; integers by {'GMP' if integers.GMP else 'Python: gmpy2 is not installed'}")
    bench = Bench()
    sizes = {"masks": masking(bench, args.bits, args.elements, args.members)}
    ours = Encrypted(bench, args)
    sizes["ckks"], no_ckks = ckks(bench)
    absent = [why for why in (fate(bench, args.slice), heu(bench, args.slice, ours.plaintexts), no_ckks) if why]
    for _ in range(args.repeats):
        bench.turn()

    found = told(bench, ours, args, sizes)
    if not no_ckks:
        offer, opened = f"masks {args.bits}: offer", f"masks {args.bits}: open"
        print("  CKKS by TenSEAL, degree 8,192, moduli of 60, 40 and 60 bits: one key, no proofs, approximate")
        print(
            f"    {'bytes of an offer':44}{sizes['ckks']:10.2f} of float32"
            f"{sizes['ckks'] / sizes['masks']:10.1f} times masks'"
        )
        for name, times, below in (
            ("offer", args.elements, offer),
            ("add", args.elements * (args.members - 1), opened),
            ("decrypt", args.elements, opened),
        ):
            value = bench.ratio(
                lambda turn, name=name, times=times: times * bench.seconds[f"ckks: {name}"][turn], below
            )
            found[f"ckks: {name}"] = value
            print(f"    {'~ ' + name:44}{times * bench.median(f'ckks: {name}'):10.2f} s{value:18,.0f} times masks'")

    print(
        f"\nOperations, {args.key_bits:,} bits, a second of one core"
        f" (a key took {ours.keygen_s:.1f} s, the table for short exponents {ours.table_s:.1f} s)"
    )
    for name, (_, units) in bench.calls.items():
        if units > 1 and not name.startswith(("ckks", "combine")):
            print(f"  {name:40}{1 / bench.median(name):14,.0f}")

    print("\nGoals: a rate, to that of another")
    for what, mine, whose, goal in GOALS:
        theirs = f"{whose}: {what.split(',')[0]}"
        if theirs not in bench.seconds or args.key_bits != 2048:
            print(f"  {what:32} beside {whose:22} skipped: not installed, or keys of other sizes")
            continue
        value = bench.rate_ratio(mine, theirs)
        found[f"{mine} beside {whose}"] = value
        print(f"  {what:32} beside {whose:22}{value:8.2f}   goal {goal:g}: {'met' if value >= goal else 'MISSED'}")
    for why in absent:
        print(f"  skipped: {why}")
    if args.json:
        args.json.write_text(json.dumps({"ratios": found, "sizes": sizes, "seconds": bench.seconds}, indent=1))


if __name__ == "__main__":
    main()
