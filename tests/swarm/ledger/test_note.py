"""Signed notes: what the specification and Go's implementation publish about them, and everything that is none."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import LedgerError, Reject
from swarm.ledger import note as n
from tests.builders import identity

# c2sp.org/signed-note, "Example" under "Verifier keys".
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYj"
    "OBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

# golang.org/x/mod/sumdb/note: the keys and the note of its tests.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"

CHECKPOINT = "oncology/7f3a9c0d1e2b4a5f\n41872\nrrsCfVw90Ihx7lJXemH8gxItDRQ1J5GUNjm9TBLTaUM=\n"


def names(note: str, *keys: str) -> list[str]:
    return [key.name for key in n.parse(note.encode()).signed_by([n.Key.decode(key) for key in keys])]


def test_the_published_notes_verify_and_are_written_back_to_the_byte() -> None:
    assert names(EXAMPLE, EXAMPLE_KEY) == ["example.com/foo"]
    both = f"{TEXT}\n{PETER}{ENOCH}"
    assert names(both, PETER_KEY, ENOCH_KEY) == ["PeterNeumann", "EnochRoot"]
    assert names(both, ENOCH_KEY) == ["EnochRoot"], "a signature by an unknown key is no harm"
    for text in (EXAMPLE, both):
        assert n.parse(text.encode()).encode() == text.encode()
    for vkey in (EXAMPLE_KEY, PETER_KEY, ENOCH_KEY):
        assert n.Key.decode(vkey).encode() == vkey


def test_a_text_may_hold_empty_lines_the_last_one_ends_it() -> None:
    quasimodo = (
        "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/"
        "salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
    )
    note = n.parse(quasimodo.encode())
    assert note.text.count("\n") == 4
    assert note.text.endswith("ed è subito sera.\n")
    assert [line.name for line in note.lines] == ["quasimodo.example/salvatore"]


MALFORMED = {
    "nothing": "",
    "no signature": TEXT,
    "no empty line": TEXT + PETER,
    "nothing after the empty line": TEXT + "\n",
    "last line has no end": f"{TEXT}\n{PETER}"[:-1],
    "an empty line too many": f"{TEXT}\n{PETER}\n",
    "text after the lines": f"{TEXT}\n{PETER}more\n",
    "hyphen": f"{TEXT}\n{PETER}".replace("—", "-"),
    "no space after the dash": f"{TEXT}\n{PETER}".replace("— ", "—"),
    "two spaces after the name": f"{TEXT}\n{PETER}".replace("Neumann ", "Neumann  "),
    "no name": f"{TEXT}\n{PETER}".replace("PeterNeumann ", " "),
    "a name with a plus": f"{TEXT}\n{PETER}".replace("PeterNeumann", "Peter+Neumann"),
    "a name with a no-break space": f"{TEXT}\n{PETER}".replace("PeterNeumann", "Peter\u00a0Neumann"),
    "a name with a line separator": f"{TEXT}\n{PETER}".replace("PeterNeumann", "Peter\u2028Neumann"),
    "no signature in the line": f"{TEXT}\n— PeterNeumann\n",
    "base64 without padding": f"{TEXT}\n{PETER}".replace("=", ""),
    "base64 with stray bits": f"{TEXT}\n{PETER}".replace("JnAM=", "JnAN="),
    "base64 for URLs": f"{TEXT}\n{PETER}".replace("/", "_"),
    "only an id": f"{TEXT}\n— PeterNeumann x08gow==\n",
    "a carriage return": f"{TEXT}\n{PETER}".replace("\n", "\r\n"),
    "a tab": f"{TEXT}\t\n\n{PETER}",
    "a null": f"{TEXT}\0\n\n{PETER}",
}


@pytest.mark.parametrize("note", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(note: str) -> None:
    with pytest.raises(Reject, match="couldn't read"):
        n.parse(note.encode())


def test_bytes_that_are_no_text_and_notes_without_end_are_refused() -> None:
    with pytest.raises(Reject, match="UTF-8"):
        n.parse(f"{TEXT}\n".encode() + b"\xe2\x80 Peter x08go/ZJ\n")
    with pytest.raises(Reject, match="1000000 are possible"):
        n.parse(b"a" * 1_000_001)


def test_a_hundred_signature_lines_are_read_and_one_more_is_not() -> None:
    assert len(n.parse(f"{TEXT}\n{PETER * 100}".encode()).lines) == 100
    with pytest.raises(Reject, match="101 signature lines"):
        n.parse(f"{TEXT}\n{PETER * 101}".encode())


def test_a_line_that_is_there_twice_counts_once() -> None:
    assert names(f"{TEXT}\n{PETER}{ENOCH}{PETER}", PETER_KEY, ENOCH_KEY) == ["PeterNeumann", "EnochRoot"]


def test_a_bad_signature_of_a_known_key_voids_the_note_and_one_of_a_stranger_does_not() -> None:
    forged = PETER.replace("ZJkuBS", "ZJkuBT")
    assert names(f"{TEXT}\n{forged}{ENOCH}", ENOCH_KEY) == ["EnochRoot"]
    for note in (f"{TEXT}\n{forged}{ENOCH}", f"{TEXT}\n{PETER}{forged}", f"{TEXT}!\n\n{PETER}"):
        with pytest.raises(LedgerError, match="PeterNeumann does not verify"):
            names(note, PETER_KEY, ENOCH_KEY)


def test_a_line_with_a_known_name_and_another_id_or_the_other_way_round_is_a_strangers() -> None:
    other_id = "— PeterNeumann " + n.to_base64(bytes(4) + bytes(64)) + "\n"
    other_name = PETER.replace("PeterNeumann", "PeterNewman")
    assert names(f"{TEXT}\n{other_id}{other_name}{PETER}", PETER_KEY) == ["PeterNeumann"]
    assert names(f"{TEXT}\n{other_id}{other_name}", PETER_KEY) == []


BAD_KEYS = {
    # From the manglings of Go's tests: another length, another algorithm, each with an id to match.
    "too long": "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
    "another id": PETER_KEY.replace("c74f20a3", "c74f20a4"),
    "upper case": PETER_KEY.replace("c74f20a3", "C74F20A3"),
    "short id": PETER_KEY.replace("c74f20a3", "c74f20"),
    "a sign in the id": PETER_KEY.replace("c74f20a3", "-74f20a3"),
    "no name": PETER_KEY.replace("PeterNeumann", ""),
    "a space in the name": PETER_KEY.replace("PeterNeumann", "Peter Neumann"),
    "two parts": "PeterNeumann+c74f20a3",
    "no padding": EXAMPLE_KEY + "=",
    "empty": "",
    "a point of small order": n.Key("a", n.key_id("a", 1, bytes(32)), 1, bytes(32)).encode(),
}


@pytest.mark.parametrize("vkey", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_verifier_key_that_is_not_exactly_one_is_refused(vkey: str) -> None:
    with pytest.raises(Reject, match="couldn't read"):
        n.Key.decode(vkey)


def test_every_piece_of_a_verifier_key_but_the_whole_is_refused() -> None:
    for start in range(len(PETER_KEY)):
        for end in range(start, len(PETER_KEY) + 1):
            piece = PETER_KEY[start:end]
            # A shorter name makes another id, so no piece is a key of somebody else.
            if piece != PETER_KEY:
                with pytest.raises(Reject):
                    n.Key.decode(piece)


def test_a_key_of_an_unknown_type_is_carried_and_never_counted() -> None:
    vkey = f"pq.example+{n.key_id('pq.example', 6, bytes(1312)).hex()}+{n.to_base64(bytes((6,)) + bytes(1312))}"
    key = n.Key.decode(vkey)
    assert (key.encode(), key.supported) == (vkey, False)
    line = n.Line(key.name, key.id, bytes(2428))
    note = n.parse(n.Note(TEXT, (line,)).encode() + PETER.encode())
    assert [k.name for k in note.signed_by([key, n.Key.decode(PETER_KEY)])] == ["PeterNeumann"]
    assert not n.verify(key, TEXT, line.signature)


def test_a_cosignature_signs_the_time_and_the_text() -> None:
    secret = identity(1).cosign_key
    key = n.Key.of("oncology/7f3a9c0d1e2b4a5f/site-1", n.COSIGNATURE, secret.public)
    line = n.cosign(key, CHECKPOINT, 1_679_315_147, secret.sign)
    assert n.cosigned(CHECKPOINT, 1_679_315_147) == b"cosignature/v1\ntime 1679315147\n" + CHECKPOINT.encode()
    assert (len(line.signature), line.time_s) == (72, 1_679_315_147)
    assert n.verify(key, CHECKPOINT, line.signature)
    later = (1_679_315_148).to_bytes(8, "big") + line.signature[8:]
    assert not n.verify(key, CHECKPOINT, later)
    assert not n.verify(key, CHECKPOINT + "more\n", line.signature)
    for short in range(72):
        assert not n.verify(key, CHECKPOINT, line.signature[:short])
    assert not n.verify(key, CHECKPOINT, line.signature + b"\0")


def test_of_two_cosignatures_of_one_key_the_first_counts() -> None:
    secret = identity(1).cosign_key
    key = n.Key.of("a", n.COSIGNATURE, secret.public)
    lines = tuple(n.cosign(key, CHECKPOINT, time_s, secret.sign) for time_s in (200, 100, 300))
    assert n.Note(CHECKPOINT, lines).signed_by([key])[key].time_s == 200


def test_a_time_beyond_63_bits_is_no_cosignature() -> None:
    secret = identity(1).cosign_key
    key = n.Key.of("a", n.COSIGNATURE, secret.public)
    for time_s, good in ((2**63 - 1, True), (2**63, False)):
        assert n.verify(key, CHECKPOINT, n.cosign(key, CHECKPOINT, time_s, secret.sign).signature) is good


def test_the_two_kinds_of_one_key_have_two_ids_and_never_stand_for_each_other() -> None:
    secret = identity(2).cosign_key
    plain, timed = (n.Key.of("a/b", type_, secret.public) for type_ in (n.ED25519, n.COSIGNATURE))
    assert plain.id != timed.id
    signed, cosigned = n.sign(plain, CHECKPOINT, secret.sign), n.cosign(timed, CHECKPOINT, 7, secret.sign)
    assert n.verify(plain, CHECKPOINT, signed.signature)
    assert not n.verify(timed, CHECKPOINT, signed.signature)
    assert not n.verify(plain, CHECKPOINT, cosigned.signature)
    assert not n.verify(plain, CHECKPOINT, cosigned.signature[8:])


@given(st.integers(0, 2**64))
def test_a_number_has_one_spelling(value: int) -> None:
    assert n.from_decimal(str(value), "it", 2**64) == value
    for text in (f"0{value}", f"+{value}", f" {value}", f"{value}\n", f"-{value}", f"{value}_0", f"{value}\u0661", ""):
        with pytest.raises(Reject):
            n.from_decimal(text, "it", 2**64)
    if value:
        with pytest.raises(Reject, match="in range"):
            n.from_decimal(str(value), "it", value - 1)


def test_a_number_of_a_million_digits_is_refused_at_once() -> None:
    with pytest.raises(Reject):
        n.from_decimal("9" * 1_000_000, "it", 2**63 - 1)


@given(st.binary(min_size=1, max_size=80), st.integers(0, 200), st.sampled_from("AZaz09+/=-_ \n"))
def test_base64_has_one_spelling(data: bytes, at: int, letter: str) -> None:
    text = n.to_base64(data)
    assert (text, n.from_base64(text, "it")) == (base64.b64encode(data).decode(), data)
    at %= len(text)
    changed = text[:at] + letter + text[at + 1 :]
    if changed != text:
        with contextlib.suppress(Reject):
            assert n.from_base64(changed, "it") != data


@given(st.binary(max_size=300))
def test_whatever_is_read_is_written_back_and_nothing_else_escapes(noise: bytes) -> None:
    for data in (noise, TEXT.encode() + b"\n" + noise, f"{TEXT}\n{PETER}".encode() + noise):
        try:
            note = n.parse(data)
        except Reject:
            continue
        assert note.encode() == data


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_noticed_or_is_in_a_strangers_line(at: int, value: int) -> None:
    data = bytearray(f"{TEXT}\n{PETER}".encode())
    at %= len(data)
    if data[at] == value:
        return
    data[at] = value
    try:
        signers = n.parse(bytes(data)).signed_by([n.Key.decode(PETER_KEY)])
    except (Reject, LedgerError):
        return
    assert not signers
