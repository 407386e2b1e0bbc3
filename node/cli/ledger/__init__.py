"""`swarm ledger`: ledgers read, verified and mended from their files. Needs no running node, imports no torch.

Each command is imported when it is used: an auditor's `swarm ledger status` does not wait for what makes reports.
"""

from __future__ import annotations

import click

from node.cli.lazy import LazyGroup

COMMANDS = {
    "status": ("overview:status", "How the ledger stands, and its node if one runs."),
    "log": ("entries:log", "List the entries, one a line."),
    "show": ("entries:show", "Show an entry, a block or a round whole."),
    "rounds": ("rounds:rounds", "List the rounds: who was missing, which model."),
    "round": ("rounds:round_", "Show who took part in a round, and how."),
    "peers": ("members:peers", "List how each member took part."),
    "peer": ("members:peer", "Show how one member took part, round by round."),
    "contributions": ("contributions:contributions", "List what each site's work was worth, by the charter's measure."),
    "members": ("members:members", "List the members with their keys and addresses."),
    "epochs": ("members:epochs", "List what the members have changed by vote."),
    "evidence": ("members:evidence", "List proofs that a member contradicted itself."),
    "forks": ("forks:forks", "Show proofs that the ledger has forked, and by whose doing."),
    "verify": ("verifying:verify", "Check everything, and say where it first fails."),
    "trust": ("trust:trust", "Show or forget what was seen of ledgers before."),
    "blocks": ("chain:blocks", "List the blocks: when, by whom, certified by whom."),
    "block": ("chain:block", "Show a block: header, signers, entries."),
    "certs": ("chain:certs", "Show the certificates that a block rests on."),
    "diff": ("chain:diff", "Compare two ledgers: equal, lag, fork or unrelated."),
    "stats": ("counting:stats", "Count what the ledger holds."),
    "lineage": ("lineage:lineage", "Show which models hold whose work, and what was taken back."),
    "card": ("card:card", "Write the model's card: members, terms, scores, origin."),
    "report": ("reporting:report", "Write the whole audit as one page for a browser."),
    "export": ("transport:export", "Take the ledger elsewhere: file, lines or tiles."),
    "import": ("transport:import_", "Check a bundle, or make a folder of it."),
    "checkpoint": ("exports:checkpoint", "Print the signed head of the log (C2SP)."),
    "policy": ("exports:policy", "Print whose signatures make a checkpoint good."),
    "vkeys": ("exports:vkeys", "Print the members' keys for checkpoints."),
    "prove": ("exports:prove", "Write a proof that the log holds an entry."),
    "check-proof": ("exports:check_proof", "Check such a proof, without the ledger."),
    "consistency": ("exports:consistency", "Prove that one checkpoint continues another."),
    "repair": ("repair:repair", "Replace damaged blocks by another member's."),
}


@click.group(
    cls=LazyGroup,
    table={name: (f"{__name__}.{where}", text) for name, (where, text) in COMMANDS.items()},
    exit_codes=True,
    epilog="Example: swarm ledger verify oncology.bundle",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def ledger() -> None:
    """Inspect and verify a ledger: in a site's folder, whether its node runs or not, in a bundle, or in tiles."""
