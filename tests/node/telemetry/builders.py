"""Logs of sites that did what sites do in a round, at times that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

from node.logfile import LogFile
from node.telemetry.traces import Names
from swarm.machine import NodeId, Report

LEDGER = bytes(range(32))


def site(index: int) -> NodeId:
    return NodeId(bytes([index]) * 32)


def write_log(path: Path, index: int, rounds: int = 2, *, sites: int = 3, begin: float = 1000.0) -> None:
    """Have a site log rounds of 100 s: it trains for 10 s and `index` more, and the last one's update closes the round."""
    log = LogFile(
        path, node=f"site-{index}", bytes_max=1 << 20, count=2, level="info", names=Names(LEDGER, site(index))
    )

    def say(event: str, at: float, level: str = "info", **values: float | str) -> None:
        log.report(Report(event, f"{event}.", values, level=level), at)

    say("link_up", begin - 1, peer="b")
    for number in range(1, rounds + 1):
        at = begin + 100 * (number - 1)
        say("training", at, "debug", round=number)
        say("trained", at + 10 + index, round=number, samples=50 + index)
        say("round_closed", at + 20, round=number, missing="", sites=sites)
        say("mixed", at + 22, round=number, model="00")
        for other in range(sites):
            if other != index:
                more = {
                    "to": site(other).hex(),
                    "digest": "aa",
                    "began": at + 11 + index,
                    "seconds": 2.0,
                    "bytes": 4000,
                }
                say("sent", at + 23, "debug", round=number, peer=f"site-{other}", **more)
                given = {**more, "from": more["to"], "began": at + 14 + index, "seconds": 1.0, "bytes": 3000}
                del given["to"]
                say("received", at + 23, "debug", round=number, peer=f"site-{other}", **given)
        say("round_committed", at + 25, round=number, model="00", height=number)
        say("evaluating", at + 25, "debug", round=number)
        say("evaluated", at + 28, round=number, samples=5)
    log.close()
