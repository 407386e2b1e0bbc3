"""What being watched costs a node, and what watching costs: processor time a second, by the number of sites.

    PYTHONPATH=. python scripts/page_cost.py [--sites 5 50 200] [--rounds 3]

A node of the simulated world is asked what a page, a terminal or Prometheus asks once a second: the answer it makes
and writes down is all that the node does for them. What the page's own process does - parse the answer, judge it,
write the documents - is told beside it. Medians of processor time, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from node.core import Node
from node.dashboard import documents
from node.dashboard.feed import told
from node.watch.look import Look
from swarm.ledger.audit import audit
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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 50, 200])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{'sites':>6}  {'node':>8}  {'page':>8}   of one core, asked once a second")
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

        def watch(answer: str = answer, result: object = result) -> str:
            look = Look(
                at_s=0.0, name="site-0", status=json.loads(answer), silence="", audit=result,  # type: ignore[arg-type]
                trouble="", disk_free=1 << 40, ledger_size=1,
            )  # fmt: skip
            return told(json.dumps(documents.state(look)), look, given.rounds)

        print(f"{sites:>6}  {node:8.2%}  {seconds(watch):8.2%}")
    print(f"goal: less than {GOAL:.0%} of the node at 50 sites")


if __name__ == "__main__":
    main()
