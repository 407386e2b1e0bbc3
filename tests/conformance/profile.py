"""The canonical profile of MessagePack, written out by hand: every value has one head, its shortest.

It shares nothing with the libraries the product uses. Lengths stop at 16 bits: no vector needs more.
"""

from __future__ import annotations


def shortest(value: object) -> bytes:
    """Return the canonical bytes of nested lists of int, bool, bytes and str."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if -32 <= value < 128:
            return value.to_bytes(1, "big", signed=value < 0)
        for size, (unsigned, signed) in {1: (0xCC, 0xD0), 2: (0xCD, 0xD1), 4: (0xCE, 0xD2), 8: (0xCF, 0xD3)}.items():
            bits = 8 * size
            if 0 <= value < 1 << bits:
                return bytes([unsigned]) + value.to_bytes(size, "big")
            if -(1 << bits - 1) <= value < 0:
                return bytes([signed]) + value.to_bytes(size, "big", signed=True)
        raise AssertionError(value)
    if isinstance(value, list):
        head = bytes([0x90 + len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
        return head + b"".join(shortest(item) for item in value)
    if isinstance(value, bytes):
        head = b"\xc4" + bytes([len(value)]) if len(value) < 256 else b"\xc5" + len(value).to_bytes(2, "big")
        return head + value
    assert isinstance(value, str)
    data = value.encode()
    return (bytes([0xA0 + len(data)]) if len(data) < 32 else b"\xd9" + len(data).to_bytes(1, "big")) + data
