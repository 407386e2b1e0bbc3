"""Every codec: bytes worked out by hand, the contraction it promises, and nothing but its own bytes accepted."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import Reject, UsageError
from swarm.mixing.compress import dense, forms, sparse
from swarm.mixing.compress.forms import (
    FORMS,
    Spec,
    contraction,
    decode,
    encode,
    encode_into,
    encoded_bytes,
    form_of,
    parse,
)
from swarm.mixing.compress.noise import Noise, noise_key
from swarm.vector import Vector

NAMES = ["f32", "bf16", "int8", "int4", "sign", "topk:100", "topk:10:f32", "randk:100"]
LENGTHS = [0, 1, 2, 7, 63, 64, 65, 127, 129, 1000, 1023, 1025, dense.BLOCK_ELEMENTS, dense.BLOCK_ELEMENTS + 5]
KEY = noise_key(b"a test")


def body(name: str, *values: float) -> bytes:
    return encode(np.float32(values), parse(name))[8:]


def there_and_back(vector: Vector, name: str, key: bytes | None = KEY) -> Vector:
    spec = parse(name)
    if spec.name in ("int8", "int4"):
        key = None
    return decode(encode(vector, spec, key=key), vector.size, spec=spec)


def gaussian(elements: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).normal(size=elements).astype(np.float32)


# --- bytes by hand ------------------------------------------------------------------------------------------------


def test_the_header_by_hand() -> None:
    assert encode(np.float32([]), parse("int8")) == b"swc\x01\x03\x00\x00\x00"
    assert encode(np.float32([]), parse("topk:300:f32")) == b"swc\x01\x06\x2c\x01\x01"


def test_float32_and_bfloat16_by_hand() -> None:
    assert body("f32", 1.5, -2) == struct.pack("<2f", 1.5, -2)
    # 1 + 2**-8 is halfway between 1 and 1 + 2**-7 and goes to the even one; so does 1 + 3 * 2**-8, upwards.
    assert body("bf16", 1, 1 + 2**-8, 1 + 3 * 2**-8, -1) == struct.pack("<4H", 0x3F80, 0x3F80, 0x3F82, 0xBF80)
    # A little over halfway, and a carry that runs into the exponent: the float32 below 2 becomes 2.
    assert body("bf16", 1 + 2**-8 + 2**-23, 2 - 2**-23) == struct.pack("<2H", 0x3F81, 0x4000)


def test_eight_bits_by_hand() -> None:
    # Scale 127 / 127 = 1, and halves go to the even level.
    assert body("int8", 127, -3, 0.5, 1.5, -127) == struct.pack("<f5b", 1, 127, -3, 0, 2, -127)


def test_four_bits_by_hand() -> None:
    # Scale 14 / 7 = 2: levels 7, -7, 1, 0 (a half goes to even), 0; plus 8; two a byte, the odd end filled with an 8.
    assert body("int4", 14, -14, 2, 1, 0) == struct.pack("<f", 2) + bytes([0x1F, 0x89, 0x88])
    assert there_and_back(np.float32([14, -14, 2, 1, 0]), "int4").tolist() == [14, -14, 2, 0, 0]


def test_one_bit_by_hand() -> None:
    # The mean magnitude of 1, -2, 0, -5 is 2: bits 0, 1, 0, 1 from the lowest.
    assert body("sign", 1, -2, 0, -5) == struct.pack("<HB", 0x4000, 0b1010)
    assert there_and_back(np.float32([1, -2, 0, -5]), "sign").tolist() == [2, -2, 2, -2]


def test_the_largest_elements_by_hand() -> None:
    # Three of ten. A mask is two bytes and so shorter than three gaps; ties go to the lower index.
    values = [0, 5, 0, 0, -5, 0, 5, 0, 0, 5]
    assert body("topk:300", *values) == bytes([0b0101_0010, 0]) + struct.pack("<3H", 0x40A0, 0xC0A0, 0x40A0)
    # Two of two thousand, at 3 and 1999: gaps 3 and 1995 = 0x7CB, in LEB128 3 and 0xCB 0x0F.
    long = np.zeros(2000, np.float32)
    long[[3, 1999]] = 1, -2
    assert encode(long, parse("topk:1"))[8:] == bytes([3, 0xCB, 0x0F]) + struct.pack("<2H", 0x3F80, 0xC000)


# --- for every codec ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("elements", LENGTHS)
def test_what_is_decoded_is_a_codeword_of_the_stated_size(name: str, elements: int) -> None:
    spec, vector = parse(name), gaussian(elements)
    message = encode(vector, spec, key=KEY if spec.name == "randk" else None)
    assert form_of(message) == spec
    assert len(message) <= encoded_bytes(spec, elements)
    if spec.name != "topk":
        assert len(message) == encoded_bytes(spec, elements)
    decoded = decode(message, elements, spec=spec)
    assert decoded.shape == (elements,)
    if spec.name in ("bf16", "f32", "topk", "randk"):  # the others' scales may differ in the last place
        assert np.array_equal(decode(encode(decoded, spec, key=KEY), elements), decoded)


FROZEN = {
    "f32": "b4e483b15c4cf03d",
    "bf16": "1f814f30ee618459",
    "int8": "1ed4340a9bf4d4e4",
    "int4": "630183b0905d2a33",
    "sign": "ae7b1cbde0d75ce3",
    "topk:100": "2286c106150e0064",
    "topk:10:f32": "b55aed39e8bb7b0f",
    "randk:100": "24ba4574b29e722a",
}
"""SHA-256, its first 16 digits, of what each codec makes of `everywhere()`: on every processor, in every version."""


def everywhere() -> Vector:
    """40,000 elements of many magnitudes, made of integers alone so that no library has a say in them."""
    words = Noise(noise_key(b"everywhere")).words(40_000)
    whole = (words & np.uint64(0xFFFFFF)).astype(np.float32) - np.float32(2**23)
    return np.ldexp(whole, -((words >> np.uint64(24)) % np.uint64(32)).astype(np.int32))


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_frozen(name: str) -> None:
    key = KEY if name[:4] in ("int8", "int4", "rand") else None
    message = encode(everywhere(), parse(name), key=key)
    assert hashlib.sha256(message).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_buffer_that_exists_takes_the_same_bytes(name: str) -> None:
    spec, vector = parse(name), gaussian(300)
    buffer = np.full(encoded_bytes(spec, 300) + 3, 7, np.uint8)
    size = encode_into(buffer, vector, spec, key=KEY)
    assert buffer[:size].tobytes() == encode(vector, spec, key=KEY)
    assert set(buffer[size:].tolist()) == {7}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_vector_gives_the_same_bytes_wherever_the_blocks_fall(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, vector = parse(name), gaussian(5000)
    message, decoded = encode(vector, spec, key=KEY), there_and_back(vector, name)
    monkeypatch.setattr(dense, "BLOCK_ELEMENTS", 1024)
    assert encode(vector, spec, key=KEY) == message
    assert np.array_equal(there_and_back(vector, name), decoded)


VALUES = st.one_of(st.floats(-8, 8, width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-60, -(2.0**60), 1e-30]))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("randk")])
@given(values=st.lists(VALUES, min_size=1, max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_vector_is_changed_by_more_than_the_contraction_allows(name: str, values: list[float]) -> None:
    vector = np.float32(values)
    lost = np.sum((there_and_back(vector, name).astype(np.float64) - vector) ** 2)
    whole = np.sum(vector.astype(np.float64) ** 2)
    tiny = vector.size * dense.MAGNITUDE_MIN**2
    assert lost <= (1 - contraction(parse(name), vector.size) + 1e-6) * whole + tiny


def test_the_worst_vectors_of_the_proofs_meet_their_contraction() -> None:
    for name, per, levels in (("int8", forms.INT8_RUN, 127), ("int4", forms.INT4_RUN, 7)):
        vector = np.full(per, 0.5 / levels * 0.9999, np.float32)
        vector[0] = 1
        lost = np.sum((there_and_back(vector, name).astype(np.float64) - vector) ** 2) / np.sum(
            vector.astype(np.float64) ** 2
        )
        assert lost == pytest.approx(1 - contraction(parse(name), per), rel=1e-3)
    spike = np.zeros(forms.SIGN_RUN, np.float32)
    spike[5] = 1
    assert np.sum((there_and_back(spike, "sign") - spike) ** 2) == pytest.approx(
        1 - contraction(parse("sign"), spike.size)
    )
    level = np.ones(1000, np.float32)
    assert np.sum((there_and_back(level, "topk:100") - level) ** 2) == pytest.approx(900)


def test_random_k_contracts_in_expectation_and_gives_every_element_its_chance() -> None:
    vector, spec = gaussian(1003), parse("randk:100")
    trials = np.array([decode(encode(vector, spec, key=noise_key(b"k", i)), vector.size) for i in range(2000)])
    lost = np.mean(np.sum((trials.astype(np.float64) - vector) ** 2, axis=1)) / np.sum(vector.astype(np.float64) ** 2)
    assert lost <= 1 - contraction(spec, vector.size) + 0.005
    assert (trials != 0).sum(axis=1).max() == 101
    chances = (trials != 0).mean(axis=0)
    assert chances.min() > 0.06
    assert chances.max() < 0.15


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rounding_by_chance_has_no_bias_and_rounding_to_nearest_has_the_smaller_error(name: str) -> None:
    vector, spec = gaussian(256), parse(name)
    trials = np.array([decode(encode(vector, spec, key=noise_key(b"r", i)), 256) for i in range(3000)], np.float64)
    step = np.abs(vector).max() / (127 if name == "int8" else 7)
    assert np.abs(trials.mean(axis=0) - vector).max() < 5 * step / 2 / np.sqrt(3000)
    nearest = np.sum((there_and_back(vector, name) - vector) ** 2)
    assert np.mean(np.sum((trials - vector) ** 2, axis=1)) > 1.5 * nearest


class Highest:
    """Chance at its most extreme: every element is pushed up as far as it can be."""

    def __init__(self, key: bytes) -> None: ...

    def fractions(self, count: int, out: Vector) -> Vector:
        out[:count] = 1 - 2.0**-17
        return out[:count]


@pytest.mark.parametrize(("name", "levels"), [("int8", 127), ("int4", 7)])
def test_rounding_by_chance_never_leaves_the_levels(name: str, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A largest element whose quotient by its own scale is rounded to just over the highest level: one more would be -128.
    candidates = np.random.default_rng(0).uniform(1, 2, 4000).astype(np.float32)
    over = candidates[candidates * (levels / candidates.astype(np.float64)).astype(np.float32) > levels]
    assert over.size
    monkeypatch.setattr(dense, "Noise", Highest)
    for largest in over[:20]:
        decoded = decode(encode(np.float32([largest, 0]), parse(name), key=KEY), 2)
        assert decoded[0] == pytest.approx(largest)


# --- what may not be sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "is not a finite"), (float("-inf"), "is not a finite"), (1e20, "is over")]
)
def test_what_is_no_usable_number_is_refused_in_words(name: str, value: float, words: str) -> None:
    vector = np.zeros(dense.BLOCK_ELEMENTS + 9, np.float32)
    vector[-2] = value
    with pytest.raises(UsageError, match=f"element {vector.size - 2} {words}"):
        encode(vector, parse(name), key=KEY)


def test_random_k_without_a_key_is_refused() -> None:
    with pytest.raises(UsageError, match="no key"):
        encode(gaussian(5), parse("randk:100"))


# --- what may not be believed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_garbage_is_refused_and_nothing_else_happens(name: str, data: st.DataObject) -> None:
    elements = data.draw(st.integers(1, 300))
    spec = parse(name)
    junk = data.draw(st.binary(max_size=encoded_bytes(spec, elements) + 2))
    try:
        decoded = decode(spec.header + junk, elements)
    except Reject:
        return
    assert decoded.shape == (elements,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_is_refused_or_another_vectors_message(name: str, data: st.DataObject) -> None:
    elements = data.draw(st.integers(1, 300))
    message = bytearray(encode(gaussian(elements), parse(name), key=KEY if name.startswith("randk") else None))
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(message, elements, spec=parse(name))
    except Reject:
        return
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_message_of_another_length_is_refused_before_anything_is_allocated(name: str) -> None:
    message = encode(gaussian(100), parse(name), key=KEY)
    for broken in (message[:-1], message[:8], message[:5], b"", message + bytes(1000)):
        with pytest.raises(Reject, match="couldn't decode a compressed vector"):
            decode(broken, 100)
    with pytest.raises(Reject, match="its body has"):
        decode(message, 2**33)  # 32 GiB, if it were believed


@pytest.mark.parametrize(
    ("name", "elements", "broken", "words"),
    [
        ("f32", 1, struct.pack("<f", float("nan")), "not a finite number"),
        ("bf16", 1, struct.pack("<H", 0x7F80), "not a finite number"),
        ("int8", 1, struct.pack("<fb", 1, -128), "below the lowest level"),
        ("int8", 1, struct.pack("<fb", 0, 1), "without a scale"),
        ("int8", 1, struct.pack("<fb", -1, 1), "a scale is not"),
        ("int8", 1, struct.pack("<fb", -0.0, 0), "a scale is not"),
        ("int8", 1, struct.pack("<fb", float("inf"), 1), "a scale is not"),
        ("int8", 1, struct.pack("<fb", 1e-30, 1), "a scale is not"),
        ("int4", 2, struct.pack("<fB", 1, 0x80), "below the lowest level"),
        ("int4", 1, struct.pack("<fB", 1, 0x98), "after its last element"),
        ("int4", 1, struct.pack("<fB", 0, 0x89), "without a scale"),
        ("sign", 3, struct.pack("<HB", 0x3F80, 0b1000), "after its last element"),
        ("sign", 3, struct.pack("<HB", 0, 0b100), "without a scale"),
        ("sign", 3, struct.pack("<HB", 0x7FC0, 0), "a scale is not"),
        ("topk:300", 10, bytes([3, 0]) + bytes(6), "does not name 3 of 10"),
        ("topk:300", 10, bytes([3, 128]) + bytes(6), "does not name 3 of 10"),
        ("topk:1", 1000, bytes([0xE8, 7]) + bytes(2), "leads out of it"),
        ("topk:1", 1000, bytes([0x83, 0]) + bytes(2), "shortest form"),
        ("topk:1", 1000, bytes([1, 1]) + bytes(2), "not 1 whole numbers"),
        ("topk:1", 1000, bytes([0x81, 0x81]) + bytes(2), "not 1 whole numbers"),
        ("topk:1", 1000, bytes([1]) + struct.pack("<H", 0x7F80), "not a finite number"),
        ("topk:500", 16, bytes([0] * 8) + bytes(16), "its body has"),
        ("randk:100", 10, bytes(16) + struct.pack("<H", 0xFF80), "not a finite number"),
    ],
)
def test_what_no_encoder_writes_is_refused(name: str, elements: int, broken: bytes, words: str) -> None:
    with pytest.raises(Reject, match=words):
        decode(parse(name).header + broken, elements)


def test_indices_in_their_longer_form_are_refused() -> None:
    # 120 of 1,000, the first ones: 120 gaps of one byte, where a mask takes 125.
    mask = bytes([0xFF] * 15 + [0] * 110) + struct.pack("<H", 0x3F80) * 120
    with pytest.raises(Reject, match="shorter form"):
        decode(parse("topk:120").header + mask, 1000)
    # Every eighth of 1,000: 125 gaps of one byte are no shorter than a mask.
    gaps = bytes([0] + [7] * 124) + struct.pack("<H", 0x3F80) * 125
    with pytest.raises(Reject, match="its mask does not name"):
        decode(parse("topk:125").header + gaps, 1000)


def test_gaps_that_overflow_64_bits_are_refused() -> None:
    where = np.frombuffer(bytes([0xFF, 0xFF, 0xFF, 0xFF, 0x7F]) * 3, np.uint8)
    with pytest.raises(Reject, match="leads out of it"):
        sparse._read_gaps(where, 3, 2**33)


@pytest.mark.parametrize(
    "header",
    [
        b"swc\x02\x03\0\0\0",
        b"swc\x01\x09\0\0\0",
        b"swc\x01\x03\x01\0\0",
        b"swc\x01\x03\0\0\x01",
        b"swc\x01\x06\0\0\0",
        b"swc\x01\x06\x01\0\x02",
        b"swc\x01\x06\xff\xff\0",
    ],
)
def test_a_header_that_names_no_codec_is_refused(header: bytes) -> None:
    with pytest.raises(Reject, match="couldn't decode a compressed vector"):
        form_of(header)


def test_a_message_of_another_codec_than_agreed_is_refused() -> None:
    with pytest.raises(Reject, match="it came as f32, agreed was int8"):
        decode(encode(gaussian(3), parse("f32")), 3, spec=parse("int8"))


# --- the k largest ------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2**32), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_the_kept_are_the_largest_and_of_equals_the_first(elements: int, permille: int, seed: int, kinds: int) -> None:
    values = np.random.default_rng(seed).integers(-kinds, kinds + 1, elements).astype(np.float32)
    codec = sparse.TopK(permille, wide=True)
    order = sorted(range(elements), key=lambda i: (-abs(values[i]), i))
    indices, chosen = codec._largest(values)
    assert indices.tolist() == sorted(order[: codec.kept(elements)])
    assert np.array_equal(chosen, values[indices])


def test_gaps_of_every_length_survive() -> None:
    gaps = np.array([0, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32], np.int64)
    where = sparse._write_gaps(gaps, sparse._gap_sizes(gaps))
    assert where.size == 1 + 1 + 2 + 2 + 3 + 3 + 4 + 4 + 5 + 5
    assert np.array_equal(sparse._read_gaps(where, gaps.size, 2**33), np.cumsum(gaps + 1) - 1)


@pytest.mark.parametrize("permille", [1, 5, 30, 100, 200, 500])
def test_the_stated_size_of_a_top_k_message_is_a_bound_that_is_nearly_met(permille: int) -> None:
    spec, elements = parse(f"topk:{permille}"), 40_000
    even = np.zeros(elements, np.float32)
    even[:: 1000 // permille] = 1
    assert 0.8 * encoded_bytes(spec, elements) < len(encode(even, spec)) <= encoded_bytes(spec, elements)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_name_and_its_spec_are_the_same_thing(name: str) -> None:
    assert str(parse(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int9",
        "int8:5",
        "topk",
        "topk:",
        "topk:0",
        "topk:501",
        "topk:05",
        "topk:1e2",
        "topk:10:bf16",
        "randk:10:f32",
        "topk:99999999999",
    ],
)
def test_a_name_that_is_none_is_refused_with_what_to_write(name: str) -> None:
    with pytest.raises(UsageError, match="couldn't choose a compression") as caught:
        parse(name)
    assert caught.value.hint.startswith("choose")


def test_every_form_is_described_and_numbered_apart() -> None:
    assert list(FORMS) == ["f32", "bf16", "int8", "int4", "sign", "topk", "randk"]
    assert sorted({form.number for form in FORMS.values()}) == list(range(1, 8))
    assert all(len(form.description) > 20 for form in FORMS.values())


def test_a_spec_that_parse_never_made_is_a_programmers_mistake() -> None:
    with pytest.raises(AssertionError, match="no codec zip"):
        Spec("zip").codec  # noqa: B018
