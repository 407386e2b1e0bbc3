"""Local algorithms: what is added to a site's training because its data differ from the others', by name.

All sites run the user's loop as it is. These bend the path that it takes, between its steps, and are part of the
charter, because all sites or none have to do so. Nothing more travels than without them.

*FedProx* (Li, Sahu, Zaheer, Sanjabi, Talwalkar & Smith 2020, "Federated optimization in heterogeneous networks",
equation 2): mu (w - w_t) is added to every gradient, w_t being the model that the round began with. Sites that take
many steps stay closer to it.

*Ditto* (Li, Hu, Beirami & Smith 2021, "Ditto: fair and robust federated learning through personalization", algorithm
1): the swarm's model is trained as without it; after that the site trains a personal one on the same data, with lambda
(v - w_t) added to every gradient, which never leaves. It costs the round's training once more.

*Drift correction* in the manner of SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich & Suresh 2020, "SCAFFOLD:
stochastic controlled averaging", algorithm 1). A local step there is y <- y - eta (g_i(y) - c_i + c), where c_i is the
mean of the site's own gradients in the last round that it was in (option II) and c the mean of all c_i. Whoever adds
that up over a round needs eta, and has to send c_i. *The form used here knows neither gradients nor learning rates.*
With K_i steps a round let

    r_i = -eta (g_i(y_1) + ... + g_i(y_K))     what the user's steps did in the site's last round
    R   = x_t - x_{t-1}                        how far the swarm's model moved

Then -K eta c_i = r_i and, where R is the mean of the r_i, -K eta c = R, and the same step reads

    y <- y - eta g_i(y) + (R - r_i) / K_i

Both are at hand: a site knows what its own steps did, and every peer has x_t and x_{t-1}. So any task can have it,
whatever its optimiser is, and nothing has to be reported that could be reported wrongly.

*What is reported is r_i*, not y_K - x: the corrections are taken off the update again. Where the weights p_i of two
rounds are the same and everybody was in both, sum p_i (R - r_i) = 0 and the next model is SCAFFOLD's, to the rounding.
Where they are not - a site was away, its weight was capped, its update was clipped, its work counts late, another
K - the corrections do not cancel. Reported, their sum e would become part of the next R and so of every correction
after it: sum p_i (R - r_i) would stay e for ever, and the swarm would settle where sum p_i r_i = -e. Taken off, R is
always the weighted mean of what users' steps did, whoever was in, and nothing is carried on. The swarm then rests
where that mean is zero; at such a model each site's correction cancels its own steps exactly, so that the path of a
round stays there, and with equal K and eta it is the optimum of the weighted sum of the sites' losses. (FedAvg rests
where the mean of the *ends* of K free steps is zero, which is another place wherever curvatures differ.) Unequal K_i
weigh a site's loss by K_i, as they do in FedAvg.

A clipped r_i pulls as far as the clip lets it, as it does without correction. If a site has missed rounds, R is the
movement since it was last in, a round. What it did more than `ROUNDS_MAX` rounds ago says little of what it would do
today, and early rounds move far: then it trains one round uncorrected. In gossip there is no model of the swarm to
look at, and `swarm.mixing.momentum` and `tracking` do this work there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from swarm.errors import UsageError

FEDPROX, SCAFFOLD, DITTO = "fedprox", "scaffold", "ditto"

ROUNDS_MAX = 8
"""For how many rounds a site's last displacement is believed."""

_FORM = re.compile(r"(?:(fedprox|ditto):((?:0|[1-9][0-9]{0,2})(?:\.[0-9]{0,5}[1-9])?)|(scaffold))")


@dataclass(frozen=True, slots=True)
class Local:
    """An algorithm by name; `strength` is FedProx's mu or Ditto's lambda, above 0 and below 1,000, else 0."""

    name: str
    strength: float = 0.0

    def words(self) -> str:
        """Say what it does, on one line of a charter."""
        return {
            FEDPROX: f"FedProx: mu {self.strength:g} pulls each step towards the model of the round",
            SCAFFOLD: "SCAFFOLD: each site's drift from the others is taken off its path",
            DITTO: f"Ditto: a personal model beside the common one, pulled to it by lambda {self.strength:g}",
        }[self.name]


def parse(text: str) -> Local:
    """Return the algorithm that a charter names: "fedprox:0.01", "scaffold", "ditto:0.1".

    Raises:
        UsageError: there is none of that name, or its strength is no number above 0 with a canonical text.
    """
    found = _FORM.fullmatch(text)
    strength = float(found[2] or 0) if found else 0.0
    if found is None or (found[1] and not strength):
        raise UsageError(
            f"couldn't choose a local algorithm: {text[:40]!r} is not one",
            hint="choose fedprox:0.01 or ditto:0.1 (another strength, above 0, in at most six decimals), or scaffold",
        )
    return Local(found[1] or found[3], strength)
