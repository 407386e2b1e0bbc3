"""A swarm around objects of one process: whatever a function does, who called `learn` is told where and what."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from node.loop.local import Swarm, UserCodeError, check_finite, user_code
from node.loop.parameters import parameters_of
from swarm.errors import StoreError, UsageError

GIVE_UP_S = 120


def fails(error: BaseException) -> None:
    raise error


LINE = fails.__code__.co_firstlineno + 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt:"),
        (RuntimeError("one\ntwo"), "RuntimeError: one two"),
    ],
)
def test_what_a_function_raises_is_told_with_site_type_and_line(error: BaseException, words: str) -> None:
    whole = f"couldn't learn at site-1: train() failed with {words} (test_local.py, line {LINE})"
    for function in (fails, functools.partial(fails)):
        with pytest.raises(UserCodeError) as told, user_code("site-1", "train", function):
            function(error)
        assert told.value.message == whole
        assert told.value.__cause__ is error


def test_a_callable_object_and_one_without_a_file_are_told_too() -> None:
    class Model:
        def __call__(self) -> None:
            raise ValueError("boom")

    with pytest.raises(UserCodeError, match=r"ValueError: boom \(test_local.py, line \d+\)"), _of(Model()):
        Model()()
    with pytest.raises(UserCodeError, match=r"ValueError: .*x'$"), _of(int):
        int("x")


def _of(function: Any) -> Any:
    return user_code("site-1", "evaluate", function)


def test_what_is_wrong_in_words_already_gets_the_site_and_what_is_no_users_fault_does_not() -> None:
    with pytest.raises(UserCodeError, match="couldn't learn at site-1: couldn't use it") as told, _of(fails):
        raise UsageError("couldn't use it", hint="mend it")
    assert told.value.hint == "mend it"
    with pytest.raises(StoreError, match="^the disk is full"), _of(fails):
        raise StoreError("the disk is full")


def test_a_model_that_is_not_finite_is_refused_by_the_tensor_and_a_mask_of_minus_infinity_is_no_change() -> None:
    model = {"a": np.zeros(3), "mask": np.full(2, -np.inf)}
    parameters = parameters_of(model)
    before = parameters.read()
    check_finite(parameters, before)
    model["a"][1:] = np.nan
    with pytest.raises(UsageError, match=r"a is not finite after training \(2 of its 3 numbers, the first is nan\)"):
        check_finite(parameters, before)


@pytest.mark.real
@pytest.mark.timeout(GIVE_UP_S)
def test_a_function_that_exits_ends_the_run_at_once_with_one_sentence(
    capfd: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def train(model: dict[str, Any], number: int) -> Mapping[str, Any]:
        if number == 1 and model["at"][0] != 3.0:
            sys.exit("no more")
        model["at"] += number
        return {"samples": 5, "Loss": 1.0}

    def evaluate(model: dict[str, Any], number: int) -> Mapping[str, Any]:
        return {"samples": 5, "loss": abs(model["at"][0] - number)}

    swarm = Swarm.local(2, folder=tmp_path_factory.mktemp("s"))
    begun = {"at": np.full(2, 3.0)}
    with pytest.raises(UserCodeError, match=r"at site-1: train\(\) failed with SystemExit: no more \(test_local.py, "):
        for _ in swarm.learn(begun, [0, 1], train, evaluate, rounds=3):
            pass
    assert begun["at"].tolist() == [3.0, 3.0], "what was handed in is left as it was"
    assert capfd.readouterr().err.count("site-0: metric 'Loss' was left out") == 1, "a remark is made once"
