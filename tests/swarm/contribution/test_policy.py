"""What a charter may say of contributions, and what a person may leave out."""

import pytest

from swarm.contribution.policy import complete, parse
from swarm.errors import UsageError


@pytest.mark.parametrize("text", ["size", "loo:accuracy:higher:20", "shapley:val_loss:lower:100"])
def test_an_option_reads_back_to_its_own_text(text: str) -> None:
    assert parse(text, ("accuracy", "val_loss")).text == text


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("size", "size"),
        ("shapley", "shapley:accuracy:higher:20"),
        ("loo:val_loss", "loo:val_loss:lower:20"),
        ("loo:val_loss:higher", "loo:val_loss:higher:20"),
        ("shapley:accuracy:lower:5", "shapley:accuracy:lower:5"),
    ],
)
def test_what_is_left_out_is_filled_in(short: str, full: str) -> None:
    assert complete(short, ("accuracy", "val_loss")) == full


@pytest.mark.parametrize(
    "text",
    ["", "banzhaf", "shapley", "loo:accuracy", "loo:accuracy:up:20", "loo:accuracy:higher:0", "loo:accuracy:higher:101",
     "loo:accuracy:higher:020", "size:accuracy", "loo:auc:higher:20", "loo:accuracy:higher:20:1", "LOO:accuracy:higher:20"],
)  # fmt: skip
def test_anything_else_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"couldn't (read contribution|judge contributions)"):
        parse(text, ("accuracy",))


def test_without_a_metric_nobody_can_judge() -> None:
    with pytest.raises(UsageError, match="no metric"):
        complete("shapley", ())
    assert complete("size", ()) == "size"


def test_less_of_a_loss_is_a_gain() -> None:
    assert parse("loo:l:lower:20", ("l",)).gain(0.5) == -0.5
    assert parse("loo:l:higher:20", ("l",)).gain(0.5) == 0.5
