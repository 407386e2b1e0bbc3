"""TOML at a price that follows from its length: as the standard library reads it, but for what no file of ours has."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.toml import CHARACTERS_MAX, PARTS_MAX, loads


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(0, 99) | st.booleans(), max_size=5))
def test_it_reads_what_the_standard_library_reads(values: dict[str, int]) -> None:
    text = "[a.b]\n" + "".join(f"{key} = {str(value).lower()}\n" for key, value in values.items())
    assert loads(text) == tomllib.loads(text)


def test_a_key_may_have_as_many_words_as_a_nest_may_be_deep() -> None:
    assert loads(".".join("a" * (PARTS_MAX - 2)) + " = 1")
    for deep in (".".join("a" * (PARTS_MAX + 1)) + " = 1", "a=1\n[" + " . ".join(['"b"'] * 99) + "]"):
        with pytest.raises(ValueError, match="joined by dots"):
            loads(deep)
    with pytest.raises(ValueError, match="at line 2"):
        loads("a = 1\n" + "b." * 40 + "c = 1")


@pytest.mark.parametrize(
    "nest", ["a = " + "[" * 40 + "]" * 40, "a = " + "[" * 9_000, "a" + ".a" * 20 + " = {b" + ".b" * 20 + "=1}"]
)
def test_a_deep_nest_is_refused(nest: str) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        loads(nest)


def test_what_is_too_long_or_has_no_end_is_refused() -> None:
    with pytest.raises(ValueError, match="characters"):
        loads("#" * (CHARACTERS_MAX + 1))
    with pytest.raises(ValueError, match="4300"):
        loads("a = " + "9" * 5_000)
    with pytest.raises(ValueError):
        loads("a =")


@pytest.mark.parametrize("part", ["x", "a.", "a ", '"', "'\"", '"a".'])
def test_looking_for_long_keys_is_linear(part: str) -> None:
    # Two million characters: what looks at each of them from each of them does not end within a test's time.
    with pytest.raises(ValueError):
        loads(part * (2_000_000 // len(part)) + "\n")
