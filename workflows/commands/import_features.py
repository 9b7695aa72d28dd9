"""`run_pipeline import FOLDER`: import patch features of CLAM, TRIDENT or STAMP into the feature store.

The manifest that is written takes the place of the slides: `run_pipeline MANIFEST GENES`.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.io.files import user_path

if TYPE_CHECKING:
    from preprocessing.features.store import FeatureStore
    from preprocessing.formats.h5 import Declared, Format, Geometry

ALL_GOOD, WRONG_INPUT, SOME_FAILED = 0, 2, 3
SUFFIXES = (".h5", ".hdf5")
PATCHES = "patches"  # folder of coordinates without features, of CLAM and TRIDENT
DEFAULT_STORE = "features.zarr"  # of runs, too
COLUMNS = ["slide_id", "case_id", "path", "n_tiles", "features"]  # of the manifest
EPILOG = """\
examples:
  run_pipeline import clam/h5_files --format clam --encoder uni --mpp 0.5 \\
      --tile-px 256 --out uni.csv
  run_pipeline import trident/20x_256px/features_uni_v1 --format trident \\
      --encoder uni --out uni.csv
  run_pipeline import stamp/virchow2 --format stamp --out virchow2.csv
then
  run_pipeline uni.csv genes.csv

Files are named after their slides. The case of a slide is derived from its TCGA
barcode; correct others in column case_id.

exit codes: 0 success; 2 invalid input, nothing was imported;
  3 finished, but some files could not be used
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `--help`)."""
    arguments = _parser().parse_args(argv)
    from pipeline.terminal.logs import print_error, print_line, show_failures
    from preprocessing.features.store import FeatureStore
    from preprocessing.formats.h5 import Declared
    from preprocessing.io.errors import InputError, count

    try:
        declared = Declared(arguments.mpp, arguments.tile_px, arguments.slide_mpp, arguments.stride_px)
        store = FeatureStore(arguments.store)
        rows, failures = import_folder(
            arguments.folder, arguments.format, declared, store=store, encoder=arguments.encoder, out=arguments.out
        )
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    show_failures(failures)
    in_store = ["--store", arguments.store] if arguments.store != DEFAULT_STORE else []
    command = shlex.join(["run_pipeline", str(arguments.out), "GENES", *in_store])
    print_line(f"{count(len(rows), 'slide')} imported into {store.place}; give {arguments.out} as SLIDES: {command}")
    return SOME_FAILED if failures else ALL_GOOD


def import_folder(
    folder: Path, layout: "Format", declared: "Declared", *, store: "FeatureStore", encoder: str | None, out: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Import every file of a folder, and write the manifest `out`; returns its rows, and the reason of each failure by file.

    Raises:
        InputError: no files; unknown encoder, resolution or tile size; files of different encoders or tiles.
    """
    import pandas as pd

    from preprocessing.formats.h5 import read_geometry
    from preprocessing.io.atomic import write_text
    from preprocessing.io.errors import InputError, SlideError, some

    _require_writable(out)
    paths = _files(folder)
    store.check()
    failures: dict[str, str] = {}
    geometries: dict[Path, Geometry] = {}
    for path in paths:  # before anything is written
        try:
            geometries[path] = read_geometry(path, layout, declared)
        except SlideError as error:
            failures[str(path)] = str(error)
    sizes = {(one.tile_px, round(one.mpp, 4)) for one in geometries.values()}
    if len(sizes) > 1:
        found = some(f"{px} pixels at {mpp:g} µm" for px, mpp in sorted(sizes))
        raise InputError(f"{folder}: tiles of {len(sizes)} kinds ({found}); import each kind into a separate manifest")
    rows = []
    for path, geometry in geometries.items():
        try:
            rows.append(import_file(path, layout, geometry, store=store, encoder=encoder))
        except SlideError as error:
            failures[str(path)] = str(error)
    if not rows:
        raise InputError(f"{folder}: none of the {len(paths)} files can be used: {some(failures.values())}")
    _require_alike(rows, folder)
    write_text(out, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False))
    return rows, failures


