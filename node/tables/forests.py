"""Bagging: every site grows its own trees, and the mean of the updates holds everybody's.

Trees of two sites have no mean, but they need none: a forest is better the more independent trees are in it (Breiman
1996, 2001), wherever they were grown. So each site owns a *slot* of the model's vector, and writes its trees there as
numbers, and zeros elsewhere. The swarm's mean of that has every slot filled, each scaled by its site's weight. The
first number of a slot is 1 when it is written, so what it is in the mean is the scale, and dividing by it gives the
numbers back, exactly once they are rounded. Whatever scales a whole update, such as clipping, scales that number alike;
work that comes late, or twice, adds to both; an absent site's slot is empty, and the next round is another chance.

A slot: 1, then the length in bytes (two words), the CRC-32 of the bytes (two words), and the bytes, two in a word, each
word divided by 65,536. The mean is rounded once, to float32's 24 binary digits, of which a word needs 17.

**Limits.** The vector is sites x slot, and slots have the length that the script says: a larger forest than fits fails
in words. Compressed contributions (`--codec`) lose digits, and slots with them. Bytes have to be the same whenever a
site writes them: seed the forest. A slot whose checksum fails is left out and said, and stays so.

**No pickle.** Scikit-learn's forests travel as plain arrays (`Forest`), checked before they are used: children come
after their parents, so every row comes to a leaf. XGBoost's models travel as its own JSON. Either is read from members
of the swarm only; XGBoost's reader is XGBoost's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError

State: TypeAlias = dict[str, NDArray[np.float32]]

HEADER = 5
"""Elements of a slot before its bytes."""

WORD = 65_536.0
SLOT_BYTES_MAX = 1 << 26
TREES_MAX = 10_000


def slots(sites: int, slot_bytes: int) -> State:
    """Return the state to start from: `slots` (sites, elements), all empty, for so many bytes each.

    Raises:
        UsageError: there is no site, or no slot could be so long.
    """
    if sites < 1 or not 1 <= slot_bytes <= SLOT_BYTES_MAX:
        raise UsageError(
            f"couldn't make {sites} slots of {slot_bytes} bytes", hint=f"choose 1 to {SLOT_BYTES_MAX} bytes for each"
        )
    return {"slots": np.zeros((sites, HEADER + -(-slot_bytes // 2)), np.float32)}


def write(state: State, index: int, data: bytes) -> bool:
    """Write a site's bytes into its slot, in place. Return whether there was anything to write: a full slot stays.

    Raises:
        UsageError: there is no such slot, or the bytes do not fit.
    """
    slot = state["slots"]
    room = 2 * (slot.shape[1] - HEADER)
    if not 0 <= index < len(slot):
        raise UsageError(
            f"couldn't write slot {index}: there are {len(slot)}",
            hint="make as many slots as sites; a site that joins later needs one, too",
        )
    if len(data) > room:
        raise UsageError(
            f"couldn't write {len(data):,} bytes into a slot of {room:,}", hint="grow fewer or smaller trees"
        )
    if slot[index, 0] > 0:
        return False
    words = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2")
    checksum = zlib.crc32(data)
    header = [len(data) & 0xFFFF, len(data) >> 16, checksum & 0xFFFF, checksum >> 16]
    slot[index, 0] = 1.0
    slot[index, 1:HEADER] = np.array(header) / WORD
    slot[index, HEADER : HEADER + len(words)] = words / WORD
    return True


def read(state: Mapping[str, NDArray[np.float32]]) -> tuple[dict[int, bytes], tuple[int, ...]]:
    """Return the bytes of each slot that is filled, by index, and which are filled but damaged."""
    found: dict[int, bytes] = {}
    damaged: list[int] = []
    for index, slot in enumerate(state["slots"]):
        if slot[0] == 0 and not slot.any():
            continue
        data = _bytes_of(slot)
        if data is None:
            damaged.append(index)
        else:
            found[index] = data
    return found, tuple(damaged)


def _bytes_of(slot: NDArray[np.float32]) -> bytes | None:
    """Return what was written into a slot, whatever it was scaled by since; None if that cannot be told."""
    scale = float(slot[0])
    if not np.isfinite(slot).all() or scale <= 0:
        return None
    numbers = np.rint(slot[1:].astype(np.float64) * (WORD / scale))
    if not ((numbers >= 0) & (numbers < WORD)).all():
        return None
    words = numbers.astype("<u2")
    length = int(words[0]) | int(words[1]) << 16
    data = words[HEADER - 1 :].tobytes()
    if length > len(data) or zlib.crc32(data[:length]) != int(words[2]) | int(words[3]) << 16:
        return None
    return data[:length]


class _Tree(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tree, as the bytes of arrays over its nodes. A leaf has no children: -1."""

    left: bytes
    right: bytes
    feature: bytes
    threshold: bytes
    value: bytes


