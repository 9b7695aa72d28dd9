"""`run_pipeline report RUN --open` offers to open the report where someone can answer and a browser can open it."""

import webbrowser
from types import SimpleNamespace

import pytest

from workflows.commands import report
from workflows.commands.report import offer_to_open


@pytest.fixture
def opened(monkeypatch):
    """A terminal and a browser; the addresses that it was given."""
    addresses: list[str] = []
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(report, "sys", SimpleNamespace(stdin=terminal, stdout=terminal))
    monkeypatch.setattr(webbrowser, "get", lambda: SimpleNamespace(open=addresses.append))
    return addresses


@pytest.mark.parametrize(("answer", "opens"), [("", True), ("y", True), ("YES ", True), ("n", False), ("later", False)])
def test_the_report_is_opened_where_the_answer_is_yes(opened, monkeypatch, tmp_path, answer, opens):
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: (questions.append(question), answer)[1])
    offer_to_open(tmp_path / "report.html")
    assert questions == ["open it in the browser? [Y/n] "]
    assert opened == [(tmp_path / "report.html").as_uri()] * opens


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_no_answer_opens_nothing(opened, monkeypatch, tmp_path, end):
    def no_answer(_):
        raise end

    monkeypatch.setattr("builtins.input", no_answer)
    offer_to_open(tmp_path / "report.html")
    assert opened == []


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_nobody_is_asked_without_a_terminal(opened, monkeypatch, tmp_path, stream):
    monkeypatch.setattr(report.sys, stream, SimpleNamespace(isatty=lambda: False))
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("nobody can answer"))
    offer_to_open(tmp_path / "report.html")
    assert opened == []


def test_nobody_is_asked_without_a_browser(opened, monkeypatch, tmp_path):
    def none():
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "get", none)
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("there is no browser"))
    offer_to_open(tmp_path / "report.html")
