"""The codecs by name, and the one way a compressed vector is written.

::

    header   b"swc" | version 1 | codec | permille (u16) | values (u8: 0 bf16, 1 float32)    8 bytes, little-endian
    body     as its codec has it

The header says which codec wrote the body, so a message explains itself; how many elements there are it does not say:
whoever decodes knows the model. From those two the size of the body follows (for top-k: its bounds) and is checked
before anything is allocated. What decodes is finite, within `MAGNITUDE_MAX` and in the one form an encoder writes.
A codec that keeps less than everything is meant for a *difference*, with memory: `swarm.mixing.compress.choco` where
models are exchanged, `swarm.mixing.compress.residual` where updates are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError
from swarm.machine import Buffer
from swarm.mixing.compress.dense import BFloat16, Float32, Quantised, Sign
from swarm.mixing.compress.noise import KEY_BYTES
from swarm.mixing.compress.sparse import RandomK, TopK
from swarm.vector import Vector

MAGIC = b"swc\x01"
HEADER = struct.Struct("<4sBHB")

PERMILLE_MAX = 500
"""Past half of the elements the values alone outweigh 8-bit codes of them all."""

INT8_RUN = 1024
INT4_RUN = 128
SIGN_RUN = 64
"""Elements to a scale. Longer runs cost fewer bytes and more error. 8 bits can spare it. With 4 bits, 128 keep the
worst vector's delta at 0.6 (1,024: 0.16) for 0.25 bits an element. One bit needs a scale that fits its neighbourhood:
with 64, CHOCO agrees to 1e-4 in 370 exchanges, with 128 in 640, with 1,024 not in 2,500."""

Codec: TypeAlias = Float32 | BFloat16 | Quantised | Sign | TopK | RandomK


@dataclass(frozen=True, slots=True)
class Form:
    """What a charter may choose from: the codec's number in a header and a sentence about it."""

    number: int
    description: str


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "f32": Form(1, "as it is: 4 bytes an element, nothing lost"),
        "bf16": Form(2, "half the bytes and 8 significant bits: the first thing to try on a slow link"),
        "int8": Form(3, "a quarter of the bytes: whole numbers to a scale for each 1,024 elements"),
        "int4": Form(4, "an eighth of the bytes: 15 levels to a scale for each 128 elements"),
        "sign": Form(5, "one bit an element and a mean magnitude for each 64: only with memory, and slowly"),
        "topk": Form(6, "the largest elements, as topk:<permille> of all (topk:<permille>:f32 to keep them whole)"),
        "randk": Form(
            7, "elements by chance, as randk:<permille> of all: cheaper to choose than the largest, and worse"
        ),
    }
)
"""By the name the charter gives, up to its first colon."""

_NAMES = {form.number: name for name, form in FORMS.items()}


@dataclass(frozen=True, slots=True)
class Spec:
    """A codec and its parameters. Build it with `parse`; `str` gives the name back."""

    name: str
    permille: int = 0
    wide: bool = False

    def __str__(self) -> str:
        return self.name + (f":{self.permille}" if self.permille else "") + (":f32" if self.wide else "")

    @property
    def codec(self) -> Codec:
        """What does the work."""
        match self.name:
            case "f32":
                return Float32()
            case "bf16":
                return BFloat16()
            case "int8":
                return Quantised(127, INT8_RUN)
            case "int4":
                return Quantised(7, INT4_RUN)
            case "sign":
                return Sign(SIGN_RUN)
            case "topk":
                return TopK(self.permille, self.wide)
            case "randk":
                return RandomK(self.permille)
            case _:
                raise AssertionError(f"no codec {self.name}: parse checks the name")

    @property
    def header(self) -> bytes:
        """The first bytes of every message of this form."""
        return HEADER.pack(MAGIC, FORMS[self.name].number, self.permille, self.wide)


def parse(name: str) -> Spec:
    """Return the spec of a charter's name, such as "int8", "topk:50" or "topk:50:f32".

    Raises:
        UsageError: no codec of that name, or its share is not 1..`PERMILLE_MAX` thousandths.
    """
    kind, *rest = name.split(":")
    sparse = kind in ("topk", "randk")
    wide = kind == "topk" and rest[1:] == ["f32"]
    if kind not in FORMS or len(rest) != (sparse + wide):
        known = ", ".join(f"{form}:<permille>" if form in ("topk", "randk") else form for form in FORMS)
        raise UsageError(f"couldn't choose a compression: {name!r} is not one", hint=f"choose one of {known}")
    if not sparse:
        return Spec(kind)
    permille = int(rest[0]) if rest[0].isascii() and rest[0].isdigit() and len(rest[0]) <= 4 else 0
    if not 1 <= permille <= PERMILLE_MAX or rest[0] != str(permille):
        raise UsageError(
            f"couldn't choose a compression: {name!r} keeps {rest[0]!r} thousandths",
            hint=f"choose a whole number from 1 to {PERMILLE_MAX}, as in {kind}:50",
        )
    return Spec(kind, permille, wide)