class _Forest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    features: int
    outputs: int
    trees: list[_Tree]


class Forest:
    """Trees as plain arrays. `outputs` is the number of classes, whose chances a leaf holds, or 1 of a regression."""

    def __init__(self, features: int, outputs: int, trees: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.features, self.outputs, self.trees = features, outputs, tuple(trees)

    @classmethod
    def of(cls, model: Any, classes: int = 0) -> Forest:
        """Return what a fitted scikit-learn forest, or tree, holds.

        Args:
            model: `RandomForestClassifier`, `ExtraTreesRegressor`, `DecisionTreeClassifier` and their like.
            classes: How many classes there are at all sites, labelled from 0: this one may not have seen each.

        Raises:
            UsageError: it is not fitted, or has other labels.
        """
        estimators = getattr(model, "estimators_", None) or ([model] if hasattr(model, "tree_") else [])
        if not len(estimators):
            raise UsageError(
                f"couldn't read the trees of {type(model).__name__}", hint="fit it first; it must be a forest or a tree"
            )
        own = np.asarray(getattr(model, "classes_", []))
        if classes and (not np.issubdtype(own.dtype, np.integer) or not ((own >= 0) & (own < classes)).all()):
            raise UsageError(
                f"couldn't use the classes {own.tolist()[:5]}: there are {classes}",
                hint="label them from 0, alike everywhere",
            )
        outputs = classes or max(len(own), 1)
        trees = []
        for estimator in estimators:
            tree = estimator.tree_
            values = tree.value[:, 0, :]
            if len(own):
                shares = np.zeros((len(values), outputs))
                shares[:, own if classes else np.arange(outputs)] = values / values.sum(axis=1, keepdims=True)
                values = shares
            trees.append(
                {
                    "left": tree.children_left.astype("<i4"),
                    "right": tree.children_right.astype("<i4"),
                    "feature": tree.feature.astype("<i4"),
                    "threshold": tree.threshold.astype("<f8"),
                    "value": values.astype("<f4"),
                }
            )
        return cls(int(model.n_features_in_), outputs, trees)

    def encode(self) -> bytes:
        """Return the bytes that travel."""
        trees = [_Tree(**{name: tree[name].tobytes() for name in _Tree.__struct_fields__}) for tree in self.trees]
        return msgspec.msgpack.encode(_Forest(self.features, self.outputs, trees))

    @classmethod
    def decode(cls, data: bytes) -> Forest:
        """Return the forest in bytes of another site. Raises `Reject` if it is none that could be used."""
        try:
            raw = msgspec.msgpack.decode(data, type=_Forest)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Reject(f"couldn't read a forest: {error}") from None
        if not 1 <= raw.features <= 1 << 20 or not 1 <= raw.outputs <= 1 << 12 or not 1 <= len(raw.trees) <= TREES_MAX:
            raise Reject("couldn't read a forest: its sizes are out of bounds")
        return cls(raw.features, raw.outputs, [_checked(tree, raw.features, raw.outputs) for tree in raw.trees])

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the mean over trees of what their leaves hold, shape (n, outputs). Rows have to be finite."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise UsageError(f"couldn't predict rows of shape {x.shape}: the forest has {self.features} features")
        # Scikit-learn compares features in float32 with thresholds in float64.
        rows, narrow = np.arange(len(x)), x.astype(np.float32)
        total = np.zeros((len(x), self.outputs))
        for tree in self.trees:
            node = np.zeros(len(x), np.int64)
            while (inner := tree["left"][node] >= 0).any():
                goes_left = narrow[rows, np.maximum(tree["feature"][node], 0)] <= tree["threshold"][node]
                node = np.where(inner, np.where(goes_left, tree["left"][node], tree["right"][node]), node)
            total += tree["value"][node]
        mean: NDArray[np.float64] = total / len(self.trees)
        return mean


def _checked(raw: _Tree, features: int, outputs: int) -> dict[str, NDArray[Any]]:
    """Return a tree's arrays. Raises `Reject` unless every row, whatever it is, comes to a leaf in them."""
    nodes = len(raw.left) // 4
    whole = (len(raw.left), len(raw.right), len(raw.feature)) == (4 * nodes,) * 3
    if not nodes or not whole or len(raw.threshold) != 8 * nodes or len(raw.value) != 4 * nodes * outputs:
        raise Reject("couldn't read a forest: the arrays of a tree do not fit each other")
    left, right, feature = (np.frombuffer(part, "<i4") for part in (raw.left, raw.right, raw.feature))
    threshold = np.frombuffer(raw.threshold, "<f8")
    value = np.frombuffer(raw.value, "<f4").reshape(nodes, outputs)
    at, inner = np.arange(nodes), left >= 0
    children = (left[inner] > at[inner]) & (right[inner] > at[inner]) & (left[inner] < nodes) & (right[inner] < nodes)
    known = (feature[inner] >= 0) & (feature[inner] < features)
    if not (children.all() and known.all() and np.isfinite(threshold[inner]).all() and np.isfinite(value).all()):
        raise Reject("couldn't read a forest: a tree has nodes that lead nowhere")
    return {"left": left, "right": right, "feature": feature, "threshold": threshold, "value": value}


def predict(
    state: Mapping[str, NDArray[np.float32]], x: NDArray[np.floating]
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return the mean over all sites' trees, shape (n, outputs), and the slots that could not be used.

    Raises:
        UsageError: no slot can be used yet.
    """
    data, damaged = read(state)
    forests: list[Forest] = []
    bad = list(damaged)
    for index, one in data.items():
        try:
            forest = Forest.decode(one)
        except Reject:
            bad.append(index)
            continue
        if forests and (forest.features, forest.outputs) != (forests[0].features, forests[0].outputs):
            bad.append(index)
        else:
            forests.append(forest)
    if not forests:
        raise UsageError("couldn't predict: no site's trees are there yet", hint="predict after the first round")
    trees = sum(len(forest.trees) for forest in forests)
    total = np.zeros((len(x), forests[0].outputs))
    for forest in forests:
        total += forest.predict(x) * (len(forest.trees) / trees)
    return total, tuple(sorted(bad))


def booster_bytes(booster: Any) -> bytes:
    """Return an `xgboost.Booster`, or what wraps one, as JSON."""
    inner = booster.get_booster() if hasattr(booster, "get_booster") else booster
    return bytes(inner.save_raw("json"))


def boosters(state: Mapping[str, NDArray[np.float32]]) -> tuple[list[Any], tuple[int, ...]]:
    """Return the XGBoost models of all sites, in the order of slots, and the slots that hold none.

    Their answer together is the mean of their predictions.
    """
    import xgboost

    data, damaged = read(state)
    found, bad = [], list(damaged)
    for index, one in data.items():
        try:
            json.loads(one)  # XGBoost guesses the format; only this one is let in.
            booster = xgboost.Booster()
            booster.load_model(bytearray(one))
        except (ValueError, RecursionError, xgboost.core.XGBoostError):
            bad.append(index)
            continue
        found.append(booster)
    return found, tuple(sorted(bad))
