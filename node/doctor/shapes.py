"""What a task's data look like: kinds, shapes, counts of labels. In words for this site's own people, and no further.

It goes by what things can do, not by what they are: whatever has a shape and a dtype is an array, whatever has a
length and gives its items is a data set. So it imports no framework, and runs in the trainer process beside whichever
there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

LINES_MAX = 24
ITEMS_MAX = 2000
"""Items of a data set whose labels are counted: each may be an image to decode."""

LABELS_MAX = 20
"""More different values than this are no labels."""

PARTS_MAX = 8
"""Fields of a record that are looked into."""


def describe_data(data: object) -> list[str]:
    """Return lines about what `load_data` returned, at most `LINES_MAX`. Never raises for what it holds."""
    try:
        lines = list(islice(_lines(data, "data", 0), LINES_MAX + 1))
    except Exception as error:  # noqa: BLE001 - user code may raise anything when it is looked at
        return [f"data: {type(data).__name__} ({type(error).__name__} when looked into)"]
    return lines if len(lines) <= LINES_MAX else [*lines[:LINES_MAX], "and more"]


def _lines(data: object, name: str, depth: int) -> Iterable[str]:
    if _is_array(data):
        yield f"{name}: {_array(data)}{_labels(_values(data), name)}"
    elif isinstance(data, Mapping):
        yield from _parts(((f"{name}[{key!r}]", value) for key, value in data.items()), depth)
    elif isinstance(data, (tuple, list)) and data and len(data) <= PARTS_MAX:
        yield from _parts(((f"{name}[{place}]", value) for place, value in enumerate(data)), depth)
    elif isinstance(getattr(data, "tensors", None), tuple):
        yield from _parts(((f"{name}[:][{place}]", value) for place, value in enumerate(data.tensors)), depth)  # type: ignore[attr-defined]
    elif hasattr(data, "dataset") and hasattr(data, "batch_size"):
        yield f"{name}: {type(data).__name__}, {data.batch_size} items a batch"
        yield from _lines(data.dataset, f"{name}.dataset", depth)
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, (str, bytes)):
        yield from _data_set(data, name)
    elif depth == 0 and getattr(data, "__dict__", None):
        yield from _parts(((f"{name}.{key}", value) for key, value in vars(data).items()), depth)
    else:
        yield f"{name}: {type(data).__name__}"


def _parts(parts: Iterable[tuple[str, object]], depth: int) -> Iterable[str]:
    for name, value in islice(parts, PARTS_MAX):
        if depth < 2:
            yield from _lines(value, name, depth + 1)
        else:
            yield f"{name}: {type(value).__name__}"


def _data_set(data: object, name: str) -> Iterable[str]:
    """Describe what has items: the first one, and the last part of each as its label."""
    count = len(data)  # type: ignore[arg-type]
    yield f"{name}: {type(data).__name__} of {count} items"
    if not count:
        return
    first = data[0]  # type: ignore[index]
    yield from _lines(first, f"{name}[0]", 1)
    if isinstance(first, (tuple, list)) and len(first) > 1:
        looked = min(count, ITEMS_MAX)
        values = [_scalar(data[place][-1]) for place in range(looked)]  # type: ignore[index]
        told = _labels(values, "label").removeprefix("; ")
        if told:
            yield f"{name}: {told}" + ("" if looked == count else f" (in the first {looked})")


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _array(value: object) -> str:
    dtype = str(value.dtype).removeprefix("torch.")  # type: ignore[attr-defined]
    return f"{dtype} {'x'.join(str(size) for size in value.shape) or 'scalar'}"  # type: ignore[attr-defined]


def _values(array: object) -> list[object]:
    """Return the values of an array of one dimension, or of one column, as Python has them."""
    shape = tuple(array.shape)  # type: ignore[attr-defined]
    if len(shape) == 2 and shape[1] == 1:
        array = array.reshape(-1)  # type: ignore[attr-defined]
    elif len(shape) != 1:
        return []
    return list(array.tolist())  # type: ignore[attr-defined]


def _scalar(value: object) -> object:
    return value.item() if hasattr(value, "item") and _is_array(value) else value


def _labels(values: Iterable[object], name: str) -> str:
    """Return how often each label occurs, where values are few different whole numbers or words; else nothing."""
    counted: Counter[object] = Counter()
    for value in values:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if not isinstance(whole, (int, str)):
            return ""
        counted[whole] += 1
        if len(counted) > LABELS_MAX:
            return ""
    if not counted:
        return ""
    told = ", ".join(f"{label} {count} times" for label, count in sorted(counted.items(), key=lambda one: str(one[0])))
    return f"; {told}" if name != "label" else f"; labels: {told}"
