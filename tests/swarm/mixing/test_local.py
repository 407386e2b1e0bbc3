"""Local algorithms have one name each, and say what they do."""

import msgspec
import pytest

from swarm import charter as c
from swarm.errors import UsageError
from swarm.mixing.local import Local, parse
from tests.builders import changed, make_swarm


@pytest.mark.parametrize(
    ("text", "found", "words"),
    [
        ("fedprox:0.01", Local("fedprox", 0.01), "FedProx: mu 0.01"),
        ("fedprox:1", Local("fedprox", 1.0), "FedProx: mu 1"),
        ("ditto:0.1", Local("ditto", 0.1), "lambda 0.1"),
        ("ditto:999.000001", Local("ditto", 999.000001), "lambda 999"),
        ("scaffold", Local("scaffold"), "SCAFFOLD"),
    ],
)
def test_an_algorithm_is_known_by_its_name_and_strength(text: str, found: Local, words: str) -> None:
    assert parse(text) == found
    assert words in found.words()


@pytest.mark.parametrize(
    "text",
    [
        *("", "fedprox", "fedprox:0", "fedprox:0.0", "fedprox:0.10", "fedprox:-1", "fedprox:1e-2", "fedprox:.1"),
        *("fedprox:1000", "fedprox:01", "fedprox:0.0000001", "fedprox:1 ", "FedProx:1", "fedavg"),
        *("scaffold:1", "ditto", "ditto:nan"),
    ],
)
def test_what_has_another_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't choose a local algorithm") as caught:
        parse(text)
    assert "fedprox:0.01" in caught.value.hint


def test_a_charter_may_have_one_and_an_old_one_has_none() -> None:
    plain = make_swarm(3).charter
    assert plain.local == ""
    for text in ("fedprox:0.01", "scaffold", "ditto:0.1"):
        charter = changed(make_swarm(3), options=c.options_of(local=text))
        charter.check()
        assert charter.local == text


def test_a_charter_with_one_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="couldn't choose a local algorithm"):
        changed(make_swarm(3), options=(("local", "fedavg"),)).check()


def test_drift_is_corrected_where_there_is_a_model_of_the_swarm() -> None:
    gossip = make_swarm(3, schedule="ring").charter
    with pytest.raises(UsageError, match="scaffold with gossip"):
        c.Charter.check(replaced(gossip, "scaffold"))
    ruled = make_swarm(5, rule="trimmed:1", min_contributions=5).charter
    with pytest.raises(UsageError, match="scaffold with a rule"):
        replaced(ruled, "scaffold").check()
    replaced(ruled, "fedprox:0.1").check()
    replaced(gossip, "fedprox:0.1").check()
    replaced(gossip, "ditto:0.1").check()


def replaced(charter: c.Charter, local: str) -> c.Charter:
    return msgspec.structs.replace(charter, options=c.options_of(**dict(charter.options), local=local))
