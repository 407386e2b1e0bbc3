"""Settings: which layer wins, where each value came from, and that no typo passes for the default."""

import pytest

from node.config import load
from swarm.errors import UsageError

WHERE = "site/swarm.toml"


def test_nothing_said_means_the_defaults() -> None:
    settings = load("", where=WHERE)
    assert (settings.site.name, settings.site.listen, settings.site.charter) == ("", "", "charter.toml")
    assert (settings.task.file, settings.task.device, settings.task.threads) == ("task.py", "cpu", 0)
    assert settings.task.stall_s == 600.0
    assert (settings.task.round_steps, settings.task.round_seconds) == (0, 0.0)
    assert not settings.run.exit_when_done
    assert set(settings.origin.values()) == {"default"}
    assert settings.ledger.catch_up == "full"
    assert (settings.storage.ballast_mb, settings.storage.keep_models, settings.storage.keep_every) == (64, 0, 0)
    assert (settings.run.log_file, settings.run.log_level) == ("run/log.jsonl", "info")
    assert (settings.run.log, settings.run.log_task, settings.page.listen) == ("auto", False, "")
    assert (settings.task.min_cell, settings.task.alone, settings.task.processes) == (0, False, 1)
    assert len(settings.origin) == 48


def test_later_layers_win_and_say_so() -> None:
    text = '[task]\nfile = "a.py"\ndata = "a"\nloader = "a"\n[site]\nname = "a"\n'
    environment = {"SWARM_TASK__DATA": "b", "SWARM_TASK__LOADER": "b"}
    settings = load(text, where=WHERE, environment=environment, overrides=["task.loader=c"])
    task = settings.task
    assert (task.device, task.file, task.data, task.loader) == ("cpu", "a.py", "b", "c")
    assert [settings.origin[f"task.{name}"] for name in ("device", "file", "data", "loader")] == [
        "default",
        WHERE,
        "environment SWARM_TASK__DATA",
        "--set",
    ]


def test_of_two_overrides_the_last_wins_and_only_the_first_sign_divides() -> None:
    assert load("", where=WHERE, overrides=["site.name=a", "site.name=b=c"]).site.name == "b=c"


def test_text_becomes_the_type_of_its_key() -> None:
    environment = {
        "SWARM_TASK__THREADS": "3",
        "SWARM_TASK__STALL_S": "1.5",
        "SWARM_RUN__EXIT_WHEN_DONE": "TRUE",
        "SWARM_SITE__NAME": "7",
    }
    settings = load("", where=WHERE, environment=environment)
    assert (settings.task.threads, settings.task.stall_s, settings.site.name) == (3, 1.5, "7")
    assert settings.run.exit_when_done is True


def test_a_whole_number_will_do_for_seconds() -> None:
    stall_s = load("[task]\nstall_s = 5\n", where=WHERE).task.stall_s
    assert (stall_s, type(stall_s)) == (5.0, float)


def test_other_variables_are_none_of_our_business() -> None:
    environment = {"SWARM_HOME": "/x", "TASK__THREADS": "x", "PATH": "/bin", "swarm_task__threads": "x"}
    assert load("", where=WHERE, environment=environment) == load("", where=WHERE)


@pytest.mark.parametrize(
    ("text", "environment", "overrides", "place"),
    [
        ("[task]\nthread = 1\n", {}, [], WHERE),
        ("", {"SWARM_TASK__THREAD": "1"}, [], "the variable SWARM_TASK__THREAD"),
        ("", {}, ["task.thread=1"], "--set task.thread"),
    ],
)
def test_an_unknown_key_is_an_error_in_every_layer(
    text: str, environment: dict[str, str], overrides: list[str], place: str
) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'task\.thread'") as caught:
        load(text, where=WHERE, environment=environment, overrides=overrides)
    assert place in caught.value.message
    assert caught.value.hint == "did you mean task.threads?"


def test_a_key_in_the_wrong_section_is_found_in_the_right_one() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'site\.stall_s'") as caught:
        load("[site]\nstall_s = 1.0\n", where=WHERE)
    assert caught.value.hint == "did you mean task.stall_s?"


def test_a_key_like_no_other_is_told_all_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        load("", where=WHERE, overrides=["qqqq=1"])
    assert caught.value.hint.startswith("known keys are site.name, site.listen")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[task\n", "couldn't read site/swarm.toml: "),
        ("name = 'a'\n", "'name' stands outside a section"),
        ("[task]\nthreads = '2'\n", "task.threads = '2' must be of type int"),
        ("[task]\nthreads = true\n", "task.threads = True must be of type int"),
        ("[task]\nthreads = 2.0\n", "task.threads = 2.0 must be of type int"),
        ("[task]\nstall_s = true\n", "task.stall_s = True must be of type float"),
        ("[run]\nexit_when_done = 1\n", "run.exit_when_done = 1 must be of type bool"),
        ("[site]\nname = ['a']\n", r"site.name = \['a'\] must be of type str"),
        ("[site.name]\nx = 1\n", "site.name = {'x': 1} must be of type str"),
        ("[nothing]\nx = 1\n", "unknown key 'nothing.x'"),
        ("[task]\nmin_cell = -1\n", "couldn't use task.min_cell = -1, from"),
        ("[task]\nprocesses = 0\n", "couldn't use task.processes = 0, from"),
        ("[task]\nround_steps = -1\n", "couldn't use task.round_steps = -1, from"),
        ("[task]\nround_seconds = inf\n", "couldn't use task.round_seconds = inf, from"),
        ("[task]\nround_seconds = nan\n", "couldn't use task.round_seconds = nan, from"),
    ],
)
def test_a_bad_file_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(text, where=WHERE)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.threads", "--set 'task.threads'"),
        ("task.threads=two", "'two' is not of type int"),
        ("task.threads=2.5", "'2.5' is not of type int"),
        ("task.threads=", "'' is not of type int"),
        ("task.stall_s=soon", "'soon' is not of type float"),
        ("run.exit_when_done=yes", "'yes' is neither true nor false"),
        ("run=1", "unknown key 'run'"),
    ],
)
def test_a_bad_override_is_refused_in_words(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load("", where=WHERE, overrides=[override])


def test_a_site_catches_up_in_a_way_that_exists() -> None:
    assert load('[ledger]\ncatch_up = "fast"\n', where=WHERE).ledger.catch_up == "fast"
    with pytest.raises(UsageError, match="ledger.catch_up = 'faster'") as caught:
        load("", where=WHERE, overrides=("ledger.catch_up=faster",))
    assert caught.value.hint == "choose one of full, fast"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[storage]\nballast_mb = 5\n", "choose a number from 24 to 1048576, or 0 for none"),
        ("[storage]\nkeep_models = -1\n", "choose a number from 0 to 1048576"),
        ("[run]\nlog_files = 1\n", "choose a number from 2 to 100"),
        ('[run]\nlog_level = "loud"\n', "choose one of debug, info, warning, error"),
    ],
)
def test_a_number_out_of_range_is_told_with_the_range(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, where=WHERE)
    assert caught.value.hint == hint
    load("[storage]\nballast_mb = 0\n", where=WHERE)
