"""`swarm ledger status`: how a ledger stands, and its node if one runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from node.cli.forms import shown
from node.cli.ledger.checking import HeadOnly, follow
from node.cli.ledger.reading import (
    WHERE,
    date,
    judge,
    names_of,
    open_round,
    size_words,
    stop_words,
    torn_end,
    torn_lines,
)
from node.cli.ledger.sources import Files, Source, open_ledger
from node.cli.ledger.trust import TRUST, Standing, Watch, memory_at
from node.cli.output import UNAVAILABLE, Failure, emit
from node.exchanges import apart_words
from swarm.ledger.audit import Audit
from swarm.ledger.evidence import RULES
from swarm.ledger.state import best_of, noise_words
from swarm.machine import NodeId
from swarm.masking.noise import silent


@click.command(epilog="Example: swarm ledger status --node hospital")
@WHERE
@click.option("--node", is_flag=True, help="Fail, with 8, unless the site's node runs and answers.")
@TRUST
@shown
def status(folder: Path, trust_path: Path | None, *, node: bool, as_json: bool) -> None:
    """Show what the ledger holds, and what its node says if one runs there.

    The last certificate is checked, other signatures are not: that is for `verify`. Exit 5 when the ledger went back on
    what was seen of it before.
    """
    files = open_ledger(folder)
    running = _asked(files, required=node)
    watch = Watch(files.signed, memory_at(trust_path))
    result = follow(files, HeadOnly(), see=watch.see_audit)
    judge(files, result)
    watch.remember()
    signed, state = files.signed, result.state
    terms, best = state.terms, best_of(state)
    names = [seat.name for seat in terms.members]
    last = result.rounds.get(state.committed.round)
    final = f"round {state.committed.round} of {terms.round.rounds}"
    when = f", {date(last.committed_ms)}" if last is not None else ""
    text = "\n".join(
        (
            f"ledger     {signed.charter.name}  {signed.ledger_id.hex()}",
            f"size       {size_words(result)}, root {state.frontier.root().hex()[:32]}",
            f"members    {len(names)}: {', '.join(names)}{_epoch_words(result)}",
            f"quorum     {terms.quorum}  ({terms.fault_tolerance()})",
            f"committed  {final}{when}",
            *([f"stopping   {stop_words(state)}"] if state.stopping is not None else []),
            *([f"site noise {noise_words(state)}"] if signed.charter.site_noise is not None else []),
            f"final      {_final_words(result)}",
            f"model      {_model_words(result)}",
            *([f"outer      {signed.charter.outer.describe()}"] if signed.charter.outer.slots else []),
            f"evidence   {_evidence_words(result, names_of(result))}",
            f"open       {open_round(result)}",
            f"trust      {watch.words()}",
            *_node_lines(running, result),
            *(torn_lines(files, result.blocks) if running is None else ()),
        )
    )
    data = {
        "ledger_id": signed.ledger_id.hex(),
        "name": signed.charter.name,
        "entries": result.entries,
        "blocks": result.blocks,
        "root": state.frontier.root().hex(),
        "committed": state.committed.round,
        "rounds": terms.round.rounds,
        "model": state.committed.model.hex() if state.committed.model_bytes else None,
        "outer": signed.charter.round.outer,
        "epoch": terms.epoch,
        "members": names,
        "evidence": len(state.accused),
        "final": result.covered,
        "final_ms": state.time_ms if not result.uncovered else None,
        "trust": watch.plain(),
        "node": running,
        "torn": torn_end(files, result.blocks) if running is None else None,
    }
    if state.stopping is not None:
        data |= {"stopping": stop_words(state), "best": None if best is None else best.round}
    if (noise := signed.charter.site_noise) is not None:
        data["site_noise"] = {
            "epsilon": noise.epsilon(state.sums),
            "budget": noise.budget.epsilon,
            "delta": noise.budget.delta,
            "sums": state.sums,
            "of": noise.sums,
            "silent": silent(len(names)),
        }
    if watch.standing in (Standing.NEW, Standing.CONSISTENT) or not as_json:
        emit(data, as_json=as_json, text=text)
    watch.refuse()


def _model_words(result: Audit) -> str:
    """Return the digest of the last common model; in gossip, as long as there is none, how far the sites' are apart."""
    done = result.state.committed
    if done.model_bytes:
        return done.model.hex()
    commit = result.rounds[done.round].commit
    assert commit is not None, "it is committed"
    return f"one of its own at each site, {apart_words(commit)}"


def _evidence_words(result: Audit, names: dict[NodeId, str]) -> str:
    accused = [f"{names[node]} {RULES[rule]} (entry {index})" for (node, rule), index in result.state.accused.items()]
    return "; ".join(accused) or "none: no member is known to have contradicted itself"


def _epoch_words(result: Audit) -> str:
    """Return which epoch it is, where the members or the policy have ever changed; and what is agreed to come."""
    state = result.state
    now = f"   (epoch {state.terms.epoch}: see `swarm ledger epochs`)" if state.terms.epoch else ""
    return now + (f"; with the next block epoch {state.coming.epoch} begins" if state.coming is not None else "")


def _final_words(result: Audit) -> str:
    """Return in words how far the ledger is final."""
    if result.blocks == 0:
        return "nothing but the charter yet"
    if result.uncovered:
        return f"up to block {result.covered}; {result.uncovered} after it have no certificate yet"
    return f"up to block {result.blocks}, the last one, {date(result.state.time_ms)}"


def _asked(files: Source, *, required: bool) -> Mapping[str, object] | None:
    """Return what the node of this site says, None when none runs. Raises `Failure` when one is `required`."""
    if isinstance(files, Files) and (required or files.site.control.exists()):
        from node.cli.control import ask

        try:
            return ask(files.site.control)
        except Failure:
            if required:
                raise
    elif required:
        raise Failure(
            f"no node runs in {files.where}: it is no site's folder",
            code=UNAVAILABLE,
            hint="name a site's folder, or leave out --node",
        )
    return None


def _node_lines(running: Mapping[str, object] | None, result: Audit) -> list[str]:
    if running is None:
        return []
    members = running["members"]
    assert isinstance(members, list), "a status lists members"
    others = [row for row in members if row.get("member", True) and not row.get("me")]
    linked = sum(bool(row["linked"]) for row in others)
    ahead = int(str(running["height"])) - result.blocks
    newer = f", {ahead} newer than what was read" if ahead > 0 else ""
    doing = f"round {running['round']} ({running['phase']}), linked to {linked} of {len(others)}"
    line = f"node       runs, at block {running['height']}{newer}, {doing}"
    return [line] + [f"{key.upper():<10} {running[key]}" for key in ("paused", "halted") if running[key]]
