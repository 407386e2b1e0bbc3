"""`swarm ledger`: ledgers read, verified and mended from their files. Needs no running node, imports no torch."""

from __future__ import annotations

import click

from node.cli.ledger.chain import blocks, certs, diff, verify
from node.cli.ledger.members import evidence, members, peer, peers
from node.cli.ledger.overview import log, show, stats, status
from node.cli.ledger.reading import REPAIR, verify_quietly
from node.cli.ledger.repair import repair
from node.cli.ledger.reporting import report
from node.cli.ledger.rounds import round_, rounds

__all__ = ["REPAIR", "ledger", "verify_quietly"]


@click.group()
def ledger() -> None:
    """Inspect and verify the ledger in a site's folder."""


for _command in (
    *(status, log, show, rounds, round_, peers, peer, members, evidence),
    *(verify, blocks, certs, diff, stats, report, repair),
):
    ledger.add_command(_command)
