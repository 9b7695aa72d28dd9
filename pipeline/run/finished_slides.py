"""The slides of a finished run with their features and explanations, for export to other tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int32, Shaped, UInt8

from pipeline.run.finished import FinishedRun, read_run
from pipeline.slides.thumbnails import thumbnail_path
from preprocessing.features.store import FeatureStore
from preprocessing.formats.h5 import Geometry
from preprocessing.io.errors import InputError, SlideError, some
from preprocessing.io.extras import extra
from preprocessing.io.outputs import damaged, read_table
from preprocessing.omics.matrix import OmicsMatrix

if TYPE_CHECKING:
    from anndata import AnnData

LAYERS = (
    "prototype",
    "attention",
    "tumour",
    "microenvironment",
    "contribution",
)  # columns of the tile tables of explanations
CORNER = ["x", "y"]


@dataclass(frozen=True)
class FinishedSlide:
    """A slide with features.

    Attributes:
        slide_id: id of the slide.
        case_id: id of its case.
        path: the file, which may be missing by now.
        features: key of its features in the store.
        tiles: key of its tiles in the store; empty for precomputed features.
    """

    slide_id: str
    case_id: str
    path: Path
    features: str
    tiles: str

    def corner_px(self) -> tuple[int, int]:
        """Return the corner (x, y) of the scanned area, level-0 pixels; raises SlideError where the file is missing."""
        import openslide

        from preprocessing.slides.reader import SlideReader

        try:
            with SlideReader(self.path) as reader:
                return reader.bounds_px[:2]
        except (OSError, openslide.OpenSlideError):
            raise SlideError(
                f"{self.path} cannot be opened, but its metadata has the corner of the scanned area, which is QuPath's origin; "
                "restore it, or use --origin slide if all of it was scanned"
            ) from None


@dataclass(frozen=True)
class FinishedSlides:
    """Slides of a finished run, with their features in the store.

    Attributes:
        run: the run.
        store: the feature store.
        task: task whose explanation is used; None where the run explains none.
    """

    run: FinishedRun
    store: FeatureStore
    task: str | None

    def slides(self, cases: Sequence[str] = ()) -> list[FinishedSlide]:
        """Return the slides with features.

        Args:
            cases: only slides of these cases; empty: all.

        Raises:
            InputError: an unknown case, a run without slides, or no slide has features.
        """
        table = self.run.slides
        if not len(table):
            raise _no_slides(self.run.folder)
        table = table[table["features"] != ""]
        found = [
            FinishedSlide(row["slide_id"], row["case_id"], Path(row["path"]), row["features"], row["tiles"])
            for row in table.to_dict("records")
        ]
        if unknown := [case for case in cases if case not in set(table["case_id"])]:
            raise InputError(
                f"--case {some(unknown)}: no such case with features; there are {some(table['case_id'].unique())}"
            )
        if not found:
            raise InputError(f"{self.run.folder}: no slide of the run has features")
        return [slide for slide in found if not cases or slide.case_id in cases]

    def metadata(self, slide: FinishedSlide) -> dict[str, Any]:
        """Return the attributes of a slide's features in the store; raises SlideError where these are missing."""
        metadata = self.store.describe_features(slide.features)
        if metadata is None:
            raise SlideError(f"store {self.store.place}: {slide.features} is missing or incomplete; see --store")
        return metadata

    def geometry(self, slide: FinishedSlide) -> Geometry:
        """Return the size and resolution of a slide's tiles."""
        metadata = self.metadata(slide)
        recipe, (x, y) = metadata["recipe"], metadata["slide_mpp_xy"]
        tile_px = recipe["tile_px"]
        return Geometry(tile_px, recipe["mpp"], recipe["stride_px"] or tile_px, (float(x), float(y)))

    def coords(self, slide: FinishedSlide) -> Int32[np.ndarray, "N 2"]:
        """Return the upper left corners (x, y) of a slide's tiles, level-0 pixels."""
        return self.store.read_features(slide.features).coords

    def size_px(self, slide: FinishedSlide) -> tuple[int, int]:
        """Return width and height of level 0, pixels; of imported features, of the area that the tiles cover."""
        if size := self.metadata(slide)["slide_size_px"]:
            return int(size[0]), int(size[1])
        right, lower = np.ceil(self.coords(slide).max(0) + self.geometry(slide).span_px)
        return int(right), int(lower)

    @property
    def outline_origin(self) -> str:
        """Origin of the tissue outlines of the run: scan or slide."""
        try:
            return str(self.run.config["tiles"]["tissue"]["outline_origin"])
        except (LookupError, TypeError) as error:
            raise damaged(self.run.folder / "config.yaml", error) from None

    @cached_property
    def explanation(self) -> dict[str, Any]:
        """The explanation of the task; empty where there is none."""
        if self.task is None:
            return {}
        return dict(self.run.explanations[self.task])

    @property
    def colours(self) -> dict[int, str]:
        """The colour of each prototype, as in the explanation's pictures."""
        return {int(one["prototype"]): str(one["colour"]) for one in self.explanation.get("atlas", ())}

    @cached_property
    def _tiles_files(self) -> Mapping[str, Path]:
        explained = (slide for case in self.explanation.get("cases", ()) for slide in case["slides"])
        return {one["slide_id"]: self.run.folder / "explain" / str(self.task) / one["tile_table"] for one in explained}

    def legend(self, slide: FinishedSlide, layer: str) -> dict[str, Any]:
        """Return the legend of a map of numbers, the same for all slides of a case; raises KeyError for prototypes."""
        legends = {case["case_id"]: case["legends"] for case in self.explanation["cases"]}
        return dict(legends[slide.case_id][layer])

    def is_explained(self, slide: FinishedSlide) -> bool:
        """Whether the explanation has maps of a slide."""
        return slide.slide_id in self._tiles_files

    def explained(self, slides: Sequence[FinishedSlide]) -> list[FinishedSlide]:
        """Return the slides that are explained; raises InputError where none is."""
        found = [slide for slide in slides if self.is_explained(slide)]
        if not found:
            raise InputError(
                f"{self.run.folder}: task {self.task}: none of the chosen slides is explained; repeat the command of "
                "the run with --explain all, or with the ids of the cases"
            )
        return found

    def tile_values(self, slide: FinishedSlide) -> dict[str, Shaped[np.ndarray, " N"]]:
        """Return the values of each tile in the explanation, by name of the layer; empty where not explained.

        Raises:
            SlideError: the explanation is missing, or of other tiles.
        """
        path = self._tiles_files.get(slide.slide_id)
        if path is None:
            return {}
        if not path.is_file():
            raise SlideError(f"{path} is missing; repeat the command of the run, which explains its cases again")
        table = read_table(path, *CORNER)
        tiles = pd.DataFrame(self.coords(slide), columns=CORNER)
        joined = tiles.merge(table, on=CORNER, how="left", indicator=True)
        if not len(table) == len(tiles) == len(joined) or (joined["_merge"] != "both").any():
            raise SlideError(
                f"{path} is of other tiles than {slide.features} in the store; repeat the command of the run"
            )
        return {layer: joined[layer].to_numpy() for layer in LAYERS if layer in joined}

    def tile_measurements(self, slide: FinishedSlide) -> dict[str, Shaped[np.ndarray, " N"]]:
        """Return what is known of each tile without a model, by name.

        `column` and `row` are its cell on the grid, `tissue` the share that is tissue, 0 to 1.

        Precomputed features have no tissue mask, hence no share.
        """
        bag = self.store.read_features(slide.features)
        measured = {"column": bag.cells[:, 0], "row": bag.cells[:, 1]}
        if slide.tiles:
            mask, (width, height) = self.store.read_tiles(slide.tiles).mask, self.size_px(slide)
            scale = np.array([mask.shape[1] / width, mask.shape[0] / height])
            measured["tissue"] = _shares(mask, bag.coords * scale, np.array(self.geometry(slide).span_px) * scale)
        return measured

    def thumbnail(self, slide: FinishedSlide) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return the thumbnail of a slide, RGB; None where there is none."""
        from PIL import Image

        path = thumbnail_path(self.run.folder / "thumbnails", slide.slide_id)
        if not path.is_file():
            return None
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def tiles_of_case(self, slides: Sequence[FinishedSlide]) -> "AnnData":
        """Return the tiles of a case as AnnData (tiles × features).

        `obs` has slide, case, column and row on the grid and the values of the explanation; `obsm["spatial"]` the centre (x, y) of
        each tile in level-0 pixels of its slide; `uns["slides"]` the resolution and size of the slides; `uns["spatial"]` the
        picture of each slide and its scale, as scanpy and squidpy expect it.
        """
        with extra("exchange", "the export to AnnData"):
            from anndata import AnnData

        bags = [self.store.read_features(slide.features) for slide in slides]
        frames = [
            pd.DataFrame(
                {
                    "slide_id": slide.slide_id,
                    "case_id": slide.case_id,
                    "column": bag.cells[:, 0],
                    "row": bag.cells[:, 1],
                }
                | self.tile_values(slide),
            ).set_axis([f"{slide.slide_id}:{i}" for i in range(len(bag.coords))])
            for slide, bag in zip(slides, bags, strict=True)
        ]
        obs = pd.concat(frames).astype({"slide_id": "category", "case_id": "category"})
        table = AnnData(np.concatenate([bag.features for bag in bags]).astype(np.float32), obs=obs)
        table.var_names = [f"feature_{i}" for i in range(table.n_vars)]
        spans = [np.array(self.geometry(slide).span_px) for slide in slides]
        centres = [bag.coords + span / 2 for bag, span in zip(bags, spans, strict=True)]
        table.obsm["spatial"] = np.concatenate(centres).astype(float)
        table.uns["spatial"] = {slide.slide_id: self._picture(slide) for slide in slides}
        table.uns["slides"] = {slide.slide_id: self._described(slide) for slide in slides}
        table.uns["encoder"] = str(self.metadata(slides[0])["encoder"]["name"])
        return table

    def _picture(self, slide: FinishedSlide) -> dict[str, Any]:
        """The picture of a slide and its scale, in the form of `uns["spatial"]`."""
        picture, diameter = self.thumbnail(slide), float(np.mean(self.geometry(slide).span_px))
        scale = 1.0 if picture is None else picture.shape[1] / self.size_px(slide)[0]
        factors = {"tissue_hires_scalef": scale, "tissue_lowres_scalef": scale}
        return {
            "images": {} if picture is None else {"hires": picture, "lowres": picture},
            "scalefactors": factors | {"spot_diameter_fullres": diameter, "fiducial_diameter_fullres": diameter},
        }

    def _described(self, slide: FinishedSlide) -> dict[str, Any]:
        geometry = self.geometry(slide)
        return {
            "mpp_xy": np.array(geometry.slide_mpp_xy),
            "size_px": np.array(self.size_px(slide)),
            "tile_px": geometry.tile_px,
            "tile_mpp": geometry.mpp,
            "tile_span_px": np.array(geometry.span_px),
        }

    def cohort(self) -> "AnnData":
        """Return all input cases as AnnData (cases × molecular features; NaN: none); `obs` has status, labels and predictions."""
        with extra("exchange", "the export to AnnData"):
            from anndata import AnnData

        cases = read_table(
            self.run.folder / "cases.csv", "case_id", dtype={"case_id": str, "reason": object, "site": object}
        )
        cases = cases.set_index("case_id")
        obs = cases.join(self._predictions())
        omics = self.run.folder / "omics.npz"
        matrix = OmicsMatrix.load(omics) if omics.is_file() else OmicsMatrix(np.zeros((0, 0)), (), (), ())
        values = pd.DataFrame(matrix.values, index=list(matrix.case_ids)).reindex(list(obs.index)).to_numpy(np.float32)
        var = pd.DataFrame({"kind": list(matrix.kinds)}, index=list(matrix.features))
        for name in obs.select_dtypes(object):  # AnnData writes text, not text and NaN beside each other
            obs[name] = [str(value) if pd.notna(value) else "" for value in obs[name]]
        return AnnData(values, obs=obs, var=var)

    def _predictions(self) -> pd.DataFrame:
        """Predictions by case: a column for each task and each column of its predictions."""
        path = self.run.folder / "predictions.csv"
        if not path.is_file():
            return pd.DataFrame()
        table = read_table(path, "case_id", "task", dtype={"case_id": str, "label": str, "prediction": str})
        columns = pd.DataFrame(index=pd.Index([], name="case_id"))
        truth = {
            column for task in self.run.definitions.values() for column in task.truth_columns
        }  # which cases.csv has
        for task in dict.fromkeys(map(str, table["task"])):
            rows = table[table["task"] == task].set_index("case_id").drop(columns=["task", *truth], errors="ignore")
            rows = rows.dropna(axis="columns", how="all")
            names = {name: f"{task}_{name.removeprefix(f'{task}_')}" for name in map(str, rows)}
            columns = columns.join(rows.rename(columns=names), how="outer")
        return columns


def _shares(
    mask: Bool[np.ndarray, "h w"], corners: Float[np.ndarray, "N 2"], span: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, " N"]:
    """The share of each tile that is tissue, from the pixels of the mask that the tile covers.

    Args:
        mask: tissue.
        corners: upper left corners of the tiles (x, y), mask pixels.
        span: width and height of a tile, mask pixels.
    """
    height, width = mask.shape
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    first = np.clip(np.rint(corners).astype(int), 0, (width - 1, height - 1))
    last = np.clip(np.rint(corners + span).astype(int), first + 1, (width, height))
    inside = sums[last[:, 1], last[:, 0]] - sums[first[:, 1], last[:, 0]]
    inside = inside - sums[last[:, 1], first[:, 0]] + sums[first[:, 1], first[:, 0]]
    return np.asarray(inside / np.prod(last - first, axis=1))


def _no_slides(folder: Path) -> InputError:
    return InputError(
        f"{folder}: this run has no slides; run_pipeline export anndata writes its cases with genes, labels and predictions"
    )


def open_slides(folder: Path, *, store: str | None, task: str | None, slides_required: bool = True) -> FinishedSlides:
    """Open the slides of a finished run.

    Args:
        folder: the run folder.
        store: the feature store, where it has moved since the run.
        task: task whose explanation is used; None: the first task that has one.
        slides_required: whether a run without slides is refused; otherwise its store is not needed.

    Raises:
        InputError: no finished run, no slides, no store, or no explanation of that task; see also `read_run`.
    """
    run = read_run(folder)
    address = store or str(run.record["store"])
    features = FeatureStore(address)
    if slides_required and not len(run.slides):
        raise _no_slides(folder)
    if len(run.slides) and not features.exists():
        raise InputError(f"--store {address}: there is no feature store; name the right one with --store")
    explained = run.explained_tasks()
    if task is not None and task not in explained:
        raise InputError(f"--task {task}: the run does not explain it; it explains {some(explained) or 'nothing'}")
    return FinishedSlides(run, features, task or next(iter(explained), None))
