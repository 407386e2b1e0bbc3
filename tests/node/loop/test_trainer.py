"""The node's side of the loop: it waits for a script, survives whatever the script does, and takes no answer for another.

No process is started: the script is a socket in the test's hand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from node.framing import HEAD, receive
from node.loop import protocol
from node.loop.trainer import ScriptTrainer
from node.trainer import EvaluateDone, Failed, Noted, Progress, TrainDone, TrainerEvent, TrainerSettings
from swarm.errors import UsageError

TRAINED = {"samples": 5, "metrics": {"loss": 0.5}, "remarks": [], "parameters": [0, 2]}
STALL_S = 10.0

LINKS: list[socket.socket] = []
"""Scripts' ends, closed after each test."""


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[ScriptTrainer]:
    task = tmp_path / "script.py"
    task.write_text("import swarm\nswarm.join('a', {})\n")
    settings = TrainerSettings(task=task, data=tmp_path, site="a", seed=1, stall_s=STALL_S)
    made = ScriptTrainer(settings, tmp_path / "run" / "script.sock", folder=tmp_path)
    yield made
    made.close()
    while LINKS:
        LINKS.pop().close()


class Script:
    """A script's end of the socket; `hello` unless it is told not to introduce itself."""

    def __init__(self, trainer: ScriptTrainer, *, hello: bool = True) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        LINKS.append(self.link)
        self.link.settimeout(5.0)
        self.link.connect(str(trainer._path))
        if hello:
            self.say(did="load", protocol=protocol.PROTOCOL, layout=bytes(32))

    def say(self, **message: Any) -> None:
        protocol.send(self.link, message)

    def hear(self) -> dict[str, Any]:
        message = receive(self.link)
        assert message is not None, "the node hung up"
        return message

    def hung_up_on(self) -> bool:
        return receive(self.link) is None


def events(trainer: ScriptTrainer, now: float = 0.0) -> list[TrainerEvent]:
    """Two turns: a script is let in by one and heard in the next at the latest."""
    return [*trainer.poll(now), *trainer.poll(now)]


def test_what_is_asked_for_waits_for_a_script_and_is_said_to_wait(trainer: ScriptTrainer) -> None:
    trainer.train(1, Path("/m"), Path("/u"))
    assert events(trainer, 1000 * STALL_S) == []  # Nobody is there, so nobody is stuck.
    assert trainer.waiting == "waits for its script to come and train: run `python script.py`"
    script = Script(trainer)
    assert events(trainer) == [Noted("the script trains here")]
    assert trainer.waiting == ""
    request = script.hear()
    assert (request["do"], request["round"], request["model"], request["update"]) == ("train", 1, "/m", "/u")
    script.say(did="step", round=1, step=3)
    script.say(did="train", ticket=request["ticket"], round=1, **TRAINED)
    assert events(trainer) == [Progress(1, 3), TrainDone(1, 5, {"loss": 0.5}, ((0, 2),))]


