"""A model as one vector: tensors go in and come out unchanged, and a blob's name follows RFC 6962, written out slowly.

The reference tree here is the recursive definition of section 2.1 with BLAKE3 in place of SHA-256; the module builds the
same tree level by level.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.machine import Buffer
from swarm.vector import (
    ELEMENTS_MAX,
    LAYOUT_BYTES_MAX,
    LEAF_BYTES,
    RANK_MAX,
    TENSOR_NAME_CHARACTERS_MAX,
    TENSORS_MAX,
    Layout,
    LeafHasher,
    TensorSpec,
    blob_digest,
    flatten,
    leaf_count,
    leaf_hashes,
    leaf_span,
    unflatten,
)

TWO_BY_THREE = Layout((TensorSpec("bias", (3,)), TensorSpec("scale", ()), TensorSpec("weight", (2, 3), "float16")))


def blake(*parts: bytes) -> bytes:
    return blake3(b"".join(parts)).digest()


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1 over leaf hashes: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return blake(b"\x01", mth(leaves[:k]), mth(leaves[k:]))


def name_of(size: int, leaves: Sequence[bytes]) -> bytes:
    return blake(b"swarm-ledger/blob/v1\0", size.to_bytes(8, "little"), mth(leaves))


# --- layouts ------------------------------------------------------------------------------------------------------


def test_a_scalar_has_one_element_and_a_tensor_with_an_empty_side_none() -> None:
    assert TensorSpec("scalar", ()).elements == 1
    assert TensorSpec("matrix", (2, 3)).elements == 6
    assert TensorSpec("empty", (5, 0, 7)).elements == 0


def test_tensors_lie_one_after_the_other_in_order_of_name() -> None:
    assert TWO_BY_THREE.offsets() == {"bias": (0, 3), "scale": (3, 4), "weight": (4, 10)}
    assert (TWO_BY_THREE.elements, TWO_BY_THREE.nbytes) == (10, 40)


def test_a_layout_of_no_tensors_is_a_vector_of_no_elements() -> None:
    empty = Layout(())
    empty.check()
    assert (empty.elements, empty.nbytes, empty.offsets()) == (0, 0, {})


def test_the_encoding_of_a_layout_is_these_bytes_for_ever() -> None:
    layout = Layout((TensorSpec("a", (2, 300)),))
    written = b"\x91\x91\x93" + b"\xa1a" + b"\x92\x02\xcd\x01\x2c" + b"\xa7float32"
    assert layout.encode() == written
    assert layout.digest() == hashlib.sha256(b"swarm-ledger/layout/v1\0" + written).digest()
    assert Layout.decode(written) == layout


@pytest.mark.parametrize(
    "other",
    [
        Layout(TWO_BY_THREE.tensors[:2]),
        Layout((*TWO_BY_THREE.tensors[:2], TensorSpec("weight", (3, 2), "float16"))),
        Layout((*TWO_BY_THREE.tensors[:2], TensorSpec("weight", (2, 3)))),
        Layout((*TWO_BY_THREE.tensors[:2], TensorSpec("weights", (2, 3), "float16"))),
    ],
    ids=["fewer tensors", "another shape", "another dtype", "another name"],
)
def test_the_digest_of_a_layout_tells_names_shapes_and_dtypes_apart(other: Layout) -> None:
    assert other.digest() != TWO_BY_THREE.digest()
    assert Layout.decode(other.encode()) == other


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("a", "B")])
def test_a_layout_whose_tensors_are_not_sorted_by_unique_name_is_refused(names: tuple[str, str]) -> None:
    layout = Layout(tuple(TensorSpec(name, (1,)) for name in names))
    with pytest.raises(Reject, match="not sorted by unique name"):
        layout.check()
    with pytest.raises(Reject, match="not sorted by unique name"):
        Layout.decode(layout.encode())


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (TensorSpec("n" * TENSOR_NAME_CHARACTERS_MAX, (1,)), TensorSpec("n" * (TENSOR_NAME_CHARACTERS_MAX + 1), (1,))),
        (TensorSpec("n", (1,) * RANK_MAX), TensorSpec("n", (1,) * (RANK_MAX + 1))),
        (TensorSpec("n", (0,)), TensorSpec("n", (-1,))),
        (TensorSpec("n", (ELEMENTS_MAX,)), TensorSpec("n", (ELEMENTS_MAX + 1,))),
    ],
    ids=["name", "rank", "side", "elements"],
)
def test_a_layout_is_accepted_up_to_each_limit_and_refused_one_past_it(within: TensorSpec, beyond: TensorSpec) -> None:
    Layout((within,)).check()
    with pytest.raises(Reject, match="couldn't accept a layout"):
        Layout((beyond,)).check()


def test_negative_sides_cannot_cancel_to_an_acceptable_number_of_elements() -> None:
    with pytest.raises(Reject, match="out of bounds"):
        Layout((TensorSpec("a", (-2, -3)),)).check()


def test_the_elements_of_all_tensors_count_together() -> None:
    with pytest.raises(Reject, match="at most"):
        Layout((TensorSpec("a", (ELEMENTS_MAX,)), TensorSpec("b", ()))).check()


def test_more_tensors_than_any_model_has_are_refused() -> None:
    names = [f"{number:06}" for number in range(TENSORS_MAX + 1)]
    Layout(tuple(TensorSpec(name, ()) for name in names[:-1])).check()
    with pytest.raises(Reject, match="couldn't accept a layout"):
        Layout(tuple(TensorSpec(name, ()) for name in names)).check()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        codec.encode(((("a", (2,), "float32"), 1),)),
        codec.encode(((("a", (2,)),),)),
        TWO_BY_THREE.encode() + b"\x00",
        bytes(LAYOUT_BYTES_MAX + 1),
    ],
    ids=["nothing", "wrong type", "dtype left out", "trailing byte", "too long"],
)
def test_bytes_that_are_not_a_canonical_layout_are_refused(data: bytes) -> None:
    with pytest.raises(Reject, match="couldn't decode Layout"):
        Layout.decode(data)


# --- tensors ------------------------------------------------------------------------------------------------------


def arrays() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """The tensors of `TWO_BY_THREE`, in another order and of other dtypes than they travel with."""
    return {
        "weight": np.array([[4, 5, 6], [7, 8, 9]], np.float16),
        "scale": np.array(3.0, np.float64),
        "bias": np.array([0, 1, 2], np.int64),
    }


def test_flattening_follows_the_layout_whatever_the_order_of_the_tensors() -> None:
    vector = flatten(arrays(), TWO_BY_THREE)
    assert vector.dtype == np.dtype("<f4")
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_tensor_stored_column_by_column_is_flattened_row_by_row() -> None:
    given_arrays = arrays() | {"weight": np.asfortranarray(np.array([[4, 5, 6], [7, 8, 9]], np.float32))}
    assert flatten(given_arrays, TWO_BY_THREE)[4:].tolist() == [4, 5, 6, 7, 8, 9]


def test_flattening_writes_into_the_vector_it_is_given() -> None:
    out = np.full(10, -1, np.float32)
    assert flatten(arrays(), TWO_BY_THREE, out) is out
    assert out.tolist() == list(range(10))


def test_unflattened_tensors_are_views_into_the_vector() -> None:
    vector = np.arange(10, dtype=np.float32)
    tensors = unflatten(vector, TWO_BY_THREE)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "bias": [0, 1, 2],
        "scale": 3,
        "weight": [[4, 5, 6], [7, 8, 9]],
    }
    tensors["weight"][1, 2] = 99
    assert vector[9] == 99


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=6))
@settings(max_examples=60, deadline=None)
def test_flattening_undoes_unflattening(shapes: list[list[int]]) -> None:
    layout = Layout(tuple(TensorSpec(f"{number}", tuple(shape)) for number, shape in enumerate(shapes)))
    vector = np.arange(layout.elements, dtype=np.float32)
    tensors = unflatten(vector, layout)
    assert [tensor.shape for tensor in tensors.values()] == [tuple(shape) for shape in shapes]
    assert np.array_equal(flatten(tensors, layout), vector)


@pytest.mark.parametrize("length", [9, 11])
def test_a_vector_of_another_length_is_not_unflattened(length: int) -> None:
    with pytest.raises(UsageError, match=f"{length} elements: the layout has 10"):
        unflatten(np.zeros(length, np.float32), TWO_BY_THREE)


def test_a_missing_tensor_is_named() -> None:
    given_arrays = arrays()
    del given_arrays["scale"]
    with pytest.raises(UsageError, match="'scale' is missing"):
        flatten(given_arrays, TWO_BY_THREE)


def test_a_superfluous_tensor_is_named() -> None:
    with pytest.raises(UsageError, match="'head' is unknown"):
        flatten(arrays() | {"head": np.zeros(1)}, TWO_BY_THREE)


def test_a_tensor_of_another_shape_is_refused_even_with_as_many_elements() -> None:
    with pytest.raises(UsageError, match=r"'weight' has shape \(3, 2\), not \(2, 3\)") as refused:
        flatten(arrays() | {"weight": np.zeros((3, 2))}, TWO_BY_THREE)
    assert refused.value.hint == "all sites must run the same task file"


# --- leaves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 1), (1, 1), (LEAF_BYTES, 1), (LEAF_BYTES + 1, 2), (2 * LEAF_BYTES, 2), (5 * LEAF_BYTES - 1, 5)],
)
def test_a_blob_has_at_least_one_leaf_and_only_the_last_may_be_short(size: int, count: int) -> None:
    assert leaf_count(size) == count
    spans = [leaf_span(size, index) for index in range(count)]
    assert [offset for offset, _ in spans] == [index * LEAF_BYTES for index in range(count)]
    assert all(length == LEAF_BYTES for _, length in spans[:-1])
    assert sum(length for _, length in spans) == size


def test_a_leaf_hash_is_blake3_of_a_zero_byte_and_the_leaf() -> None:
    blob = b"a" * LEAF_BYTES + b"b" * LEAF_BYTES + b"c"
    assert leaf_hashes(blob) == (
        blake(b"\x00", b"a" * LEAF_BYTES),
        blake(b"\x00", b"b" * LEAF_BYTES),
        blake(b"\x00", b"c"),
    )


def test_the_empty_blob_has_one_empty_leaf() -> None:
    assert leaf_hashes(b"") == (blake(b"\x00"),)
    assert leaf_hashes(np.empty(0, np.float32).data) == (blake(b"\x00"),)


def test_a_vector_and_its_bytes_have_the_same_leaves() -> None:
    vector = np.arange(LEAF_BYTES // 4 + 3, dtype="<f4")
    of_bytes = leaf_hashes(vector.tobytes())
    views: list[Buffer] = [vector.data, bytearray(vector.tobytes()), memoryview(vector.tobytes())]
    assert len(of_bytes) == 2
    assert all(leaf_hashes(view) == of_bytes for view in views)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_leaf_hashes_the_same_however_it_arrives(data: bytes, cuts: list[int]) -> None:
    hasher = LeafHasher()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(ends):
        hasher.update(memoryview(data)[start:end])
    assert (hasher.digest(),) == leaf_hashes(data)


# --- names --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(0, LEAF_BYTES - 1))
@settings(max_examples=80, deadline=None)
def test_a_blobs_name_is_its_size_and_the_root_of_the_rfc_6962_tree(count: int, short: int) -> None:
    leaves = [blake(b"leaf %d" % number) for number in range(count)]
    size = count * LEAF_BYTES - short
    assert blob_digest(size, leaves) == name_of(size, leaves)


@pytest.mark.parametrize("count", range(1, 18))
def test_small_trees_have_the_shape_of_rfc_6962(count: int) -> None:
    leaves = tuple(blake(b"leaf %d" % number) for number in range(count))
    assert blob_digest(count * LEAF_BYTES, leaves) == name_of(count * LEAF_BYTES, leaves)


def test_names_of_blobs_never_change() -> None:
    assert blob_digest(0, leaf_hashes(b"")).hex() == "7975d3a3b66840a8b462ec9dd27218a3aeb8e1d1141dda0f1886389dce497360"
    third = b"a" * LEAF_BYTES + b"b" * LEAF_BYTES + b"c"
    assert (
        blob_digest(len(third), leaf_hashes(third)).hex()
        == "1c394812313fb32b3267f250002607bca532e4135d3f4867627487b84c5d0507"
    )


def test_one_changed_byte_anywhere_makes_another_name() -> None:
    blob = bytearray(2 * LEAF_BYTES + 1)
    names = [blob_digest(len(blob), leaf_hashes(blob))]
    for place in (0, LEAF_BYTES - 1, LEAF_BYTES, 2 * LEAF_BYTES):
        blob[place] = 1
        names.append(blob_digest(len(blob), leaf_hashes(blob)))
        blob[place] = 0
    assert len({*names}) == 5


def test_blobs_of_zeros_differ_by_their_size_alone() -> None:
    leaves = (blake(b"the same leaf"),)
    assert blob_digest(1, leaves) != blob_digest(2, leaves)


def test_swapped_leaves_make_another_name() -> None:
    first, second = blake(b"1"), blake(b"2")
    assert blob_digest(2 * LEAF_BYTES, (first, second)) != blob_digest(2 * LEAF_BYTES, (second, first))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_name_is_not_made_of_the_wrong_number_of_leaves(count: int) -> None:
    with pytest.raises(ValueError, match=f"has 2 leaves, not {count}"):
        blob_digest(LEAF_BYTES + 1, (bytes(32),) * count)