@lru_cache(maxsize=64)  # of a model and its slices, asked for with every contribution that is weighed
def encoded_bytes(spec: Spec, elements: int) -> int:
    """Return the size of a message in bytes: exact, but for topk an upper bound (its indices may take less)."""
    return HEADER.size + (spec.codec.body_bytes(elements) if elements else 0)


def contraction(spec: Spec, elements: int) -> float:
    """Return delta within (0, 1] so that |C(x) - x|^2 <= (1 - delta) |x|^2 for every x, rounding to nearest.

    For randk it is the expectation over keys. Each codec says where it comes from. It is the worst vector's; on
    Gaussian ones 1 - delta is 3e-6 (bf16), 6e-5 (int8), 0.014 (int4) and 0.36 (sign). Float32 rounding adds up to 1e-6,
    and runs of elements below `MAGNITUDE_MIN` are sent as zeros.
    """
    return spec.codec.contraction(elements)


def encode(vector: Vector, spec: Spec, *, key: bytes | None = None) -> bytes:
    """Return the message for a vector, float32 of shape (elements,).

    Args:
        vector: The model or, better, a difference.
        spec: From `parse`.
        key: 16 bytes of `noise_key`. int8 and int4 then round by chance, without bias; randk needs it; others
            ignore it.

    Raises:
        UsageError: an element is not finite or over `MAGNITUDE_MAX`; or randk without a key.
    """
    message = np.empty(encoded_bytes(spec, vector.size), np.uint8)
    return message[: encode_into(message, vector, spec, key=key)].tobytes()


def encode_into(out: NDArray[np.uint8], vector: Vector, spec: Spec, *, key: bytes | None = None) -> int:
    """Write the message for a vector to the front of `out`, which has room for `encoded_bytes`; return its size.

    The same as `encode`, for a buffer that exists already: a memory-mapped file, or one that is used again each round.
    If it raises, what is in `out` is undefined.
    """
    assert vector.ndim == 1, "a vector is flat"
    assert vector.dtype == np.float32, "a vector is float32"
    assert key is None or len(key) == KEY_BYTES, "a key comes from noise_key"
    assert out.size >= encoded_bytes(spec, vector.size), "room for the message"
    codec, size = spec.codec, HEADER.size
    out[:size] = np.frombuffer(spec.header, np.uint8)
    if not vector.size:
        return size
    if isinstance(codec, TopK | RandomK):
        written = np.frombuffer(codec.write(vector, key), np.uint8)
        out[size : size + written.size] = written
        return size + written.size
    # The body begins at a multiple of 8, so its float32 and uint16 views are aligned where `out` is.
    end = size + codec.body_bytes(vector.size)
    codec.write(out[size:end], vector, key)
    return end


def form_of(data: Buffer) -> Spec:
    """Return the spec a message names in its header. Raises `Reject`."""
    head = bytes(memoryview(data)[: HEADER.size])
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise Reject("couldn't decode a compressed vector: it does not begin like one of this version")
    _, number, permille, wide = HEADER.unpack(head)
    kind = _NAMES.get(number, "")
    sparse = kind in ("topk", "randk")
    if not kind or (wide and (kind != "topk" or wide != 1)) or not sparse <= permille <= sparse * PERMILLE_MAX:
        raise Reject(f"couldn't decode a compressed vector: its header names no codec ({number}, {permille}, {wide})")
    return Spec(kind, permille, bool(wide))


def decode(data: Buffer, elements: int, *, spec: Spec | None = None, out: Vector | None = None) -> Vector:
    """Return the vector of a message: float32 of shape (elements,).

    Args:
        data: The message, from anybody.
        elements: How many there must be. At most this many float32 are allocated, whatever the message says.
        spec: If given, a message of any other form is refused.
        out: Where to write, shape (elements,); after a `Reject` what is in it is undefined.

    Raises:
        Reject: not a message for so many elements, not canonical, or not finite.
    """
    found = form_of(data)
    if spec is not None and found != spec:
        raise Reject(f"couldn't decode a compressed vector: it came as {found}, agreed was {spec}")
    codec, body = found.codec, np.frombuffer(data, np.uint8)[HEADER.size :]
    most = codec.body_bytes(elements) if elements else 0
    least = most
    if isinstance(codec, TopK) and elements:
        least = codec.value_bytes(elements) + min(codec.kept(elements), -(-elements // 8))
    if not least <= body.size <= most:
        size = f"{least}" if least == most else f"{least} to {most}"
        raise Reject(f"couldn't decode a compressed vector: its body has {body.size} bytes, {found} needs {size}")
    vector = np.empty(elements, np.float32) if out is None else out
    assert vector.shape == (elements,), "out has the shape of the vector"
    if elements:
        codec.read(body, vector)
    return vector
