"""The chance that codecs use: numpy's Philox held to its authors' numbers, and what is made of its words."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.mixing.compress.noise import KEY_BYTES, Noise, noise_key


def test_numpys_philox_gives_the_authors_known_answers() -> None:
    # Random123's kat_vectors for philox4x64-10. numpy advances its counter before it uses it, so it starts one below.
    zero = np.random.Philox(key=0, counter=2**256 - 1).random_raw(4)
    assert [hex(word) for word in zero] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]
    ones = np.random.Philox(key=2**128 - 1, counter=2**256 - 2).random_raw(4)
    assert [hex(word) for word in ones] == [
        "0x87b092c3013fe90b",
        "0x438c3c67be8d0224",
        "0x9cc7d7c69cd777b6",
        "0xa09caebf594f0ba0",
    ]


def test_a_key_is_pinned_for_ever() -> None:
    # A frozen value: another one would give every peer that is upgraded in mid-run other bytes for the same round.
    key = noise_key(b"seed", 3, 1)
    assert key.hex() == "ad4cd8450a1beab1200f091d0d79ab9b"
    assert [int(word) for word in Noise(key).words(2)] == [12360331129918516962, 7435447075797880468]


def test_what_a_key_is_for_tells_keys_apart() -> None:
    keys = [
        noise_key(b"s", 1, 2),
        noise_key(b"s", 2, 1),
        noise_key(b"s", 1),
        noise_key(b"t", 1, 2),
        noise_key(b"s" + bytes(8), 2),
    ]
    assert len({*keys}) == len(keys)
    assert all(len(key) == KEY_BYTES for key in keys)


def test_fractions_are_uniform_and_never_zero_or_one() -> None:
    out = np.empty(1 << 16, np.float32)
    fractions = Noise(noise_key(b"u")).fractions(out.size, out)
    assert fractions.min() >= 2.0**-17
    assert fractions.max() <= 1 - 2.0**-17
    assert fractions.mean() == pytest.approx(0.5, abs=0.005)
    assert np.histogram(fractions, 16, (0, 1))[0] == pytest.approx(np.full(16, 4096), rel=0.1)


def test_fractions_do_not_depend_on_how_many_are_asked_for_at_a_time() -> None:
    whole, parts = np.empty(64, np.float32), np.empty(64, np.float32)
    Noise(noise_key(b"p")).fractions(64, whole)
    stream = Noise(noise_key(b"p"))
    for start in range(0, 64, 16):
        stream.fractions(16, parts[start:])
    assert np.array_equal(whole, parts)
