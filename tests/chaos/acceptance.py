"""The acceptance run: a scenario on real processes in a network of their own, judged by what their ledgers say.

    python -m tests.chaos.acceptance                       the packaged scenario `bad-week`, as `make chaos` runs it
    python -m tests.chaos.acceptance --scenario FILE|NAME --seed 3 --scale 2 --keep FOLDER
    python -m tests.chaos.acceptance --simulated --seeds 1,2,3

The same file is played in the simulated world by `--simulated`, with the same claims, and by `swarm simulate`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from node.cli.output import INTERRUPTED
from node.clock import Clock, sleep
from node.storage import BlobStore
from swarm.ledger.block import faults
from swarm.machine import Digest
from tests.chaos import simulated
from tests.chaos.cluster import running
from tests.chaos.judge import Failed, Told, judge
from tests.chaos.namespaces import why_not
from tests.chaos.plan import Act, Step, Trouble, timetable
from tests.chaos.stage import ACCEPTANCE, Ended, Stage, scenario_of, set_up
from topologies.scenario import Scenario

LIMIT_S = 900.0
"""A run that has not ended by then has failed: what `make chaos` may take, all told."""

LOOK_S = 0.3
"""Between looks at how far everybody is; windows of rounds are known to within a few of these."""

HOLD_S_MAX = 5.0
"""A start takes less where a machine is not overloaded; where it is, the swarm may lose its quorum for a while, and waits."""

AWAKE_S = 120.0
"""Eight processes share a machine while they start."""

REAL_LAG_S, REAL_GRACE_S = 4.0, 20.0
"""Looking takes a while, and so do a start, catching up and a first round where all sites share two cores."""

SIMULATED_LAG_S, SIMULATED_GRACE_S = 3.0, 15.0

Say = Callable[[str], None]


class Story:
    """The clock that a timetable goes by: seconds since the start, less what it was held.

    It is held while what is due next would take somebody away, and too many who were started do not answer yet. What
    takes two seconds on an idle machine takes half a minute on a busy one, and a plan in which one machine after the
    other is restarted would have them all down at once. But for `HOLD_S_MAX` at most: meanwhile the swarm goes on, and
    must not be done before its misfortunes are.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.now()
        self._since: float | None = None

    @property
    def held_s(self) -> float:
        """For how long it has been held without a break."""
        return 0.0 if self._since is None else self._clock.now() - self._since

    def now(self) -> float:
        """Return the time of the story."""
        return (self._clock.now() if self._since is None else self._since) - self._begun

    def hold(self, holding: bool) -> None:
        """Hold it, or let it go on."""
        if holding and self._since is None:
            self._since = self._clock.now()
        elif not holding and self._since is not None:
            self._begun += self._clock.now() - self._since
            self._since = None


def play(stage: Stage, folder: Path, *, limit_s: float = LIMIT_S, say: Say = lambda _: None) -> Ended:
    """Play a stage's scenario on processes; nobody does anything but what the scenario says.

    Raises:
        Failed: It does not come to its end in time, or comes there before its misfortunes do.
        AssertionError: A process ended by itself.
    """
    scenario = stage.scenario
    due = [*timetable(scenario.plan(stage.seed), scenario.n)]
    over: dict[int, float] = {}
    slow_starts: list[Trouble] = []
    clock = Clock()
    with running(stage, folder) as cluster:
        born = clock.now()
        cluster.start_all()
        while cluster.starting():
            cluster.poll()
            if clock.now() - born > AWAKE_S:
                raise Failed(f"not everybody answers {AWAKE_S:.0f} s after the start: {cluster.where()}")
            sleep(LOOK_S)
        say(f"all {scenario.n} peers are up after {clock.now() - born:.0f} s")
        story = Story(clock)
        while not cluster.done() or due:
            now = story.now()
            starting = cluster.starting()
            while due and due[0].at_s <= now:
                if _too_many(due[0], len(starting), scenario.n) and story.held_s < HOLD_S_MAX:
                    break
                step = due.pop(0)
                cluster.do(step)
                say(f"{now:6.1f} s  {_words(step, scenario)}")
            cluster.poll()
            story.hold(bool(due) and due[0].at_s <= now)
            until_s = story.now()
            slow_starts += [Trouble(slot=slot, from_s=now, until_s=until_s, gone=False) for slot in starting]
            for number in range(len(over) + 1, max(peer.committed for peer in cluster.peers) + 1):
                over[number] = story.now()
                say(f"{over[number]:6.1f} s  round {number}")
            if clock.now() - born > limit_s:
                raise Failed(f"not done after {clock.now() - born:.0f} s: {cluster.where()}")
            sleep(LOOK_S)
        cluster.stop()
        audits = cluster.audits()
        model = Digest(audits[0].state.committed.model)
        elements = audits[0].state.signed.charter.task.parameters  # What an outer optimiser remembers comes behind.
        data = np.fromfile(BlobStore(cluster.peers[0].site.blobs).path(model), dtype="<f4", count=elements)
        return Ended(audits=audits, accuracy=stage.accuracy(data), over=over, said=cluster.said(), starting=slow_starts)


