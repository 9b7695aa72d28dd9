import io
import logging

import pytest
from rich.console import Console

from pipeline.terminal import logs

LONG = "TCGA-06-0125: " + "no resolution metadata in the file " * 6


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 80 columns gets on stderr."""
    text = io.StringIO()
    monkeypatch.setattr(logs, "err", Console(file=text, force_terminal=True, width=80, color_system=None))
    return text


def test_a_log_in_a_file_has_a_line_for_each_record_without_padding(capsys):
    logs.start_logging(verbose=False)
    logging.getLogger("pipeline.run").info("embedding: %s s", 13)
    logging.getLogger("pipeline.run").info(LONG)
    first, second = capsys.readouterr().err.splitlines()
    assert first[8:] == " embedding: 13 s"
    assert second[8:] == f" {LONG}"


def test_a_log_in_a_terminal_is_wrapped_between_words_behind_the_time(terminal):
    logs.start_logging(verbose=False)
    logging.getLogger("pipeline.run").info(LONG)
    first, *others = terminal.getvalue().splitlines()
    assert first[8:].startswith(" TCGA-06-0125: no resolution")
    assert len(others) == 3
    assert all(line.startswith(" " * 9) and len(line) <= 80 for line in others)
    assert " ".join(" ".join([first[9:], *others]).split()) == LONG.strip()


def test_what_does_not_fit_a_line_is_not_cut(terminal):
    path = "/".join(["folder"] * 20)
    logs.print_note(f"results: {path}")
    assert path in terminal.getvalue()
    assert logs.columns(logs.err) == 80


@pytest.mark.parametrize(
    ("senders", "printed"),
    [
        (("run", "run"), 2),  # the second stage of a run may warn of the same
        (("a", "b"), 1),
        (("run", "a", "b"), 1),
        (("a", "run", "a"), 2),
    ],
)
def test_a_warning_of_several_workers_is_printed_once_and_each_of_the_run_itself(senders, printed):
    once = logs.OnceFromWorkers()
    warning = {"name": "pipeline.x", "msg": "doubt", "levelno": logging.WARNING}
    given = [warning if sender == "run" else warning | {"worker": sender} for sender in senders]
    assert sum(map(once.filter, map(logging.makeLogRecord, given))) == printed


@pytest.mark.parametrize("further", [0, 1, 7])
def test_of_many_failures_the_last_line_says_how_many_follow(capsys, further):
    failures = {f"s{i}": "gone" for i in range(logs.MAX_FAILURES + further)}
    logs.show_failures(failures)
    lines = capsys.readouterr().out.splitlines()
    assert lines[: logs.MAX_FAILURES] == [f"warning: s{i}: gone" for i in range(logs.MAX_FAILURES)]
    assert lines[logs.MAX_FAILURES :] == ([f"warning: … and {further} more"] if further else [])
