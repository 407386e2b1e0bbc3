"""Which topology, and why: from the runs of a comparison to one sentence, its reasons and a table.

The order of arguments is that of somebody who has to answer for the choice. First, does it learn as well as the best?
A topology counts when its peers reach the target: the one that was asked for, or else a point of accuracy below the
best. Then, what if a site goes away? One whose loss would cut others off is set behind those that have none. Then time
to the target, and bytes where times differ by less than `SAME_TIME`. The spectral gap decides nothing: it says how fast
gossip averages, not how well a model learns (Vogels, Hendrikx & Jaggi, "Beyond spectral gap", NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from node.console import size_words
from node.simulation.findings import duration_words
from node.simulation.report_words import goal_words, percent
from node.simulation.results import Recommendation, Result, Run, Speed, Verdict

NEAR_BEST = 0.01
"""Below the best final accuracy, what still counts as learning as well: a point, about the noise of one seed on a test
set of a few hundred examples."""

SAME_TIME = 0.15
"""Times closer than this share are called the same, as lines and machines are hardly known better; bytes decide."""

CHEAPER = 0.5
"""Share of the bytes from which a slower choice is worth a mention."""

MIXED_LATE = 0.02
"""Difference of best and worst site, on average, from which it is worth a remark."""

MORE = "More rounds may do, or a lower target."

PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 8: "an eighth", 10: "a tenth"}
NEARLY = 0.1
"""Parts of a whole in words, and how far from one a share may be to be called so."""


def recommend(runs: Sequence[Run], names: Sequence[str], target: float | None) -> Recommendation | None:
    """Compare finished runs; None if no topology was finished. Protocol runs are believed where there are any."""
    speeds: tuple[Speed, ...] = ("protocol", "learning")
    done = [run for run in runs if run.complete and run.tested]
    speed = next((speed for speed in speeds if any(run.speed == speed for run in done)), None)
    if speed is None:
        return None
    kept = [run for run in done if run.speed == speed]
    topologies = list(dict.fromkeys(run.topology for run in kept))
    groups = {name: [run for run in kept if run.topology == name] for name in topologies}
    final = {name: _mean([_final(run) for run in group]) for name, group in groups.items()}
    goal = max(final.values()) - NEAR_BEST if target is None else target
    ranked = sorted((_verdict(name, group, goal, len(names)) for name, group in groups.items()), key=_preference)
    ranked = _by_bytes_where_equal(ranked)
    best = ranked[0]
    table = (best, *(replace(one, remark=_remark(one, best, goal, groups[one.topology], names)) for one in ranked[1:]))
    return Recommendation(
        topology=best.topology,
        speed=speed,
        target=goal,
        sentence=_sentence(table, goal, groups[best.topology]),
        reasons=tuple(_reasons(best, table, goal, groups[best.topology], names)),
        table=table,
    )


def lines(result: Result) -> list[str]:
    """The comparison as text for a terminal, about 100 characters wide."""
    found = result.recommendation
    if found is None:
        return ["Nothing was finished, so there is nothing to compare."]
    wide = max(len("topology"), *(len(one.topology) for one in found.table))
    title = f"to {goal_words(found.target)}"
    head = (
        f"  {'topology':<{wide}}  accuracy  worst site  {title:>9}  seconds  {'run, s':>8}  {'node, round':>11}"
        f"  {'busiest':>8}  {'distance':>8}  losing one, two"
    )
    rows = [
        f"{'*' if one is found.table[0] else ' '} {one.topology:<{wide}}  {percent(one.accuracy):>8}"
        f"  {percent(one.accuracy_worst):>10}  {_rounds(one.target_round):>9}  {_seconds(one.target_s):>7}"
        f"  {one.total_s:>8.1f}"
        f"  {size_words(round(one.bytes_node_round)):>11}  {size_words(round(one.bytes_busiest)):>8}"
        f"  {_distance(one.consensus_distance):>8}  {_lost(one)}"
        for one in found.table
    ]
    return [head, *rows, "", found.sentence, *(f"  - {reason}" for reason in found.reasons)]


# --- one topology -----------------------------------------------------------------------------------------------------


def _final(run: Run) -> float:
    return run.tested[-1].accuracy_mean or 0.0


def _verdict(name: str, runs: Sequence[Run], goal: float, n: int) -> Verdict:
    reached = [run.first_at(goal) for run in runs]
    there = [one for one in reached if one is not None]
    all_there = len(there) == len(runs)
    before_last = [run.rounds[-2].consensus_distance for run in runs if len(run.rounds) > 1]
    known = [distance for distance in before_last if distance is not None]
    return Verdict(
        topology=name,
        accuracy=_mean([_final(run) for run in runs]),
        accuracy_worst=min(run.tested[-1].accuracy_min or 0.0 for run in runs),
        spread=_mean([_spread(run) for run in runs]),
        target_round=_mean([one.number for one in there]) if all_there else None,
        target_s=_mean([one.virtual_s for one in there]) if all_there else None,
        target_bytes=_mean([one.bytes_total / n for one in there]) if all_there else None,
        total_s=_mean([run.rounds[-1].virtual_s for run in runs]),
        round_s=_mean([run.rounds[-1].virtual_s / run.rounds[-1].number for run in runs]),
        bytes_node_round=_mean([run.rounds[-1].bytes_total / n / run.rounds[-1].number for run in runs]),
        bytes_busiest=_mean([run.rounds[-1].bytes_busiest for run in runs]),
        consensus_distance=_mean(known) if known else None,
        single_points=len(runs[0].resilience.single_points),
        survives_any_two=runs[0].resilience.survives_any_two,
        remark="",
    )


def _spread(run: Run) -> float:
    apart = [(one.accuracy_max or 0.0) - (one.accuracy_min or 0.0) for one in run.tested[:-1]]
    return _mean(apart) if apart else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# --- the order of preference ------------------------------------------------------------------------------------------


def _preference(one: Verdict) -> tuple[bool, bool, float, float, str]:
    late = math.inf if one.target_s is None else one.target_s
    # Without anybody at the target, the best learner is the least bad.
    otherwise = -one.accuracy if one.target_s is None else one.bytes_node_round
    return (one.target_s is None, one.single_points > 0, late, otherwise, one.topology)


def _by_bytes_where_equal(ranked: Sequence[Verdict]) -> list[Verdict]:
    """Of those that are as quick as the first and as safe, put the one that sends least first."""
    first = ranked[0]
    if first.target_s is None:
        return list(ranked)
    equals = [
        one
        for one in ranked
        if one.target_s is not None
        and one.target_s <= first.target_s * (1 + SAME_TIME)
        and (one.single_points > 0) == (first.single_points > 0)
    ]
    least = min(equals, key=lambda one: (one.target_bytes or 0.0, one.topology))
    return [least, *(one for one in ranked if one is not least)]


# --- words ------------------------------------------------------------------------------------------------------------


def _sentence(table: Sequence[Verdict], goal: float, runs: Sequence[Run]) -> str:
    """What to take, or how near the best came; `runs` are the best's, one a seed."""
    best = table[0]
    if best.target_s is not None and len(table) == 1:
        return f"{best.topology} reaches {goal_words(goal)} in {duration_words(best.target_s)}; nothing else was tried."
    if best.target_s is not None:
        return f"Take {best.topology}: it reaches {goal_words(goal)} in {duration_words(best.target_s)}{_risk(best)}."
    came = f"it came to {percent(best.accuracy)}"
    if len(runs) > 1:
        there = sum(run.first_at(goal) is not None for run in runs)
        came += f" on average and reached {goal_words(goal)} with {there or 'none'} of {len(runs)} seeds"
    if len(table) == 1:
        return f"{best.topology} does not reach {_always(goal, runs)}: {came}. {MORE}"
    nearer = any(one.accuracy > best.accuracy for one in table)
    which = (
        f"of those that hang on no single site, {best.topology} is nearest" if nearer else f"{best.topology} is nearest"
    )
    return f"None of the {len(table)} reaches {_always(goal, runs)}; {which}: {came}. {MORE}"


