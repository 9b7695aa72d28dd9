"""`run_pipeline export FORMAT RUN`: results of a run in the formats of other tools.

geojson      for QuPath: tissue outlines and tiles with measurements; those of
             explained cases with attention, contribution and prototype
heatmap      pyramidal TIFF of attention, contribution and prototypes, for
             every explained slide
clam         h5_files/, pt_files/, dataset_csv/TASK.csv, splits/TASK/, and
             main_tasks.txt: the lines that CLAM's main.py needs
trident      a job folder: 20x_256px_0px_overlap/features_ENCODER/, patches/
stamp        features/, slide.csv, clini.csv
anndata      .h5ad: one file per case (tiles × features) with pictures, and
             cohort.h5ad (cases × genes, with labels and predictions);
             of a run without slides, cohort.h5ad only
spatialdata  a .zarr per slide: picture, tissue, tiles, features

Run with --explain all, and every case is explained.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from preprocessing.io.files import user_path, why_not_writable

if TYPE_CHECKING:
    from pipeline.run.finished_slides import FinishedSlide, FinishedSlides
    from preprocessing.formats.h5 import Format

ALL_GOOD, WRONG_INPUT, SOME_FAILED = 0, 2, 3
FORMATS = ("geojson", "heatmap", "clam", "trident", "stamp", "anndata", "spatialdata")
EPILOG = """\
examples:
  run_pipeline export geojson runs/first
  run_pipeline export heatmap runs/first --task grade
  run_pipeline export trident runs/first --out features/trident
  run_pipeline export anndata runs/first --case TCGA-06-0211

