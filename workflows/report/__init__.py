"""The report of a run: one HTML file that needs nothing beside it, drawn from what the run folder holds and nothing else."""

from pathlib import Path

NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Draw `report.html` of a finished run; returns where it lies.

    Raises:
        InputError: the folder holds no finished run.
    """
    from preprocessing.io.atomic import write_text
    from workflows.report.page import render
    from workflows.report.run_folder import read_run

    path = folder.absolute() / NAME
    write_text(path, render(read_run(path.parent)))
    return path
