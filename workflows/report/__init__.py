"""The report of a run: one self-contained HTML file, drawn from the files of the run folder only."""

from pathlib import Path

NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Draw `report.html` of a finished run, and return its path.

    Raises:
        InputError: no run has finished in the folder, or one of its files is damaged or of another version.
    """
    from pipeline.run.finished import read_run
    from preprocessing.io.atomic import write_text
    from workflows.report.page import render

    path = folder.absolute() / NAME
    write_text(path, render(read_run(path.parent)))
    return path
