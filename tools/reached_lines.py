"""The lines of the tree that each test reaches: `pytest -p tools.reached_lines` writes them for `tools.mutants`, to $REACHED_LINES.

What a fixture reaches counts for all tests of the file it is set up in: the fixture may serve them all. What runs in other
processes is not seen.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

SOURCES = ("pipeline", "preprocessing")


class ReachedLines:
    """Records the lines and the seconds of each test that passes.

    Attributes:
        seconds: of each test, with its fixtures.
        unfit: the tests that did not pass, which detect nothing.
    """

    def __init__(self) -> None:
        self.coverage = coverage.Coverage(data_file=None, source=list(SOURCES), config_file=False)
        self.seconds: dict[str, float] = defaultdict(float)
        self.unfit: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """What fixtures reach counts for the file."""
        self.coverage.switch_context(item.nodeid.partition("::")[0])
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """What a test reaches counts for the test."""
        self.coverage.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds up the time of a test."""
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.unfit.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Writes {"seconds": {test: s}, "lines": {file: {line: [test or test file]}}}."""
        self.coverage.stop()
        data, root = self.coverage.get_data(), Path.cwd()
        seconds = {test: duration for test, duration in self.seconds.items() if test not in self.unfit}
        lines = {
            Path(file).relative_to(root).as_posix(): {
                line: [one for one in contexts if one and one not in self.unfit]
                for line, contexts in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        Path(os.environ["REACHED_LINES"]).write_text(json.dumps({"seconds": seconds, "lines": lines}), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Starts to record."""
    recorder = ReachedLines()
    recorder.coverage.start()
    config.pluginmanager.register(recorder)
