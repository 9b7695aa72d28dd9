"""The HTML report of a run: one self-contained file, made only from the files of the run folder."""

from pathlib import Path

NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` of a finished run.

    Args:
        folder: the run folder.

    Returns:
        Absolute path of the report.

    Raises:
        InputError: the folder contains no finished run, or one of its files is damaged or has another format.
    """
    from pipeline.run.finished import read_run
    from preprocessing.io.atomic import write_text
    from workflows.report.page import render

    path = folder.absolute() / NAME
    write_text(path, render(read_run(path.parent)))
    return path
