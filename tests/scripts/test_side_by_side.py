"""The table of real results says what its numbers are means of, and says misses and gaps as plainly as hits."""

from __future__ import annotations

import pytest

from scripts.side_by_side import (
    ALL_CASES,
    CLIENT_MEAN,
    TENTH,
    WIDTH_MAX,
    WORST,
    Bar,
    Cell,
    Published,
    Row,
    Score,
    Table,
)

ROWS = (Row("north", 30), Row("south", 10))
BY_SEED = {"alone": {"north": (0.6, 0.8), "south": (0.5, 0.5)}, "swarm": {"north": (0.8, 0.9), "south": (0.6, 0.5)}}


def scores(by_seed: dict[str, dict[str, tuple[float | None, ...]]]) -> list[Score]:
    return [
        Score(seed, column, row, value, "" if value is not None else "one class only")
        for column, rows in by_seed.items()
        for row, values in rows.items()
        for seed, value in enumerate(values, 1)
    ]


def table(**more: object) -> Table:
    given = {"title": "accuracy", "rows": ROWS, "columns": ("alone", "swarm"), "scores": scores(BY_SEED), **more}
    return Table(**given)  # type: ignore[arg-type]


def line(text: str, begins: str) -> str:
    return next(one for one in text.splitlines() if one.startswith(begins))


def test_a_cell_is_the_mean_over_seeds_and_the_deviation_of_a_sample() -> None:
    """0.6 and 0.8: mean 0.7, deviation the root of (0.01 + 0.01) / 1."""
    assert str(table().cell("alone", "north")) == "0.700 ± 0.141"


def test_one_seed_has_no_deviation() -> None:
    one = table(scores=[score for score in scores(BY_SEED) if score.seed == 1])
    assert str(one.cell("alone", "north")) == "0.600"
    assert one.text().startswith("accuracy: seed 1\n")


def test_the_client_mean_counts_sites_alike_and_its_deviation_is_over_seeds() -> None:
    """With seed 1 (0.8 + 0.6) / 2 = 0.7, with seed 2 (0.9 + 0.5) / 2 = 0.7."""
    assert str(table().cell("swarm", CLIENT_MEAN)) == "0.700 ± 0.000"


def test_the_mean_of_all_cases_counts_cases_alike_and_only_of_shares() -> None:
    """With seed 1 (30 * 0.8 + 10 * 0.6) / 40 = 0.75, with seed 2 0.8."""
    assert str(table(is_share=True).cell("swarm", ALL_CASES)) == "0.775 ± 0.035"
    assert line(table(is_share=True).text(), ALL_CASES).split()[2] == "40"
    assert ALL_CASES not in table().text()


def test_a_site_without_a_score_says_why_and_is_in_nobodys_mean() -> None:
    lacking = table(scores=scores({**BY_SEED, "swarm": {"north": (0.8, 0.9), "south": (0.6, None)}}))
    assert str(lacking.cell("swarm", "south")) == "one class only"
    assert str(lacking.cell("alone", CLIENT_MEAN)) == "0.700 ± 0.141"  # that of north
    assert f"{CLIENT_MEAN} of 1" in lacking.text()
    assert f"Not in the {CLIENT_MEAN}, for lack of a score in some column: south." in lacking.text()


def test_a_site_that_lacks_one_seed_has_no_score() -> None:
    missing = [score for score in scores(BY_SEED) if (score.seed, score.column, score.row) != (2, "swarm", "south")]
    assert str(table(scores=missing).cell("swarm", "south")) == "-"


def test_a_column_nobody_has_stays_and_costs_no_site_its_place_in_the_mean() -> None:
    text = table(columns=("alone", "swarm", "personalised")).text()
    assert line(text, "north").split()[-1] == "-"
    assert f"{CLIENT_MEAN} of" not in text


def test_a_common_test_stands_below_and_is_in_no_mean() -> None:
    rows = (*ROWS, Row("elsewhere", 34, counted=False))
    more = scores({**BY_SEED, "alone": {**BY_SEED["alone"], "elsewhere": (0.1, 0.1)}})
    text = table(rows=rows, scores=more, is_share=True).text()
    assert line(text, CLIENT_MEAN).split()[2] == "0.600"
    assert text.index("elsewhere") > text.index(ALL_CASES)