exit codes: 0 success; 1 the folder cannot be written;
  2 invalid input, nothing was written;
  3 finished, but some slides were not exported
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `--help`)."""
    arguments = _parser().parse_args(argv)
    from pipeline.run.finished_slides import open_slides
    from pipeline.terminal.logs import print_error, print_line, show_failures
    from preprocessing.io.atomic import writing
    from preprocessing.io.errors import InputError, RunError, count

    try:
        run = open_slides(
            arguments.run,
            store=arguments.store,
            task=arguments.task,
            slides_required=arguments.format != "anndata",
        )
        out = arguments.out or arguments.run / "export" / arguments.format
        if why := why_not_writable(out):
            raise RunError(f"{out} {why}; name another folder with --out")
        with writing(out):
            written, failures = export(arguments.format, run, out, cases=arguments.case, origin=arguments.origin)
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    show_failures(failures)
    print_line(f"{count(len(written), 'file')} written to {out}")
    return SOME_FAILED if failures else ALL_GOOD


def export(
    name: str, run: "FinishedSlides", out: Path, *, cases: Sequence[str] = (), origin: str | None = None
) -> tuple[list[Path], dict[str, str]]:
    """Export slides of a run in one format.

    Args:
        name: one of `FORMATS`.
        run: the slides of a finished run.
        out: folder of the exported files; created if missing.
        cases: only these cases; empty: all.
        origin: origin of outlines: the corner of the scanned area (scan) or of the file (slide); None: that of the run.

    Returns:
        The files that were written, and the reason of each failure by slide or case.

    Raises:
        InputError: the run has no such case, or nothing to export.
    """
    from preprocessing.formats.h5 import DTYPES
    from preprocessing.io.errors import InputError
    from workflows.commands.spatial import write_spatialdata

    slides = [] if name == "anndata" and not cases and not len(run.run.slides) else run.slides(cases)
    if name == "heatmap":
        slides = run.explained(slides)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror}); name another folder") from None
    if name == "anndata":
        return _export_anndata(run, slides, out, whole=not cases)
    if name in DTYPES:
        return _export_project(run, slides, out, cast("Format", name))
    writers: dict[str, Callable[[FinishedSlide], list[Path]]] = {
        "geojson": lambda slide: [_write_geojson(run, slide, out, origin or run.outline_origin)],
        "heatmap": lambda slide: _write_heatmaps(run, slide, out),
        "spatialdata": lambda slide: write_spatialdata(run, slide, out),
    }
    return _each(slides, writers[name])


def _export_project(
    run: "FinishedSlides", slides: Sequence["FinishedSlide"], out: Path, layout: "Format"
) -> tuple[list[Path], dict[str, str]]:
    from workflows.commands.projects import slide_names, write_features, write_tables

    names = slide_names(layout, run.slides())
    written, failures = _each(slides, partial(write_features, run, out, layout, names))
    exported = [slide for slide in slides if slide.slide_id not in failures]
    return written + write_tables(run, out, layout, names, exported), failures


def _each(
    slides: Sequence["FinishedSlide"], write: Callable[["FinishedSlide"], list[Path]]
) -> tuple[list[Path], dict[str, str]]:
    from preprocessing.io.errors import SlideError

    written, failures = list[Path](), dict[str, str]()
    for slide in slides:
        try:
            written += write(slide)
        except SlideError as error:
            failures[slide.slide_id] = str(error)
    return written, failures


def _write_geojson(run: "FinishedSlides", slide: "FinishedSlide", out: Path, origin: str) -> Path:
    from preprocessing.formats.geojson import TileObjects, to_geojson
    from preprocessing.io.atomic import write_text
    from preprocessing.tables.case_ids import kept_name

    path = out / f"{kept_name(slide.slide_id)}.geojson"
    corner = slide.corner_px() if origin == "scan" else (0, 0)
    mask = run.store.read_tiles(slide.tiles).mask if slide.tiles else None
    values = run.tile_values(slide) | run.tile_measurements(slide)
    tiles = TileObjects(run.coords(slide), run.geometry(slide).span_px, values, run.colours)
    text = to_geojson(slide.slide_id, tiles, mask=mask, size_px=run.size_px(slide), corner_px=corner)
    write_text(path, text)
    return path


def _write_heatmaps(run: "FinishedSlides", slide: "FinishedSlide", out: Path) -> list[Path]:
    from preprocessing.formats.colours import Scale
    from preprocessing.formats.heatmaps import TileValues, write_heatmap
    from preprocessing.tables.case_ids import kept_name

    layers = run.tile_values(slide)
    paths = []
    for what, values in layers.items():
        path = out / f"{kept_name(slide.slide_id)}.{what}.tiff"
        palette = run.colours if what == "prototype" else Scale.from_legend(run.legend(slide, what))
        layer = TileValues(what, values, palette)
        write_heatmap(path, layer, run.coords(slide), run.geometry(slide), size_px=run.size_px(slide))
        paths.append(path)
    return paths


def _export_anndata(
    run: "FinishedSlides", slides: Sequence["FinishedSlide"], out: Path, *, whole: bool
) -> tuple[list[Path], dict[str, str]]:
    from preprocessing.io.atomic import atomic_file
    from preprocessing.io.errors import SlideError
    from preprocessing.tables.case_ids import kept_name

    written, failures = list[Path](), dict[str, str]()
    for case in dict.fromkeys(slide.case_id for slide in slides):
        try:
            table = run.tiles_of_case([slide for slide in slides if slide.case_id == case])
        except SlideError as error:
            failures[case] = str(error)
            continue
        written.append(out / f"{kept_name(case)}.h5ad")
        with atomic_file(written[-1]) as temporary:
            table.write_h5ad(temporary)
    if whole:
        written.append(out / "cohort.h5ad")
        with atomic_file(written[-1]) as temporary:
            run.cohort().write_h5ad(temporary)
    return written, failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline export",
        description=__doc__.partition("\n")[2],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("format", metavar="FORMAT", choices=FORMATS, help=", ".join(FORMATS))
    add("run", type=user_path, metavar="RUN", help="folder of a finished run")
    add("--out", type=user_path, metavar="DIR", help="folder of the exported files (RUN/export/FORMAT)")
    add("--store", metavar="DIR", help="feature store, where it has moved since the run")
    add("--case", action="append", default=[], metavar="CASE", help="export only this case; repeatable")
    add("--task", metavar="NAME", help="task whose explanation is exported; default: the first explained task")
    add(
        "--origin",
        choices=("scan", "slide"),
        help="geojson: origin of coordinates, the corner of the scanned area (QuPath) or of the file; default: that of the run",
    )
    return parser