def test_a_script_that_dies_is_asked_again_when_it_is_back(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    trainer.train(1, Path("/m"), Path("/u"))
    events(trainer)
    first = script.hear()
    script.link.close()
    (gone,) = events(trainer)
    assert gone == Noted("the script has gone; this site waits for its script to come back: run `python script.py`")
    assert trainer.waiting == "waits for its script to come back: run `python script.py`"
    again = Script(trainer)
    assert events(trainer) == [Noted("the script is back and trains here")]
    second = again.hear()
    assert second["ticket"] != first["ticket"]
    assert second["update"] == "/u"
    again.say(did="train", ticket=second["ticket"], round=1, **TRAINED)
    assert [type(event) for event in events(trainer)] == [TrainDone]


def test_a_script_that_goes_when_nothing_is_left_to_do_is_not_waited_for(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    events(trainer)
    script.link.close()
    assert events(trainer) == [Noted("the script has gone")]
    assert trainer.waiting == ""


def test_one_script_at_a_time_and_the_other_is_told_which_process_it_is(trainer: ScriptTrainer) -> None:
    Script(trainer)
    events(trainer)
    other = Script(trainer)
    events(trainer)
    refusal = other.hear()
    assert refusal["do"] == "refuse"
    assert f"process {os.getpid()}" in refusal["why"]
    assert other.hung_up_on()


def test_a_script_that_says_no_hello_keeps_nobody_out(trainer: ScriptTrainer) -> None:
    mute = Script(trainer, hello=False)
    events(trainer)
    Script(trainer)
    assert Noted("the script trains here") in events(trainer)
    assert mute.hung_up_on()


def test_another_protocol_is_refused_in_words(trainer: ScriptTrainer) -> None:
    script = Script(trainer, hello=False)
    script.say(did="load", protocol=99)
    told = events(trainer)
    assert isinstance(told[0], Noted)
    assert "this one 99" in told[0].text
    assert "update the older" in script.hear()["why"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"garbage",
        msgpack.packb([1, 2]),
        msgpack.packb({"did": "train", "unknown": 1}),
        msgpack.packb({"did": "train", "ticket": 1, "round": 1}),
        msgpack.packb({"did": "train", "ticket": 1, "round": 1, **TRAINED, "samples": -1}),
        msgpack.packb({"did": "train", "ticket": 1, "round": 1, **TRAINED, "metrics": {"loss": float("nan")}}),
        msgpack.packb({"did": "train", "ticket": 1, "round": 1, **TRAINED, "parameters": [2, 1]}),
        msgpack.packb({"did": "train", "ticket": 1, "round": 1, **TRAINED, "parameters": [0]}),
    ],
)
def test_nonsense_costs_the_link_and_not_the_node(trainer: ScriptTrainer, body: bytes) -> None:
    script = Script(trainer)
    trainer.train(1, Path("/m"), Path("/u"))
    events(trainer)
    script.hear()
    script.link.sendall(HEAD.pack(len(body)) + body)
    told = events(trainer)
    assert [type(event) for event in told] == [Noted]
    assert script.hung_up_on()
    Script(trainer)
    assert events(trainer) == [Noted("the script is back and trains here")]


def test_a_message_of_a_gigabyte_is_not_waited_for(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    events(trainer)
    script.link.sendall(HEAD.pack(1 << 30))
    assert [type(event) for event in events(trainer)] == [Noted]
    assert script.hung_up_on()


def test_work_from_before_a_rest_is_not_taken_for_what_is_asked_after_it(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    trainer.train(1, Path("/m"), Path("/u"))
    events(trainer)
    first = script.hear()
    trainer.abandon()
    assert script.hear() == {"do": "drop", "ticket": first["ticket"]}
    trainer.train(1, Path("/m"), Path("/other"))
    events(trainer)
    second = script.hear()
    script.say(did="train", ticket=first["ticket"], round=1, **TRAINED)
    assert events(trainer) == []
    script.say(did="train", ticket=second["ticket"], round=1, **TRAINED)
    assert [type(event) for event in events(trainer)] == [TrainDone]


def test_a_script_without_progress_loses_its_link_and_one_with_it_does_not(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    trainer.train(1, Path("/m"), Path("/u"))
    events(trainer, 0.0)
    script.hear()
    script.say(did="step", round=1, step=1)
    assert events(trainer, STALL_S - 1) == [Progress(1, 1)]
    assert events(trainer, 2 * STALL_S - 2) == []
    (failed,) = events(trainer, 2 * STALL_S)
    assert isinstance(failed, Failed)
    assert "no optimizer step for 10 s" in failed.text
    assert script.hung_up_on()


def test_an_evaluation_may_come_with_the_next_update(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    trainer.evaluate(1, Path("/m1"))
    trainer.train(2, Path("/m1"), Path("/u"))
    events(trainer)
    script.say(did="evaluate", ticket=script.hear()["ticket"], round=1, later=True)
    assert events(trainer) == []
    request = script.hear()
    assert request["do"] == "train"
    scores = {"samples": 9, "metrics": {"accuracy": 0.75}, "remarks": []}
    script.say(did="train", ticket=request["ticket"], round=2, **TRAINED, evaluation=scores)
    scored, trained = events(trainer)
    assert scored == EvaluateDone(1, 9, {"accuracy": 0.75}, (9,))
    assert isinstance(trained, TrainDone)


def test_an_evaluation_may_come_before_it_is_asked_for(trainer: ScriptTrainer) -> None:
    """Training begins when the mean is known, evaluation when the round is committed, which may be later."""
    script = Script(trainer)
    trainer.train(2, Path("/m1"), Path("/u"))
    events(trainer)
    scores = {"samples": 9, "metrics": {"accuracy": 0.75}, "remarks": []}
    script.say(did="train", ticket=script.hear()["ticket"], round=2, **TRAINED, evaluation=scores)
    events(trainer)
    trainer.evaluate(1, Path("/m1"))
    assert events(trainer) == [EvaluateDone(1, 9, {"accuracy": 0.75}, (9,))]


def test_an_evaluation_that_never_comes_is_said_to_be_missing(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    trainer.evaluate(1, Path("/m1"))
    trainer.train(2, Path("/m1"), Path("/u"))
    events(trainer)
    script.say(did="evaluate", ticket=script.hear()["ticket"], round=1, later=True)
    events(trainer)
    script.say(did="train", ticket=script.hear()["ticket"], round=2, **TRAINED)
    said, missing, _ = events(trainer)
    assert isinstance(said, Noted)
    assert trainer.unscored in said.text
    assert isinstance(missing, Failed)
    assert (missing.kind, missing.round, missing.unscored) == ("evaluate", 1, True)


def test_that_no_function_scores_is_said_once_and_no_more_when_one_does(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    told: list[object] = []
    for round_ in (1, 2, 3):
        trainer.evaluate(round_, Path(f"/m{round_}"))
        events(trainer)
        script.say(did="evaluate", ticket=script.hear()["ticket"], round=round_, error=protocol.UNSCORED)
        told += events(trainer)
    assert [type(event) for event in told] == [Noted, Failed, Failed, Failed]
    assert "peer.evaluate()" in trainer.unscored
    trainer.evaluate(4, Path("/m4"))
    events(trainer)
    script.say(did="evaluate", ticket=script.hear()["ticket"], round=4, samples=2, metrics={"accuracy": 0.5})
    assert [type(event) for event in events(trainer)] == [EvaluateDone]
    assert trainer.unscored == ""


def test_a_function_that_fails_is_a_failure_each_time(trainer: ScriptTrainer) -> None:
    script = Script(trainer)
    trainer.evaluate(1, Path("/m1"))
    events(trainer)
    script.say(did="evaluate", ticket=script.hear()["ticket"], round=1, error="KeyError: 'y'")
    [failed] = events(trainer)
    assert isinstance(failed, Failed)
    assert not failed.unscored
    assert trainer.unscored == ""


def test_a_socket_is_for_this_user_alone_and_goes_with_the_node(trainer: ScriptTrainer) -> None:
    path = trainer._path
    assert path.stat().st_mode & 0o777 == 0o600
    trainer.close()
    assert not path.exists()


def test_a_path_too_long_for_a_socket_is_said_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    with pytest.raises(UsageError, match="the path of its socket is too long"):
        ScriptTrainer(
            TrainerSettings(task=tmp_path / "s.py", data=tmp_path, site="a", seed=1), folder / "s.sock", folder=folder
        )
    assert not folder.exists()