def _always(goal: float, runs: Sequence[Run]) -> str:
    return f"{goal_words(goal)} with every seed" if len(runs) > 1 else goal_words(goal)


def _risk(best: Verdict) -> str:
    return "" if not best.single_points else ", though every choice that learns as well hangs on single sites"


def _reasons(
    best: Verdict, table: Sequence[Verdict], goal: float, runs: Sequence[Run], names: Sequence[str]
) -> list[str]:
    others = table[1:]
    reasons = [
        f"Accuracy: {percent(best.accuracy)} after the last round, when all models become one"
        + (f"; {goal_words(goal)} after {_counted(best.target_round)}." if best.target_round is not None else ".")
    ]
    if best.target_s is not None:
        reasons += _times(best, best.target_s, others, goal)
    heavier = [one for one in others if one.bytes_node_round > best.bytes_node_round * 1.05]
    sent = f"Traffic: {size_words(round(best.bytes_node_round))} a node and round"
    if heavier:
        most = max(heavier, key=lambda one: one.bytes_node_round)
        times = most.bytes_node_round / best.bytes_node_round
        sent += f", {_fraction(times)} of what {most.topology} sends"
    reasons.append(f"{sent}; its busiest node sends {size_words(round(best.bytes_busiest))} in the whole run.")
    there = [one for one in others if one.target_s is not None and one.single_points <= best.single_points]
    cheaper = [one for one in there if one.bytes_node_round < CHEAPER * best.bytes_node_round]
    if cheaper and best.target_s is not None:
        least = min(cheaper, key=lambda one: one.bytes_node_round)
        reasons.append(
            f"If traffic matters more than time: {least.topology} sends {size_words(round(least.bytes_node_round))} a "
            f"node and round and {_late(least, best.target_s, goal)}."
        )
    if best.spread > MIXED_LATE:
        reasons.append(
            f"On the way the best site is {100 * best.spread:.1f} points above the worst on average: "
            + _agreement(runs[0])
        )
    reasons.append(_losses(runs[0], names))
    return reasons


