"""`swarm completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from node.cli.init import JSON
from node.cli.output import emit

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_SWARM_COMPLETE"


@click.command(epilog='Example: eval "$(swarm completion bash)"')
@click.argument("shell", type=click.Choice(SHELLS))
@JSON
@click.pass_context
def completion(context: click.Context, shell: str, *, as_json: bool) -> None:
    """Print what makes SHELL complete the commands and options of swarm.

    In bash: `eval "$(swarm completion bash)"` in ~/.bashrc; in zsh the same with zsh in ~/.zshrc; in fish
    `swarm completion fish > ~/.config/fish/completions/swarm.fish`.
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows all three"
    source = found(context.find_root().command, {}, "swarm", VARIABLE).source()
    emit({"shell": shell, "source": source}, as_json=as_json, text=source.strip())
