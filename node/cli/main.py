"""The `swarm` command. Subcommands are loaded when they are used: `swarm --help` must not wait for anything."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import click

from node.cli.lazy import LazyGroup
from node.cli.output import INTERRUPTED, Failure, fail, wants_json
from node.terminal import spell_out
from swarm.errors import SwarmError, UsageError

COMMANDS = {
    "init": ("node.cli.init:init", "Make a site: settings, keys, card."),
    "keygen": ("node.cli.init:keygen", "Make only a site's keys and card."),
    "key": ("node.cli.key:key", "Encrypt a site's keys where they lie."),
    "charter": ("node.cli.charter:charter", "Draft, sign, check and show the terms of a swarm."),
    "start": ("node.cli.start:start", "Run this site's peer."),
    "pause": ("node.cli.pause:pause", "Let this site train nothing for a while."),
    "resume": ("node.cli.pause:resume", "Let this site train again."),
    "status": ("node.cli.status:status", "Ask the running peer how things stand."),
    "doctor": ("node.cli.doctor:doctor", "Look whether this site can take part."),
    "members": ("node.cli.members:members", "Show who the members are and what is proposed."),
    "invite": ("node.cli.members:invite", "Invite a site to ask to join."),
    "join": ("node.cli.members:join", "Ask to join a running swarm with an invitation."),
    "vote": ("node.cli.members:vote", "Say yes or no to what a member proposes."),
    "leave": ("node.cli.members:leave", "Propose that this site leaves."),
    "withdraw": ("node.cli.withdraw:withdraw", "Take back this site's work of some rounds."),
    "remove": ("node.cli.members:remove", "Propose that a member is removed."),
    "rotate": ("node.cli.members:rotate", "Take new keys or another address."),
    "policy": ("node.cli.members:policy", "Propose another policy of rounds."),
    "export": ("node.cli.export:export", "Write the model, or this site's own."),
    "backup": ("node.cli.backup:backup", "Keep this site as one file, and restore it."),
    "approve": ("node.cli.approve:approve", "Let out the update that waits for this site's people."),
    "egress": ("node.cli.egress:egress", "What may leave this site, and what has."),
    "privacy": ("node.cli.privacy:privacy", "Plan what noise a budget asks for; show what is spent."),
    "support-bundle": ("node.cli.support:support_bundle", "Gather what others need to help, and no secret."),
    "dashboard": ("node.cli.dashboard:dashboard", "Show this site in a browser."),
    "top": ("node.cli.top:top", "Watch this site on a terminal."),
    "metrics": ("node.cli.metrics:metrics", "Show numbers for Prometheus, and whether this site is well."),
    "track": ("node.cli.track:track", "Show a run in TensorBoard or MLflow."),
    "trace": ("node.cli.trace:trace", "Send this site's rounds as OpenTelemetry spans."),
    "ledger": ("node.cli.ledger:ledger", "Inspect and verify the ledger."),
    "evaluate": ("node.cli.evaluate:evaluate", "Compare the swarm's model with this site alone."),
    "solo": ("node.cli.solo:solo", "Train a task alone, with no swarm."),
    "simulate": ("node.cli.simulate:simulate", "Try topologies before you deploy one."),
    "demo": ("node.cli.demo:demo", "Five hospitals learn together on this machine."),
    "completion": ("node.cli.completion:completion", "Let a shell complete commands and options."),
}


def _tell_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Say which version this is. What finds it out takes as long to import as all else here: only who asks waits."""
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("swarm-node")
    except PackageNotFoundError:
        found = "unknown (not installed)"
    click.echo(f"swarm, version {found}")
    context.exit()


@click.group(cls=LazyGroup, table=COMMANDS, exit_codes=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Show the whole trace of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_tell_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context, *, verbose: bool) -> None:
    """Hospitals, banks and labs learn one model together, with nobody in the middle.

    Each site runs one peer beside its own data. Start with `swarm demo`, or with `swarm init`.
    """
    ctx.obj = {"verbose": verbose}


def main() -> None:
    """Run the command line: the one place where errors become words and exit codes."""
    stdout = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        spell_out(stream)
    try:
        _run(sys.argv[1:])
        stdout.flush()
    except BrokenPipeError:
        _end_unheard()
    except SystemExit:
        if sys.stdout is not stdout:  # So click says that nobody reads any more: it has put another in its place.
            _end_unheard()
        raise


def _end_unheard() -> None:
    """End as programs do whose reader has gone, without a word.

    Only now: as long as a command runs, a broken pipe must be an error. Else whoever asked a peer for its status, and
    did not wait for the answer, would end it.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def _run(arguments: list[str]) -> None:
    as_json, verbose = wants_json(arguments), "-v" in arguments or "--verbose" in arguments
    try:
        cli.main(args=arguments, prog_name="swarm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - the outermost line
        if verbose:
            click.echo("".join(traceback.format_exception(error)), err=True)
        fail(_in_words(error), as_json=as_json)


def _in_words(error: BaseException) -> SwarmError:
    """Return an error of any kind as a sentence and a hint."""
    match error:
        case SwarmError():
            return error
        case KeyboardInterrupt() | click.Abort():
            return Failure("interrupted", code=INTERRUPTED)
        case click.ClickException():
            context = error.ctx if isinstance(error, click.UsageError) else None
            words = " ".join(error.format_message().split()).removesuffix(".")
            where = "swarm" if context is None else context.command_path
            return UsageError(f"couldn't run {where}: {words[:1].lower()}{words[1:]}", hint=f"see `{where} --help`")
        case OSError(filename=str(path), strerror=str(wrong)):
            return UsageError(f"couldn't use {path}: {wrong}", hint="name another, or allow this user to use it")
        case _:
            return SwarmError(
                f"something unexpected went wrong: {type(error).__name__}: {error}",
                hint="run the same command with `swarm -v ...` and report what it prints",
            )


if __name__ == "__main__":
    main()