def import_file(
    path: Path, layout: "Format", geometry: "Geometry", *, store: "FeatureStore", encoder: str | None
) -> dict[str, Any]:
    """Import the features of a slide, unless the store has them; returns its row of the manifest.

    Raises:
        SlideError: see `read_h5`.
        InputError: neither the file nor `encoder` names the encoder.
    """
    from dataclasses import asdict

    from preprocessing.encoders.config import encoder_name
    from preprocessing.features.keys import imported_key
    from preprocessing.formats.h5 import read_h5
    from preprocessing.io.errors import InputError
    from preprocessing.io.fingerprints import file_fingerprint, fingerprint
    from preprocessing.tables.identity import IdentityScheme

    found = read_h5(path, layout, geometry)
    name = encoder_name(encoder or found.extractor)
    if not name:
        raise InputError(f"{path}: the file does not name its encoder; give it with --encoder")
    slide_id, width = path.stem, found.bag.features.shape[1]
    case_id = IdentityScheme().case_of(slide_id)
    _require_width(path, name, width)
    origin = file_fingerprint(path)
    key = imported_key(slide_id, origin, layout, asdict(geometry), name)
    if not store.has_features(key):
        store.prepare()
        metadata = {
            "slide_id": slide_id,
            "case_id": case_id,
            "slide_file": path.name,
            "slide_fingerprint": origin,
            "slide_mpp_xy": geometry.slide_mpp_xy,
            "slide_mpp_source": "import",
            "slide_size_px": None,
            "recipe": {"tile_px": geometry.tile_px, "mpp": geometry.mpp, "stride_px": geometry.stride_px},
            "imported": {"from": layout, "dtypes": found.dtypes, "extractor": found.extractor},
            "encoder": {
                "name": name,
                "dim": width,
                "imported_from": layout,
                "fingerprint": fingerprint("imported", name, width),
            },
        }
        store.write_features(key, found.bag, metadata, lossless=True)
    known = {"slide_id": slide_id, "case_id": case_id, "path": str(path.absolute())}
    return known | {"n_tiles": len(found.bag.coords), "features": key, "width": width, "encoder": name}


def _require_width(path: Path, name: str, width: int) -> None:
    """Raise InputError where a known encoder has features of another length than the file."""
    from preprocessing.encoders.catalogue import ENCODERS
    from preprocessing.io.errors import InputError

    expected = ENCODERS[name].dim if name in ENCODERS else None
    if expected is not None and expected != width:
        raise InputError(
            f"{path}: its features have length {width}, but {name} has {expected}; they are of another encoder: correct --encoder"
        )


def _require_writable(out: Path) -> None:
    """Raise InputError where the manifest cannot be written, or would overwrite another file."""
    from preprocessing.io.errors import InputError

    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and not out.read_bytes().startswith(",".join(COLUMNS).encode())):
        raise InputError(f"--out {out} is there already, and is no manifest of an import; name another file")


def _files(folder: Path) -> list[Path]:
    from preprocessing.io.errors import InputError

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one with the .h5 files")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and not path.name.startswith(".") and path.parent.name != PATCHES
    )
    stems: dict[str, Path] = {}
    for path in paths:
        if (other := stems.setdefault(path.stem, path)) != path:
            raise InputError(f"{other} and {path} are of one slide; give the folder of one of them")
    if not paths and any(folder.rglob("*.pt")):
        raise InputError(
            f"{folder}: .pt files hold no coordinates, and are pickles: give CLAM's folder h5_files, which lies beside pt_files"
        )
    if not paths:
        raise InputError(f"{folder}: no .h5 file in it or below")
    return paths


def _require_alike(rows: list[dict[str, Any]], folder: Path) -> None:
    from preprocessing.io.errors import InputError, some

    kinds = {(row["encoder"], row["width"]) for row in rows}
    if len(kinds) > 1:
        found = some(f"{name}, length {width}" for name, width in sorted(kinds))
        raise InputError(f"{folder}: features of {len(kinds)} encoders ({found}); import each separately")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline import",
        description="Import patch features of CLAM, TRIDENT or STAMP into the feature store.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", type=user_path, metavar="FOLDER", help="folder of .h5 files, one per slide (searched recursively)")
    add("--format", required=True, choices=("clam", "trident", "stamp"), help="the tool that made them")
    add("--store", default=DEFAULT_STORE, metavar="DIR", help="feature store: a folder or s3://… (features.zarr)")
    add(
        "--out",
        type=user_path,
        default=Path("imported.csv"),
        metavar="FILE",
        help="manifest to write (imported.csv)",
    )
    add("--encoder", metavar="NAME", help="encoder of the features; STAMP files name it")
    add("--mpp", type=float, metavar="MPP", help="microns per pixel of the tiles, if the files lack it")
    add("--tile-px", type=int, metavar="PX", help="side of a tile in pixels at that resolution, if the files lack it")
    add("--slide-mpp", type=float, metavar="MPP", help="microns per pixel of the slides' level 0, if the files lack it")
    add(
        "--stride-px",
        type=int,
        metavar="PX",
        help="distance between neighbouring tiles, if the files lack it; default: edge to edge",
    )
    return parser
