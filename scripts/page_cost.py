"""What being watched costs a node, and what watching costs: processor time a second, by the number of sites.

    PYTHONPATH=. python scripts/page_cost.py [--sites 5 50] [--rounds 3] [--long 500]

A node of the simulated world is asked what a page, a terminal or Prometheus asks once a second: the answer it makes
and writes down is all that the node does for them. What the page's own process does - parse the answer, judge it,
write the documents - is told beside it. Two things take longer the longer a run is: adding up all rounds, which the
page does at intervals, and the numbers for Prometheus. They are told of a run of `--long` rounds, of which the last is
repeated as often as it takes. Medians of processor time, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import msgspec
from prometheus_client.exposition import generate_latest

from node.core import Node
from node.dashboard import documents
from node.dashboard.feed import told
from node.watch.look import Look
from node.watch.server import registry_of
from swarm.ledger.audit import RoundView, audit
from swarm.machine import RECORD_BLOCK
from tests.builders import make_swarm
from tests.sites import calm_world

GOAL = 0.02


def seconds(work: Callable[[], object], times: int = 30) -> float:
    """Return the median processor time of some work."""
    took = []
    for _ in range(times):
        begun = time.process_time()
        work()
        took.append(time.process_time() - begun)
    return statistics.median(took)


def repeated(view: RoundView, number: int) -> RoundView:
    """Return a round as if it had been a later one, with work of that one."""
    assert view.closed is not None, "it is over"
    work = [(one, msgspec.structs.replace(one.body, round=number)) for one in view.closed.terms]
    terms = tuple(msgspec.structs.replace(one, body=body) for one, body in work)
    return dataclasses.replace(view, number=number, closed=msgspec.structs.replace(view.closed, terms=terms))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int, default=500)
    given = parser.parse_args()
    print(f"{'':6}  {'of one core, asked once a second':>18}  {f'{given.long} rounds, once':>20}")
    print(f"{'sites':>6}  {'node':>8}  {'page':>22}  {'totals':>9}  {'numbers':>9}")
    for sites in given.sites:
        swarm = make_swarm(sites, rounds=given.rounds)
        world = calm_world(swarm)
        assert world.run(lambda w: all(place.finished for place in w.places), end_s=600.0)
        machine = world.place(0).machine
        assert isinstance(machine, Node)
        journal = world.place(0).journal
        assert journal is not None
        payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
        *_, result = audit(payloads, swarm.signed, trusting=True)
        answer = json.dumps(machine.status(world.now))
        node = seconds(lambda machine=machine, world=world: json.dumps(machine.status(world.now)))  # type: ignore[misc]

        look = Look(
            at_s=0.0, name="site-0", status=None, silence="", audit=result, trouble="", disk_free=1 << 40, ledger_size=1
        )

        def watch(answer: str = answer, look: Look = look) -> str:
            seen = dataclasses.replace(look, status=json.loads(answer))
            return told(json.dumps(documents.state(seen)), seen, given.rounds)

        page = seconds(watch)
        last = result.rounds[given.rounds - 1]
        for number in range(given.rounds + 1, given.long + 1):
            result.rounds[number] = repeated(last, number)
        totals = seconds(lambda result=result: documents.sums(result), 5)  # type: ignore[misc]
        numbers = seconds(lambda look=look: generate_latest(registry_of(lambda: look)), 5)  # type: ignore[misc]
        print(f"{sites:>6}  {node:8.2%}  {page:22.2%}  {1000 * totals:6.0f} ms  {1000 * numbers:6.0f} ms", flush=True)
    print(f"goal: less than {GOAL:.0%} of the node at 50 sites")


if __name__ == "__main__":
    main()
