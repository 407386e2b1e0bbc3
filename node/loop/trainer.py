"""SHELL. The node's side of the loop form: a trainer whose worker is a script that its people run.

To the node it is a `Trainer` like any other. But it starts nobody and ends nobody: it listens on a socket in the
site's `run` folder, hands what is to be done to whoever is there, and waits where nobody is, saying so. A script that
goes, for whatever reason, finds the same request when it comes back; one that makes no optimizer step for `stall_s`
loses its link, and whatever it brings later is not taken for an answer to something else: each request has a ticket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from node.framing import HEAD
from node.loop import protocol
from node.loop.declarations import check_terms
from node.loop.form import is_script
from node.trainer import Described, EvaluateDone, Failed, Noted, Trainer, TrainerEvent, TrainerSettings
from swarm.charter import Charter
from swarm.errors import UsageError

if TYPE_CHECKING:
    from node.site import Site

CREDENTIALS = struct.Struct("3i")
"""Process, user and group at the other end of a Unix socket: `struct ucred`, unix(7)."""


def trainer_for(site: Site, settings: TrainerSettings, charter: Charter) -> Trainer:
    """Return the trainer of a site: its own worker for a file of functions, whoever attaches for a script.

    Raises:
        UsageError: no socket can be made in the site's folder, or the charter asks for what no script can do.
    """
    if not is_script(settings.task):
        return Trainer(settings)
    check_terms(charter, "couldn't start", settings.budget)
    return ScriptTrainer(settings, protocol.socket_path(site.run), folder=site.folder)


class ScriptTrainer(Trainer):
    """One script at a time, one request at a time. `folder` is the site's, `path` that of the socket."""

    def __init__(self, settings: TrainerSettings, path: Path, *, folder: Path) -> None:
        super().__init__(settings)
        self._path, self._listener = path, _listen(path)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._builder: Trainer | None = Trainer(dataclasses.replace(settings, data=folder, loader=None))
        self._selector.register(self._builder.fileno(), selectors.EVENT_READ)
        self._greeted = True  # Nobody is there who has not said hello.
        self._ticket = 0
        self._owed: tuple[int, str] | None = None  # The round, and model, whose evaluation comes with an update.
        self._known: tuple[str, protocol.Scores] | None = None  # A model whose evaluation came before it was asked for.
        self._early: list[TrainerEvent] = []
        self._came = False
        self._scores: bool | None = None  # Whether the script has models scored; not known at first.

    @property
    @override
    def bends(self) -> bool:
        return False  # The script's steps are its own.

    @property
    @override
    def waiting(self) -> str:
        if self._ready or (self._came and self._current is None and not self._requests):
            return ""  # It is there, or nothing is left to do.
        name = self._settings.task.name
        return f"waits for its script to come {'back' if self._came else 'and train'}: run `python {name}`"

    @property
    @override
    def unscored(self) -> str:
        return "" if self._scores is not False else "the script scores no model: register a function, peer.evaluate()"

    @override
    def start(self) -> None:
        """Let the script's model be built, in a process of its own; the script itself is its people's to start."""
        if self._builder is not None:
            self._builder.start()

    @override
    def describe(self, path: Path) -> None:
        assert self._builder is not None, "the model is built once"
        self._builder.describe(path)

    @override
    def appraise(self, round_: int, model: Path, terms: Sequence[tuple[Path, int]]) -> None:
        del model, terms
        self._early.append(Failed("appraise", round_, "a script in the loop form judges no work of others"))

    @override
    def abandon(self) -> None:
        if self._link is not None and self._ready and self._current is not None:
            with contextlib.suppress(OSError):
                protocol.send(self._link, {"do": "drop", "ticket": self._ticket})
        self._requests.clear()
        self._early.clear()
        self._current = self._owed = None

    @override
    def poll(self, now: float) -> list[TrainerEvent]:
        events = [*self._built(now), *self._early, *self._accept()]
        self._early.clear()
        if not self._ready:
            self._moved_at = now  # Only a script that is there can make no progress.
        return [*events, *super().poll(now)]

    @override
    def close(self) -> None:
        self._reap(kill=False)
        if self._builder is not None:
            self._builder.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._selector.close()

    # --- parts --------------------------------------------------------------------------------------------------

    def _built(self, now: float) -> list[TrainerEvent]:
        """Pass on what the process says that builds the model, and end it when it has."""
        if self._builder is None:
            return []
        events = self._builder.poll(now)
        if any(isinstance(event, (Described, Failed)) for event in events):
            self._selector.unregister(self._builder.fileno())
            self._builder.close()
            self._builder = None
        return events

    def _accept(self) -> list[TrainerEvent]:
        """Let a script in, unless one is there."""
        with contextlib.suppress(OSError):
            link, _ = self._listener.accept()
            if self._link is not None and self._greeted and not protocol.hung_up(self._link):
                why = f"another script trains at this site, as process {_process(self._link)}: end that one first"
                with contextlib.suppress(OSError):
                    protocol.send(link, {"do": "refuse", "why": why})
                link.close()
                return []
            events = self._gone()
            link.setblocking(False)
            self._link, self._received, self._greeted = link, b"", False
            self._selector.register(link, selectors.EVENT_READ)
            return events
        return []

    def _gone(self) -> list[TrainerEvent]:
        """Forget a script that is there no more. What it was asked for, the next one will be."""
        if self._link is None:
            return []
        was = self._ready
        self._reap(kill=False)
        return [Noted(f"the script has gone{'; this site ' if self.waiting else ''}{self.waiting}")] if was else []

    @override
    def _spawn(self) -> None:
        """A free worker: here one that is there, or will be."""
        if self._ready:
            self._send()

    @override
    def _send(self) -> None:
        assert self._link is not None, "a script that is ready has a link"
        assert self._current is not None, "only a request is sent"
        if self._current["do"] == "evaluate" and self._known is not None and self._known[0] == self._current["model"]:
            scored = self._known[1]
            self._early.append(_evaluated(int(self._current["round"]), scored))
            self._current = None
            return
        self._ticket += 1
        with contextlib.suppress(OSError):  # It may just have gone; the next poll notices.
            protocol.send(self._link, {**self._current, "ticket": self._ticket})

    @override
    def _read_messages(self, now: float) -> list[TrainerEvent]:
        if self._link is None:
            return []
        gone = False
        try:
            while not (gone := not (part := self._link.recv(1 << 16))):
                self._received += part
        except BlockingIOError:
            pass
        except OSError:
            gone = True
        events: list[TrainerEvent] = []
        try:
            while (body := self._next_body()) is not None:
                events += self._hear(protocol.reply_of(body), now)
                if self._link is None:
                    return events
        except UsageError as error:
            self._reap(kill=False)
            return [*events, Noted(f"a script's link was closed: {error.message}")]
        return [*events, *self._gone()] if gone else events

    def _next_body(self) -> bytes | None:
        """Take a whole message off what was received. Raises `UsageError` if one is too large to be a script's."""
        if len(self._received) < HEAD.size:
            return None
        length: int = HEAD.unpack_from(self._received)[0]
        if length > protocol.REPLY_BYTES_MAX:
            raise UsageError(f"couldn't read what the script said: {length} bytes", hint="use join() to talk to a node")
        end = HEAD.size + length
        if len(self._received) < end:
            return None
        body, self._received = self._received[HEAD.size : end], self._received[end:]
        return body

    def _hear(self, reply: protocol.Reply, now: float) -> Sequence[TrainerEvent]:
        if not self._greeted:
            return self._greet(reply, now)
        if reply.did == "step":
            self._moved_at = now
            current = self._current
            known = current is not None and current["do"] == "train" and current["round"] == reply.round
            return self._understand({"did": "step", "round": reply.round, "step": reply.step}, now) if known else []
        if self._current is None or (reply.ticket, reply.did) != (self._ticket, self._current["do"]):
            return []  # An answer to what was asked before the site rested.
        round_ = int(self._current["round"])
        if reply.did == "evaluate" and reply.later:
            events = self._unpaid()
            self._owed = round_, str(self._current["model"])
            self._current, self._moved_at = None, now
            return events
        if reply.did == "evaluate" and reply.error == protocol.UNSCORED:
            self._current, self._moved_at = None, now
            return self._lacking(round_)
        if reply.evaluation is not None or (reply.did == "evaluate" and not reply.error):
            self._scores = True
        events = []
        if reply.did == "train" and not reply.error:
            events += self._scored(str(self._current["model"]), reply.evaluation)
        message: dict[str, object] = {"did": reply.did, "round": round_, "samples": reply.samples}
        message |= {"metrics": reply.metrics, "remarks": reply.remarks, "cases": False}
        message["groups"] = [reply.samples] if reply.groups is None else reply.groups
        if reply.did == "train":
            message |= {"parameters": reply.parameters, "longest": reply.longest, "share": reply.share}
        if reply.error:
            message["error"] = reply.error
        return [*events, *self._understand(message, now)]

    def _greet(self, reply: protocol.Reply, now: float) -> Sequence[TrainerEvent]:
        if reply.did != "load" or reply.protocol != protocol.PROTOCOL:
            why = f"the node speaks protocol {protocol.PROTOCOL} with scripts, and this one {reply.protocol}"
            assert self._link is not None, "somebody spoke"
            with contextlib.suppress(OSError):
                protocol.send(self._link, {"do": "refuse", "why": f"{why}: update the older of them"})
            self._reap(kill=False)
            return [Noted(f"a script was refused: {why}")]
        self._greeted = self._ready = True
        self._moved_at = now
        back, self._came = self._came, True
        if self._current is not None:
            self._send()
        return [Noted(f"the script {'is back and ' if back else ''}trains here")]

    def _scored(self, model: str, scores: protocol.Scores | None) -> list[TrainerEvent]:
        """Take in what came with an update, of the model it was trained from: it may be asked for, or will be."""
        if scores is None:
            return self._unpaid()
        self._known = model, scores
        if self._owed is None or self._owed[1] != model:
            return self._unpaid()
        round_, self._owed = self._owed[0], None
        return [_evaluated(round_, scores)]

    def _unpaid(self) -> list[TrainerEvent]:
        """Say that what was owed did not come."""
        owed, self._owed = self._owed, None
        return [] if owed is None else self._lacking(owed[0])

    def _lacking(self, round_: int) -> list[TrainerEvent]:
        """Return that nothing scored a model. To people once: a script without a function has none in any round."""
        events: list[TrainerEvent] = []
        if self._scores is None:
            self._scores = False
            events.append(Noted(f"{self.unscored}. Rounds count all the same, and this is said once"))
        return [*events, Failed("evaluate", round_, protocol.UNSCORED, unscored=True)]

    @override
    def _stalled(self) -> Sequence[TrainerEvent]:
        self._reap(kill=True)
        wait = f"{self._settings.stall_s:g} s"
        return self._fail(
            f"the script made no optimizer step for {wait} and its link was closed; raise task.stall_s if it only needs"
            " longer, or call peer.step() where it trains without a torch optimizer"
        )

    @override
    def _reap(self, *, kill: bool) -> None:
        """Close the link. The process at the other end is not the node's to end."""
        del kill
        if self._link is None:
            return
        self._selector.unregister(self._link)
        self._link.close()
        self._link, self._ready, self._greeted = None, False, True


def _evaluated(round_: int, scores: protocol.Scores) -> EvaluateDone:
    """Return what a script said of a model. Where it told no cases, all of them are of one kind."""
    groups = (scores.samples,) if scores.groups is None else tuple(scores.groups)
    return EvaluateDone(round_, scores.samples, scores.metrics, groups)


def _listen(path: Path) -> socket.socket:
    protocol.check_path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"couldn't make the socket {path}: {error.strerror or error}", hint="use a folder that you can write to"
        ) from None
    listener.listen(8)
    listener.setblocking(False)
    return listener


def _process(link: socket.socket) -> str:
    """Return the number of the process at the other end, or a question mark where the system does not tell."""
    try:
        found = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    except (AttributeError, OSError):
        return "?"
    return str(CREDENTIALS.unpack(found)[0])