def _times(best: Verdict, target_s: float, others: Sequence[Verdict], goal: float) -> list[str]:
    """How the times compare: with the slowest, and with a quicker one, which somebody will ask about."""
    there = [one for one in others if one.target_s is not None]
    slower = [one for one in there if (one.target_s or 0.0) > target_s * (1 + SAME_TIME)]
    quicker = [one for one in there if (one.target_s or 0.0) < target_s and one.single_points <= best.single_points]
    said = []
    if slower:
        worst = max(slower, key=lambda one: one.target_s or 0.0)
        times = (worst.target_s or 0.0) / target_s
        said.append(
            f"Time: {duration_words(target_s)} to {goal_words(goal)}; {worst.topology} needs {times:.1f} times as long."
        )
    if quicker:
        first = min(quicker, key=lambda one: one.target_s or 0.0)
        said.append(
            f"Little quicker: {first.topology} takes {duration_words(first.target_s or 0.0)}. Within "
            f"{100 * SAME_TIME:.0f} % times count as the same, and bytes decide."
        )
    return said


def _late(one: Verdict, target_s: float, goal: float) -> str:
    """How much longer it takes; and that it only gets there at the very end, where that is so."""
    times = f"{(one.target_s or 0.0) / target_s:.1f} times as"
    if one.target_s == one.total_s:
        return f"comes to {goal_words(goal)} only in the last round, when all models become one, {times} late"
    return f"takes {times} long"


def _fraction(times: float) -> str:
    """One part in so many, in words where it is near a whole number of parts."""
    whole = round(times)
    near = whole in PARTS and abs(times / whole - 1) <= NEARLY
    return PARTS[whole] if near else f"{100 / times:.0f} %"


def _agreement(run: Run) -> str:
    facts = run.facts
    if facts.exact_after:
        return f"equal weights would agree exactly after {_counted(facts.exact_after)} of this schedule."
    if facts.rounds_to_thousandth:
        rounds = facts.rounds_to_thousandth
        return f"left to themselves they would come within a thousandth of each other in {_counted(rounds)}."
    return "no theory says how fast they agree."


def _losses(run: Run, names: Sequence[str]) -> str:
    found = run.resilience
    if found.single_points:
        who = ", ".join(names[member] for member in found.single_points[:3])
        more = f" and {len(found.single_points) - 3} more" if len(found.single_points) > 3 else ""
        worst = len(found.one[0].cut_off) if found.one else 0
        cut = f": up to {worst} others are cut off" if worst else ""
        return f"Losing any one of {who}{more} cuts others off{cut}."
    one = "Any one site can go away and all others still reach each other"
    if found.survives_any_two is None:
        return f"{one}; pairs were too many to try."
    if found.survives_any_two:
        return f"{one}, and so can any two."
    assert found.worst_two is not None, "that is how it is known"
    who = " and ".join(names[member] for member in found.worst_two.members)
    lost = len(found.worst_two.cut_off)
    return f"{one}; without both {who}, {lost} other{'s are' if lost != 1 else ' is'} cut off from the rest."


def _remark(one: Verdict, best: Verdict, goal: float, runs: Sequence[Run], names: Sequence[str]) -> str:
    if one.target_s is None:
        return f"does not reach {_always(goal, runs)}"
    if one.single_points and not best.single_points:
        return f"hangs on {names[runs[0].resilience.single_points[0]]}"
    assert best.target_s is not None, "the best is there if anybody is"
    if one.target_s > best.target_s * (1 + SAME_TIME):
        late = _late(one, best.target_s, goal)
        return late if one.target_s == one.total_s else f"{late} to {goal_words(goal)}"
    return f"sends {one.bytes_node_round / best.bytes_node_round:.1f} times as much"


def _counted(rounds: float) -> str:
    return f"{_rounds(rounds)} round{'s' * (rounds != 1)}"


def _rounds(count: float | None) -> str:
    return "never" if count is None else f"{count:g}" if count == round(count) else f"{count:.1f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _distance(distance: float | None) -> str:
    return "-" if distance is None else f"{distance:.2g}"


def _lost(one: Verdict) -> str:
    if one.single_points:
        return f"{one.single_points} single point{'s' * (one.single_points > 1)}"
    return {None: "one: whole", True: "whole, whole", False: "whole, may split"}[one.survives_any_two]
