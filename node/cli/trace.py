"""`swarm trace`: a site's rounds as spans, to a collector that speaks OpenTelemetry's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from node.cli.control import ask
from node.cli.init import FOLDER, JSON
from node.cli.ledger.following import Following
from node.cli.ledger.sources import open_folder
from node.cli.output import FAILED, Failure, count, emit, tell
from node.clock import Clock, sleep
from node.site import Site
from node.telemetry.awaited import awaited
from node.telemetry.otlp import Collector, over_http
from node.telemetry.spans import HANGING_S, Span, Spans
from node.telemetry.tail import Tail
from swarm.errors import SwarmError, UsageError
from swarm.machine import NodeId

AGAIN_S, AGAIN_S_MAX = 1.0, 60.0
"""After which a collector that does not answer is tried again: twice as long each time, and never longer than that."""


@click.command(epilog="Example: swarm trace hospital-a --otlp http://127.0.0.1:4318 --follow")
@FOLDER
@click.option("--otlp", metavar="URL", required=True, help="The collector, http://HOST:4318 or https://...")
@click.option("--follow", is_flag=True, help="Go on as the log grows, until interrupted.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between looks, with --follow."
)
@click.option("--anywhere", is_flag=True, help="Let an http:// collector be on another machine: nothing is encrypted.")
@JSON
def trace(folder: Path, otlp: str, *, follow: bool, every: float, anywhere: bool, as_json: bool) -> None:
    """Send the rounds of the site in FOLDER as OpenTelemetry spans: training, sending, waiting, averaging.

    They are made of the site's log, beside the node, which knows nothing of it. Where other sites do so too and to the
    same collector, all spans of a round are one trace. A round that hangs is told of meanwhile, with whom it waits for.
    """
    site = Site(folder)
    settings = site.load_settings()
    if not settings.run.log_file:
        hint = "set it, as `run/log.jsonl`, and start the node again: spans are made of the log"
        raise UsageError(f"couldn't trace {folder}: run.log_file is empty", hint=hint)
    node, exporter = site.node(), over_http(otlp, anywhere=anywhere)
    about = {
        "service.name": "swarm-node",
        "service.instance.id": node.hex(),
        "swarm.site": settings.site.name,
    }
    collector = Collector(exporter, about)
    tail, spans, look = Tail(folder / settings.run.log_file), Spans(node), Hanging(site, node)
    try:
        if follow:
            _follow(tail, spans, look, collector, every, otlp)
        else:
            _feed(tail, spans, collector)
            collector.take(look(spans, least_s=0.0))
        collector.take(spans.rest())
        answered = collector.deliver()
    finally:
        collector.close()
        look.close()
    data = {"spans": collector.handed, "lost": collector.lost, "to": otlp}
    if not answered and not follow:
        text = f"couldn't hand on {count(collector.lost, 'span')}: the collector at {otlp} takes none"
        raise Failure(text, code=FAILED, hint="look whether it runs and speaks OTLP over HTTP, and try again")
    lost = f", {collector.lost} lost" if collector.lost else ""
    emit(data, as_json=as_json, text=f"{count(collector.handed, 'span')} handed to {otlp}{lost}")


class Hanging:
    """Looks at rounds that are open. Only where there is one that hangs are the node and its ledger asked anything."""

    def __init__(self, site: Site, node: NodeId) -> None:
        self._site, self._node, self._clock = site, node, Clock()
        self._following: Following | None = None

    def __call__(self, spans: Spans, *, least_s: float) -> Sequence[Span]:
        """Return what there is to tell now. Of a node that does not run it is said: that may be all there is to it."""
        found = spans.hanging(self._clock.now(), self._awaited, least_s=least_s)
        if found and not self._up():
            return [replace(span, attributes={**span.attributes, "swarm.down": True}) for span in found]
        return found

    def close(self) -> None:
        """Let go of the ledger's files."""
        if self._following is not None:
            self._following.close()
            self._following = None

    def _up(self) -> bool:
        try:
            ask(self._site.control)
        except SwarmError:
            return False
        return True

    def _awaited(self, round_: int, phase: str) -> Sequence[str]:
        try:
            if self._following is None:
                self._following = Following(open_folder(self._site.folder))
            self._following.catch_up()
        except SwarmError:  # It is not there yet, or does not hold: then nobody knows, until it is mended.
            self.close()
            return ()
        return awaited(self._following.result, self._node, round_, phase)


def _feed(tail: Tail, spans: Spans, collector: Collector) -> None:
    for line in tail.lines():
        collector.take(spans.take(line))


def _follow(tail: Tail, spans: Spans, look: Hanging, collector: Collector, every: float, otlp: str) -> None:
    """Go on until interrupted. A collector that is away costs nothing but, in the end, spans."""
    clock, wait_s, again_at, silent = Clock(), AGAIN_S, 0.0, False
    try:
        while True:
            _feed(tail, spans, collector)
            collector.take(look(spans, least_s=HANGING_S))
            if clock.now() >= again_at:
                if collector.deliver():
                    if silent:
                        tell("collector_back", f"the collector at {otlp} takes spans again")
                    wait_s, silent = AGAIN_S, False
                else:
                    if not silent:
                        waiting = count(collector.waiting, "span")
                        tell("collector_away", f"the collector at {otlp} takes no spans: {waiting} wait for it")
                    again_at, wait_s, silent = clock.now() + wait_s, min(2 * wait_s, AGAIN_S_MAX), True
            sleep(every)
    except KeyboardInterrupt:  # The way to end it.
        return