def accept(scenario: Scenario, seed: int, folder: Path, *, say: Say = lambda _: None) -> Told:
    """Play a scenario on processes and judge it; the undisturbed run it is compared with is simulated.

    That may be simulated: where nothing goes wrong, the simulated swarm ends with the very bytes of the networked one
    (`tests/integration/test_simulated_is_networked.py`).
    """
    undisturbed = simulated.play(set_up(scenario.undisturbed, seed, folder / "undisturbed")).accuracy
    ended = play(set_up(scenario, seed, folder), folder, say=say)
    return judge(scenario, seed, ended, undisturbed=undisturbed, lag_s=REAL_LAG_S, grace_s=REAL_GRACE_S)


def accept_simulated(scenario: Scenario, seed: int, folder: Path) -> Told:
    """Play a scenario in the simulated world and judge it by the same claims."""
    undisturbed = simulated.play(set_up(scenario.undisturbed, seed, folder / "undisturbed")).accuracy
    ended = simulated.play(set_up(scenario, seed, folder))
    return judge(scenario, seed, ended, undisturbed=undisturbed, lag_s=SIMULATED_LAG_S, grace_s=SIMULATED_GRACE_S)


def _too_many(step: Step, starting: int, sites: int) -> bool:
    """Whether a step takes somebody away while so many are still starting that no quorum might be left."""
    match step.act:
        case Act.KILL | Act.STOP:
            return starting >= max(1, faults(sites))
        case Act.CUT:
            return starting > 0
        case _:
            return False


def _words(step: Step, scenario: Scenario) -> str:
    whom = " and ".join(scenario.names[slot] for slot in step.slots) or step.name
    pairs = f", {len(step.pairs)} ways" if step.pairs else ""
    amount = f", {step.amount:g}" if step.amount else ""
    return f"{step.act.value} {whom}{pairs}{amount}"


@contextlib.contextmanager
def _folder(kept: Path | None, seed: int) -> Iterator[Path]:
    """A folder for one run: one that stays, or one that goes. Its path is short, for the sockets in it."""
    if kept is not None:
        yield kept / f"seed-{seed}"
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        yield Path(name)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Play and judge from the command line: 0 if all is as it must be, 1 if not, 2 if it cannot be played here.

    Interrupted, by SIGINT or SIGTERM, it tears down what it made and ends with 130.
    """
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scenario", default=ACCEPTANCE, help="a file, or the name of a packaged one")
    options.add_argument("--seeds", default="1", help="one run for each, as in 1,2,3")
    options.add_argument("--scale", type=float, default=1.0, help="how many times as long everything takes")
    options.add_argument("--keep", type=Path, help="a folder to leave the sites in")
    options.add_argument("--simulated", action="store_true", help="in the simulated world")
    chosen = options.parse_args()
    if not chosen.simulated and (reason := why_not()):
        print(f"skipped: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupted)  # so that whatever is under way is torn down
    scenario, failed = scenario_of(chosen.scenario).scaled(chosen.scale), False
    for seed in (int(text) for text in chosen.seeds.split(",")):
        with _folder(chosen.keep, seed) as folder:
            try:
                if chosen.simulated:
                    told = accept_simulated(scenario, seed, folder)
                else:
                    told = accept(scenario, seed, folder, say=lambda text: print(text, flush=True))
            except (Failed, AssertionError) as error:
                failed = True
                where = " --simulated" if chosen.simulated else ""
                print(f"seed {seed} FAILED: {error}")
                print(f"  replay: python -m tests.chaos.acceptance --scenario {chosen.scenario} --seeds {seed}{where}")
            except KeyboardInterrupt:
                print(f"seed {seed}: interrupted; its processes and its network are gone", file=sys.stderr)
                return INTERRUPTED
            else:
                print(f"seed {seed}: {told.words()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
