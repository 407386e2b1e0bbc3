"""What fuzzing has found, each as the input that showed it: mended, and read or refused in words since."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from tests.fuzz.guard import row, watched
from tests.fuzz.parsers import CLAIM, RESULT, _cards, _npy

DOTS = b".a" * 3_000
NINES = b"9" * 5_000


def saved(**arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{name: np.asarray(array) for name, array in arrays.items()})
    return out.getvalue()


def digits(labels: object) -> bytes:
    x = np.ones((3, 2))
    return saved(x_train=x, y_train=labels, x_test=x, y_test=labels)


def announced() -> bytes:
    """3,000 headers in a row, each of which only says what the next one is called."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return (info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 3_000


FOUND = {
    "settings, a nest": ("settings", b"a = " + b"[" * 5_000),
    "settings, a number without end": ("settings", b"a = " + NINES),
    "settings, a key of 3,000 words": ("settings", b"[site]\nname" + DOTS + b" = 1"),
    "scenario, a nest": ("scenario", b"nodes = " + b"[" * 3_000),
    "scenario, a number without end": ("scenario", b"nodes = " + NINES),
    "scenario, a key of 3,000 words": ("scenario", b"nodes" + DOTS + b" = 1"),
    "charter, a key of 3,000 words takes 37 MB": ("charter", b"[swarm]\nname" + DOTS + b" = 1\n"),
    "charter, a table of 3,000 words": ("charter", b"[swarm" + DOTS + b"]\n"),
    "charter, a name that is a nest": (
        "charter",
        _cards()[0].replace(b'name = "test-swarm"', b"name" + DOTS + b" = 1"),
    ),
    "table, lines of an old Mac": ("table", b"0,1\r1,0\r"),
    "table, an endless field": ("table", b"a," + b"b" * 200_000),
    "backup, headers that announce headers": ("backup", announced()),
    "result, a nest": ("result", b'{"scenario":' + b'{"a":' * 100_000),
    "result, not UTF-8": ("result", RESULT.replace(b'"s"', b'"\xff"')),
    "arrays, no archive": ("arrays", b"PK\x03\x04"),
    "arrays, 745 GiB in 200 bytes": ("arrays", _npy(CLAIM)),
    "arrays, no rows": ("arrays", saved(x=1, y=1)),
    "arrays, words": ("arrays", saved(x=["a"] * 12, y=[0, 1] * 6)),
    "arrays, too large for float32": ("arrays", saved(x=np.full((12, 1), 1e300), y=[0, 1] * 6)),
    "arrays, nothing": ("arrays", saved(x=np.ones(0), y=np.ones(0))),
    "digits, a label of 10**15": ("digits", digits([10**15, 1, 1])),
    "digits, no labels": ("digits", digits([])),
    "digits, labels that are words": ("digits", digits(["a", "b", "c"])),
    "digits, labels below zero": ("digits", digits([-1, -2, -3])),
    "rows, an endless field": ("rows", b"a,b\n1," + b"b" * 200_000 + b"\n"),
    "rows, one long label among many": ("rows", b"a,b\n" + b"1,x\n" * 600 + b"2," + b"y" * 9_000 + b"\n"),
    "rows, too large to compute with": ("rows", b"a,b\n" + b"1e300,x\n" * 9 + b"-1e308,y\n" * 5),
}


READ = {"table, lines of an old Mac", "rows, one long label among many"}
"""What is as it should be; all else is refused."""


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_is_read_or_refused(found: str) -> None:
    name, data = FOUND[found]
    refused = watched(row(name), data)
    # Two readers try what a charter may be, and their row keeps to itself what either says.
    assert bool(refused) == (found not in READ and name != "charter")
