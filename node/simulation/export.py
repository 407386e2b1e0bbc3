"""From a simulation to the real thing: the command that drafts a charter with the topology that was chosen.

`swarm charter new` names families and schedules. A graph that it cannot name is given as the lines that belong into
the draft, before anybody signs it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from node.simulation.results import Result
from node.storage import write_file_durably
from swarm.charter import options_of
from swarm.errors import UsageError
from topologies.families import FAMILIES
from topologies.plan import LINKS
from topologies.scenario import OWN, Scenario
from topologies.schedules import Schedule


def write_charter(folder: Path, result: Result, scenario: Scenario, schedule: Schedule, task: Path) -> list[Path]:
    """Write `charter.sh`, the command, and `topology.toml`, what it stands for; return both paths.

    Raises:
        UsageError: Nothing was recommended, or nodes cannot run what was.
    """
    found = result.recommendation
    if found is None:
        raise UsageError("couldn't export a charter: no topology was finished", hint="let the simulation finish")
    gossip = scenario.learning.mixing == "gossip"
    named = found.topology != OWN and (gossip or found.topology in FAMILIES)
    command, topology = folder / "charter.sh", folder / "topology.toml"
    write_file_durably(
        command,
        _command(scenario, found.topology, task, named=named, directed=gossip and not schedule.symmetric).encode(),
        mode=0o644,
    )
    write_file_durably(topology, _topology(scenario, found.topology, schedule, named=named).encode(), mode=0o644)
    return [command, topology]


def _command(scenario: Scenario, topology: str, task: Path, *, named: bool, directed: bool) -> str:
    terms, learning = scenario.terms, scenario.learning
    arguments = ["swarm", "charter", "new", "--name", scenario.name, "--task", str(task)]
    arguments += ["--rounds", str(learning.rounds), "--seed", str(learning.seeds[0])]
    arguments += ["--patience", f"{terms.patience_s:g}", "--deadline", f"{terms.deadline_s:g}"]
    arguments += ["--clip-norm", f"{terms.clip_norm:g}", "--metrics", "accuracy,loss"]
    if terms.min_contributions:
        arguments += ["--min-contributions", str(terms.min_contributions)]
    if named:
        arguments += ["--gossip" if learning.mixing == "gossip" else "--topology", topology]
    if directed:
        arguments.append("--directed")
    if learning.correction:
        arguments += ["--correction", learning.correction]
    cards = " \\\n  ".join(f"--card {shlex.quote(f'{site.name}.card.toml')}" for site in scenario.sites)
    more = ""
    if not named:
        more = (
            "#\n# This topology has no name that the command knows: put the lines of topology.toml into charter.toml\n"
            "# afterwards, before anybody signs.\n"
        )
    return (
        f"# Draft the charter of {scenario.name} with the topology {topology}, as simulated. Every site sends its\n"
        "# card.toml (`swarm init`); save each under the name below. The task file is the one that was simulated.\n"
        f"{more}{shlex.join(arguments)} \\\n  {cards}\n"
    )


def _topology(scenario: Scenario, topology: str, schedule: Schedule, *, named: bool) -> str:
    gossip = scenario.learning.mixing == "gossip"
    names = ", ".join(f'"{name}"' for name in scenario.names)
    head = f'# The topology {topology} of {scenario.n} sites, as simulated.\ntopology = "{topology}"\n'
    head += f'mixing = "{scenario.learning.mixing}"\nsites = [{names}]\n'
    links = ", ".join(f"[{low}, {high}]" for low, high in schedule.links.edges)
    if named:
        return f"{head}\n# Which sites are linked, by their place in the list above.\nlinks = [{links}]\n"
    chosen = options_of(correction=scenario.learning.correction, schedule=LINKS)
    options = ", ".join(f'["{name}", "{text}"]' for name, text in chosen)
    rule = (
        '# In [round] of the draft: mixing = "gossip". In [share], in place of the lines of the same names:\n'
        f"edges = [{links}]\noptions = [{options}]\n"
        if gossip
        else f"# In [share] of the draft, in place of the line of the same name:\nedges = [{links}]\n"
    )
    return f"{head}\n{rule}"
