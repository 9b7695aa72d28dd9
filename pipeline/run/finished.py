"""A finished run, as other programs read it: its slides, their features, and what the model sees in them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Int32

from pipeline.run.explanation_file import read_explanation
from pipeline.tasks import TASKS
from preprocessing.features.store import FeatureStore
from preprocessing.formats.h5 import Geometry
from preprocessing.io.errors import InputError, SlideError, some
from preprocessing.omics.matrix import OmicsMatrix

if TYPE_CHECKING:
    from anndata import AnnData

SEEN = ("prototype", "attention", "tumour", "microenvironment", "contribution")  # what a model can see in a tile
PLACE = ["x", "y"]


@dataclass(frozen=True)
class FinishedSlide:
    """A slide of which the run has features.

    Attributes:
        path: the file, which need not be there any more.
        features: its group of features in the store.
        tiles: its group of tiles; empty where only the features were there.
    """

    slide_id: str
    case_id: str
    path: Path
    features: str
    tiles: str

    def corner_px(self) -> tuple[int, int]:
        """Where the scanned part begins, level-0 pixels (x, y); raises SlideError where the file is gone."""
        import openslide

        from preprocessing.slides.reader import SlideReader

        try:
            with SlideReader(self.path) as reader:
                return reader.bounds_px[:2]
        except (OSError, openslide.OpenSlideError):
            raise SlideError(
                f"{self.path} cannot be opened, and it says where the scanned part begins, from which QuPath measures; put it "
                "back, or take --origin slide if it is scanned from corner to corner"
            ) from None


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over.

    Attributes:
        folder: the run's.
        store: where its features are.
        task: the task whose explanation is read; None where the run explains none.
    """

    folder: Path
    store: FeatureStore
    task: str | None

    def slides(self, cases: Sequence[str] = ()) -> list[FinishedSlide]:
        """Those with features, of these cases or of all.

        Raises:
            InputError: no such case, or no features at all.
        """
        table = pd.read_csv(self.folder / "slides.csv", dtype=str, keep_default_na=False)
        if "features" not in table:
            raise InputError(f"{self.folder / 'slides.csv'} does not name the features: the run is of an older version")
        table = table[table["features"] != ""]
        found = [
            FinishedSlide(row["slide_id"], row["case_id"], Path(row["path"]), row["features"], row["tiles"])
            for row in table.to_dict("records")
        ]
        if unknown := [case for case in cases if case not in set(table["case_id"])]:
            raise InputError(f"--case {some(unknown)}: no such case with features; there are {some(table['case_id'])}")
        if not found:
            raise InputError(f"{self.folder}: no slide of this run has features")
        return [slide for slide in found if not cases or slide.case_id in cases]

    def facts(self, slide: FinishedSlide) -> dict[str, Any]:
        """What the store says of the slide's features; raises SlideError where they are gone."""
        facts = self.store.describe_features(slide.features)
        if facts is None:
            raise SlideError(f"store {self.store.place}: {slide.features} is not there, or not whole; see --store")
        return facts

    def geometry(self, slide: FinishedSlide) -> Geometry:
        """How large its tiles are."""
        facts = self.facts(slide)
        recipe, (x, y) = facts["recipe"], facts["slide_mpp_xy"]
        tile_px = recipe["tile_px"]
        return Geometry(tile_px, recipe["mpp"], recipe["stride_px"] or tile_px, (float(x), float(y)))

    def coords(self, slide: FinishedSlide) -> Int32[np.ndarray, "N 2"]:
        """Its tiles' upper left corners, level-0 pixels."""
        return self.store.read_features(slide.features).coords

    def size_px(self, slide: FinishedSlide) -> tuple[int, int]:
        """Width and height of level 0; of a slide whose features alone were there, of the part that its tiles reach."""
        if size := self.facts(slide)["slide_size_px"]:
            return int(size[0]), int(size[1])
        right, lower = np.ceil(self.coords(slide).max(0) + self.geometry(slide).span_px)
        return int(right), int(lower)

    @property
    def outline_origin(self) -> str:
        """Where the run's own outlines of tissue start: scan or slide."""
        config = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        return str(config["tiles"]["tissue"]["outline_origin"])

    @cached_property
    def explanation(self) -> dict[str, Any]:
        """The explanation of the task; empty where there is none."""
        if self.task is None:
            return {}
        return read_explanation(self.folder / "explain" / f"{self.task}.json")

    @property
    def colours(self) -> dict[int, str]:
        """The colour of each prototype, as in the explanation's pictures."""
        return {int(one["prototype"]): str(one["colour"]) for one in self.explanation.get("atlas", ())}

    @cached_property
    def _tiles_files(self) -> Mapping[str, Path]:
        explained = (slide for case in self.explanation.get("cases", ()) for slide in case["slides"])
        return {one["slide_id"]: self.folder / "explain" / str(self.task) / one["tile_table"] for one in explained}

    def legend(self, slide: FinishedSlide, layer: str) -> dict[str, Any]:
        """Return the legend of a map of numbers, the same for all slides of a case; raises KeyError for prototypes."""
        legends = {case["case_id"]: case["legends"] for case in self.explanation["cases"]}
        return dict(legends[slide.case_id][layer])

    def explained(self, slides: Sequence[FinishedSlide]) -> list[FinishedSlide]:
        """Those of the slides that are explained; raises InputError where none is."""
        found = [slide for slide in slides if slide.slide_id in self._tiles_files]
        if not found:
            raise InputError(
                f"{self.folder}: none of these {len(slides)} slides is explained; run_pipeline … --explain makes explanations"
            )
        return found

    def seen(self, slide: FinishedSlide) -> dict[str, np.ndarray]:
        """What the model sees in each tile, in the tiles' order: by prototype, attention, …; empty where not explained.

        Raises:
            SlideError: the explanation is of other tiles.
        """
        path = self._tiles_files.get(slide.slide_id)
        if path is None:
            return {}
        if not path.is_file():
            raise SlideError(f"{path} is gone; explain the run again")
        table = pd.read_csv(path)
        own = pd.DataFrame(self.coords(slide), columns=PLACE)
        joined = own.merge(table, on=PLACE, how="left", indicator=True)
        if not len(table) == len(own) == len(joined) or (joined["_merge"] != "both").any():
            raise SlideError(f"{path} is of other tiles than the store's {slide.features}; explain the run again")
        return {what: joined[what].to_numpy() for what in SEEN if what in joined}

    def tiles_of_case(self, slides: Sequence[FinishedSlide]) -> "AnnData":
        """A case's tiles: X patch features, obs slide, case, place on the grid and what the model sees, obsm["spatial"] corners.

        Corners are level-0 pixels of each tile's own slide; `uns["slides"]` has their resolution and size.
        """
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
                | self.seen(slide),
            ).set_axis([f"{slide.slide_id}:{i}" for i in range(len(bag.coords))])
            for slide, bag in zip(slides, bags, strict=True)
        ]
        obs = pd.concat(frames).astype({"slide_id": "category", "case_id": "category"})
        table = AnnData(np.concatenate([bag.features for bag in bags]).astype(np.float32), obs=obs)
        table.var_names = [f"feature_{i}" for i in range(table.n_vars)]
        table.obsm["spatial"] = np.concatenate([bag.coords for bag in bags]).astype(float)
        table.uns["slides"] = {slide.slide_id: self._described(slide) for slide in slides}
        table.uns["encoder"] = str(self.facts(slides[0])["encoder"]["name"])
        return table

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
        """Every case that came in: X molecular features (NaN: none), obs its fate, its labels and each task's predictions."""
        from anndata import AnnData

        cases = pd.read_csv(self.folder / "cases.csv", dtype={"case_id": str, "reason": object, "site": object})
        cases = cases.set_index("case_id")
        obs = cases.join(self._predictions())
        omics = self.folder / "omics.npz"
        matrix = OmicsMatrix.load(omics) if omics.is_file() else OmicsMatrix(np.zeros((0, 0)), (), (), ())
        values = pd.DataFrame(matrix.values, index=list(matrix.case_ids)).reindex(list(obs.index)).to_numpy(np.float32)
        var = pd.DataFrame({"kind": list(matrix.kinds)}, index=list(matrix.features))
        for name in obs.select_dtypes(object):  # AnnData writes text, not text and NaN beside each other
            obs[name] = [str(value) if pd.notna(value) else "" for value in obs[name]]
        return AnnData(values, obs=obs, var=var)

    def _predictions(self) -> pd.DataFrame:
        """A column for each task and each column of its predictions, by case."""
        path = self.folder / "predictions.csv"
        if not path.is_file():
            return pd.DataFrame()
        table = pd.read_csv(path, dtype={"case_id": str, "label": str, "prediction": str})
        told = pd.DataFrame(index=pd.Index([], name="case_id"))
        truth = {column for task in TASKS.values() for column in task.truth_columns}  # which cases.csv has
        for task in dict.fromkeys(map(str, table["task"])):
            rows = table[table["task"] == task].set_index("case_id").drop(columns=["task", *truth], errors="ignore")
            rows = rows.dropna(axis="columns", how="all")
            names = {name: f"{task}_{name.removeprefix(f'{task}_')}" for name in map(str, rows)}
            told = told.join(rows.rename(columns=names), how="outer")
        return told


def open_finished(folder: Path, *, store: str | None, task: str | None) -> FinishedRun:
    """The run in that folder.

    Args:
        folder: the run's.
        store: the feature store, where it is not where the run says.
        task: whose explanation is wanted; None: of the first task that has one.

    Raises:
        InputError: no finished run, no store, or no explanation of that task.
    """
    told = folder / "run.json"
    if not told.is_file() or not (folder / "slides.csv").is_file():
        raise InputError(f"{folder} is no finished run: it has no run.json and slides.csv")
    place = store or json.loads(told.read_text(encoding="utf-8")).get("store")
    if place is None:
        raise InputError(f"{told} does not say where the features are: the run is of an older version; give --store")
    features = FeatureStore(place)
    if not features.exists():
        raise InputError(f"--store {place}: there is no feature store; name the right one with --store")
    explained = sorted(path.stem for path in (folder / "explain").glob("*.json"))
    if task is not None and task not in explained:
        raise InputError(f"--task {task}: the run does not explain it; it explains {some(explained) or 'nothing'}")
    return FinishedRun(folder, features, task or next(iter(explained), None))