def test_published_columns_stand_beside_ours_with_their_source_and_a_client_mean() -> None:
    theirs = {"north": Cell(0.9, 0.01), "south": Cell(0.7)}
    text = table(published=[Published("FedAvg", "A, table 1", theirs), Published("pooled", "A, table 1", {})]).text()
    assert line(text, " ").split()[-4:] == ["FedAvg", "[1]", "pooled", "[1]"]
    assert "0.900 ± 0.010" in line(text, "north")
    assert line(text, CLIENT_MEAN).split()[-2:] == ["0.800", "-"]
    assert text.count("A, table 1") == 1


def test_a_bar_is_met_or_missed_before_rounding() -> None:
    assert (
        table()
        .verdict(Bar("swarm", 0.7, "B"))
        .startswith("met     swarm, client mean at least 0.7 (B): 0.700, by seed 0.700 0.700")
    )
    assert table().verdict(Bar("swarm", 0.7004, "B")).startswith("MISSED")
    assert "short by 0.100" in table().verdict(Bar("alone", 0.7, "B"))
    assert table(columns=("alone", "swarm", "pooled")).verdict(Bar("pooled", 0.7, "B")).startswith("OPEN")


def test_lines_are_no_longer_than_a_screen_and_what_does_not_fit_stands_below_the_same_sites() -> None:
    theirs = [Published(f"method {number}", "A", {"north": Cell(0.5, 0.1)}) for number in range(9)]
    text = table(published=theirs).text()
    assert max(map(len, text.splitlines())) <= WIDTH_MAX
    assert [line(block, "north").count("0.500 ± 0.100") for block in text.split("\n\n")[1:4]] == [0, 6, 3]


def test_long_words_are_broken_and_a_verdict_stays_recognisable() -> None:
    text = table(notes=["word " * 60], bars=[Bar("swarm", 0.7, "somebody's best of all their methods " * 3)]).text()
    assert max(map(len, text.splitlines())) <= WIDTH_MAX
    assert line(text, "met     swarm, client mean at least 0.7")


def test_the_held_out_column_says_how_many_of_them_count() -> None:
    assert line(table(rows=(Row("north", 30, "2 events"), Row("south", 10))).text(), "north").split()[1:4] == [
        "30,",
        "2",
        "events",
    ]


@pytest.mark.parametrize(
    "wrong", [Score(1, "swarm", "west", 0.5), Score(1, "pooled", "north", 0.5), Score(1, "swarm", "north", 0.5)]
)
def test_a_score_without_a_place_or_a_second_one_is_refused(wrong: Score) -> None:
    with pytest.raises(ValueError, match="no such cell|scored twice"):
        table(scores=[*scores(BY_SEED), wrong])


def test_a_table_without_scores_is_printed_and_claims_nothing() -> None:
    text = table(scores=[], bars=[Bar("swarm", 0.5, "B")]).text()
    assert "OPEN" in text
    assert "met" not in text


def test_many_sites_are_shown_by_their_spread() -> None:
    """Eleven sites at 0.0, 0.1, ..., 1.0: one of them, the worst, is below the tenth percentile, which is 0.1."""
    many = [f"site-{number}" for number in range(11)]
    given = [Score(seed, "swarm", name, place / 10) for seed in (1, 2) for place, name in enumerate(many)]
    folded = Table(
        title="accuracy",
        rows=[*(Row(name, 10) for name in many), Row("everybody's", 500, counted=False)],
        columns=["swarm"],
        scores=[*given, Score(1, "swarm", "everybody's", 0.7), Score(2, "swarm", "everybody's", 0.9)],
        is_share=True,
        folded=True,
    )
    assert [str(folded.cell("swarm", row)) for row in (CLIENT_MEAN, TENTH, WORST, ALL_CASES)] == [
        "0.500 ± 0.000",
        "0.100 ± 0.000",
        "0.000 ± 0.000",
        "0.500 ± 0.000",
    ]
    text = folded.text()
    assert "site-3" not in text
    assert line(text, CLIENT_MEAN).split()[2:4] == ["11", "sites"]
    assert line(text, "everybody's").split()[1:] == ["500", "0.800", "±", "0.141"]
