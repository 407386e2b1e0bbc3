"""From a simulation to the real thing: the command that drafts a charter with the topology that was chosen.

`swarm charter new` names families and schedules. A graph that it cannot name goes along as a list of links.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from node.simulation.results import Result
from node.storage import write_file_durably
from swarm.errors import UsageError
from topologies.families import FAMILIES
from topologies.plan import LINKS
from topologies.scenario import METRICS, OWN, Scenario
from topologies.schedules import Schedule


def write_charter(folder: Path, result: Result, scenario: Scenario, schedule: Schedule, task: Path) -> list[Path]:
    """Write `charter.sh`, the command, and `topology.toml`, what it stands for; return both paths.

    Where the topology has no name, there is `links.txt` too, which the command takes.

    Raises:
        UsageError: Nothing was recommended, or nodes cannot run what was.
    """
    found = result.recommendation
    if found is None:
        raise UsageError("couldn't export a charter: no topology was finished", hint="let the simulation finish")
    gossip = scenario.learning.mixing == "gossip"
    arcs = scenario.arcs if found.topology == OWN else ()
    named = found.topology != OWN and (gossip or found.topology in FAMILIES)
    command, topology, links = folder / "charter.sh", folder / "topology.toml", folder / "links.txt"
    directed = gossip and not arcs and not schedule.symmetric
    written = _command(scenario, found.topology, task, None if named else links, directed=directed)
    write_file_durably(command, written.encode(), mode=0o644)
    write_file_durably(topology, _topology(scenario, found.topology, schedule).encode(), mode=0o644)
    if not named:
        listed = "".join(f"{scenario.names[a]} {scenario.names[b]}\n" for a, b in arcs or schedule.links.edges)
        what = "Which site gives its model to which" if arcs else "Which sites are linked"
        write_file_durably(links, f"# {what}, as simulated.\n{listed}".encode(), mode=0o644)
    return [command, topology]


def _command(scenario: Scenario, topology: str, task: Path, links: Path | None, *, directed: bool) -> str:
    terms, learning = scenario.terms, scenario.learning
    arguments = ["swarm", "charter", "new", "--name", scenario.name, "--task", str(task)]
    arguments += ["--rounds", str(learning.rounds), "--seed", str(learning.seeds[0])]
    arguments += ["--patience", f"{terms.patience_s:g}", "--deadline", f"{terms.deadline_s:g}"]
    arguments += ["--clip-norm", f"{terms.clip_norm:g}", "--metrics", ",".join(METRICS)]
    if terms.weight_cap < 1:
        arguments += ["--weight-cap", f"{terms.weight_cap:g}"]
    if terms.min_contributions:
        arguments += ["--min-contributions", str(terms.min_contributions)]
    gossip = learning.mixing == "gossip"
    if links is not None and scenario.arcs:
        arguments += ["--arcs", str(links)]
    elif links is None:
        arguments += ["--gossip" if gossip else "--topology", topology]
    else:
        arguments += ["--links", str(links), *(["--gossip", LINKS] if gossip else [])]
    if not gossip and terms.staleness is not None:
        arguments += ["--staleness", str(terms.staleness)]
    if terms.asynchronous:
        arguments.append("--asynchronous")
    if not gossip and terms.waited:
        arguments += ["--pace", str(terms.pace)]
    if terms.relay:
        arguments.append("--relay")
    if directed:
        arguments.append("--directed")
    if learning.codec:
        arguments += ["--codec", learning.codec]
    if learning.gamma is not None:
        arguments += ["--gamma", f"{learning.gamma:g}"]
    if learning.clip:
        arguments += ["--clip", str(learning.clip)]
    if learning.stop:
        arguments += ["--stop", learning.stop]
    if learning.correction:
        arguments += ["--correction", learning.correction]
    if learning.outer != "none":
        arguments += ["--outer", learning.outer]
    if learning.rule:
        arguments += ["--rule", learning.rule]
    if learning.salt:
        arguments.append("--salt")
    if scenario.route is not None:
        arguments += ["--route", learning.route]
    cards = " \\\n  ".join(f"--card {shlex.quote(f'{site.name}.card.toml')}" for site in scenario.sites)
    return (
        f"# Draft the charter of {scenario.name} with the topology {topology}, as simulated. Every site sends its\n"
        "# card.toml (`swarm init`); save each under the name below. The task file is the one that was simulated.\n"
        f"{shlex.join(arguments)} \\\n  {cards}\n"
    )


def _topology(scenario: Scenario, topology: str, schedule: Schedule) -> str:
    names = ", ".join(f'"{name}"' for name in scenario.names)
    head = f'# The topology {topology} of {scenario.n} sites, as simulated.\ntopology = "{topology}"\n'
    head += f'mixing = "{scenario.learning.mixing}"\nsites = [{names}]\n'
    links = ", ".join(f"[{low}, {high}]" for low, high in schedule.links.edges)
    return f"{head}\n# Which sites are linked, by their place in the list above.\nlinks = [{links}]\n"
