import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.ood.profiles import GeneProfiles, SlideProfile
from pipeline.ood.reference import FLAGS, MIN_CASES, ReferenceCohort
from preprocessing.io.errors import InputError
from preprocessing.tiling.slide_stats import SlideStats

LOOK = SlideStats(80.0, 0.0, 0.05, 3.0, 0.2, 0.1, 0.2, 0.12, 0.1)
WIDTH = 96


def profiles(n, *, seed, shift=0.0, slides_per_case=1, width=WIDTH, **stats):
    """Slides of one distribution: a few directions in which they differ much, many in which they differ little."""
    rng = np.random.default_rng(seed)
    strong = np.random.default_rng(0).standard_normal((6, width))
    out = []
    for i in range(n):
        mean = rng.standard_normal(6) @ strong + 0.3 * rng.standard_normal(width) + shift
        tiles = mean + rng.standard_normal((16, width))
        noisy = {
            "tissue_mm2": LOOK.tissue_mm2 * math.exp(0.5 * rng.standard_normal()),
            "sharpness": LOOK.sharpness + 0.1 * rng.standard_normal(),
            **{
                name: getattr(LOOK, name) + 0.03 * rng.standard_normal()
                for name in ("density", "contrast", "haematoxylin", "eosin", "other_colour")
            },
            "empty": abs(LOOK.empty + 0.02 * rng.standard_normal()),
        }
        own = replace(LOOK, **(noisy | stats))
        case = f"C{i // slides_per_case}"
        out.append(SlideProfile(f"S{i}", case, mean.astype("f"), tiles.astype("f"), own))
    return out


def genes(n, *, seed, shift=0.0, missing=0.0, width=60):
    rng = np.random.default_rng(seed)
    strong = np.random.default_rng(1).standard_normal((5, width))
    values = rng.standard_normal((n, 5)) @ strong + rng.standard_normal((n, width)) + shift
    return GeneProfiles(tuple(f"C{i}" for i in range(n)), values, np.full(n, missing))


@pytest.fixture(scope="module")
def reference():
    return ReferenceCohort.fit(profiles(60, seed=1), genes(60, seed=1))


def test_the_reason_names_the_largest_deviation_first(reference):
    for stats in ({"sharpness": 1.0, "eosin": 0.35}, {"sharpness": 2.4, "eosin": 0.9}):
        (found,) = reference.assess(profiles(1, seed=9, **stats), None).slides.to_dict("records")
        sizes = [float(size) for size in re.findall(r" ([0-9.]+) SD ", found["distribution_shift_reason"])]
        assert len(sizes) >= 2
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == pytest.approx(abs(max(found["sharpness_z"], found["eosin_z"], key=abs)), abs=0.06)


class TestRates:
    @pytest.mark.parametrize(("n", "rounds"), [(20, 16), (60, 6), (200, 2)])
    def test_of_cases_like_the_training_cases_95_percent_are_in_distribution_and_99_not_out(self, n, rounds):
        flags = []
        for seed in range(rounds):
            reference = ReferenceCohort.fit(profiles(n, seed=2 * seed), genes(n, seed=2 * seed))
            shift = reference.assess(profiles(100, seed=2 * seed + 1), genes(100, seed=2 * seed + 1))
            flags += shift.cases["distribution_shift"].tolist()
        share = pd.Series(flags).value_counts(normalize=True)
        assert 0.915 < share["in-distribution"] < 0.985
        assert share.get("out-of-distribution", 0) < 0.02

    def test_more_slides_per_case_do_not_flag_more_cases(self):
        flags = []
        for seed in range(4):
            reference = ReferenceCohort.fit(profiles(120, seed=2 * seed, slides_per_case=3), None)
            shift = reference.assess(profiles(150, seed=2 * seed + 1, slides_per_case=3), None)
            flags += shift.cases["distribution_shift"].tolist()
        assert 0.91 < flags.count("in-distribution") / len(flags) < 0.99

    def test_held_out_training_cases_have_the_promised_rates(self, reference):
        shares = [reference.held_out[flag] for flag in FLAGS]
        assert sum(shares) == pytest.approx(1)
        assert shares[0] >= 0.9
        assert (reference.n_cases, reference.n_slides) == (60, 60)

    def test_the_order_of_the_slides_does_not_matter(self):
        slides = profiles(30, seed=1)
        one, other = ReferenceCohort.fit(slides, None), ReferenceCohort.fit(slides[::-1], None)
        assert one.thresholds == pytest.approx(other.thresholds)


class TestFaults:
    @pytest.mark.parametrize(
        ("stats", "reason"),
        [
            ({"density": 0.5}, "staining 1[0-9.]+ SD darker(?:, .*)? than in the training slides"),
            ({"density": 0.0}, "staining [0-9.]+ SD paler"),
            ({"eosin": 0.5}, "eosin [0-9.]+ SD stronger"),
            ({"other_colour": 0.6}, "colour other than H&E [0-9.]+ SD stronger"),
            ({"sharpness": 1.0}, "focus [0-9.]+ SD blurrier"),
            ({"tissue_mm2": 0.1}, "tissue area [0-9.]+ SD smaller"),
            ({"ink": 0.6}, "pen ink [0-9.]+ SD more extensive"),
            ({"empty": 0.9}, "bare glass within tiles [0-9.]+ SD more extensive"),
        ],
    )
    def test_a_fault_is_out_of_distribution_and_named(self, reference, stats, reason):
        shift = reference.assess(profiles(5, seed=9, **stats), None)
        assert set(shift.slides["distribution_shift"]) == {"out-of-distribution"}
        assert shift.slides["distribution_shift_reason"].str.contains(reason).all()
        (name,) = ("tissue",) if "tissue_mm2" in stats else stats
        assert set(shift.slides[f"{name}_flag"]) == {"out-of-distribution"}
        assert set(shift.cases["distribution_shift"]) == {"out-of-distribution"}

    def test_shifted_features_are_out_of_distribution(self, reference):
        shift = reference.assess(profiles(5, seed=9, shift=2.0), None)
        assert set(shift.slides["distribution_shift"]) == {"out-of-distribution"}
        assert (
            shift.slides["distribution_shift_reason"].str.contains("mean patch feature [0-9.]+ SD more distant").all()
        )

    def test_absence_of_ink_and_glass_is_no_fault(self, reference):
        shift = reference.assess(profiles(40, seed=9, ink=0.0, empty=0.0), None)
        assert "borderline" not in set(shift.slides["empty_flag"]) | set(shift.slides["ink_flag"])

    def test_shifted_or_missing_genes_are_out_of_distribution(self, reference):
        shifted = reference.assess([], genes(5, seed=9, shift=4.0)).cases
        assert set(shifted["distribution_shift"]) == {"out-of-distribution"}
        expected = "gene profile [0-9.]+ SD more distant than in the training cases"
        assert shifted["distribution_shift_reason"].str.contains(expected).all()
        lacking = reference.assess([], genes(5, seed=9, missing=0.6)).cases
        assert set(lacking["missing_genes_flag"]) == {"out-of-distribution"}
        assert lacking["distribution_shift_reason"].str.contains("missing genes [0-9.]+ SD more frequent").all()

    def test_an_array_that_lacks_a_sixth_of_the_genes_is_no_fault(self, reference):
        """Estimated from the others, so many missing genes cost predictions of real cases nothing."""
        lacking = reference.assess([], genes(5, seed=9, missing=0.16)).cases
        assert set(lacking["missing_genes_flag"]) == {"in-distribution"}

    def test_a_case_has_the_verdict_of_its_worst_slide(self, reference):
        good, bad = profiles(1, seed=9)[0], profiles(1, seed=10, ink=0.8)[0]
        bad = replace(bad, slide_id="S-inked")
        (row,) = reference.assess([good, bad], genes(1, seed=3)).cases.itertuples()
        assert row.distribution_shift == "out-of-distribution"
        assert row.distribution_shift_reason.startswith("slide S-inked: pen ink ")

    def test_a_slide_without_statistics_is_assessed_by_its_features(self, reference):
        unseen = [replace(slide, stats=None) for slide in profiles(40, seed=9)]
        shift = reference.assess(unseen, None).slides
        assert (shift["distribution_shift"] == "in-distribution").mean() > 0.9
        assert shift["density_z"].isna().all()

    def test_too_few_training_cases_assess_nothing(self):
        reference = ReferenceCohort.fit(profiles(MIN_CASES - 1, seed=1), None)
        (row,) = reference.assess(profiles(1, seed=2), None).cases.itertuples()
        assert row.distribution_shift == "not assessed"
        assert row.distribution_shift_reason == f"the model was trained on fewer than {MIN_CASES} cases with slides"


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


class TestFolder:
    def test_a_saved_reference_assesses_alike(self, reference, tmp_path):
        reference.save(tmp_path)
        shifts = [
            one.assess(profiles(20, seed=4), genes(20, seed=4)) for one in (reference, ReferenceCohort.load(tmp_path))
        ]
        pd.testing.assert_frame_equal(shifts[0].slides, shifts[1].slides, atol=0.011)
        pd.testing.assert_frame_equal(shifts[0].cases, shifts[1].cases, atol=0.011)

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (lambda path: path.unlink(), "contains no reference.json, with which"),
            (lambda path: path.write_text("{"), "is damaged"),
            (lambda path: path.write_text('{"format": 3}'), "is damaged"),
            (lambda path: path.write_text('{"format": 99}'), "has format 99, this version reads format 3"),
            (
                lambda path: change(path, format=2),
                "has format 2, .* use the version that wrote it, or train the model again",
            ),
            (lambda path: change(path, residual_variances={"slides": 0.1, "genes": "much"}), "is damaged"),
            (lambda path: change(path, thresholds=["low", "high"]), "is damaged"),
            (lambda path: change(path, scales={"genes": {"centre": "far", "sd": 1.0}}), "is damaged"),
            (lambda path: change(path, scales={"genes": {"centre": 0.0, "sd": 0.0}}), "is damaged"),
            (lambda path: change(path, residual_variances={"slides": 0.1, "genes": float("nan")}), "is damaged"),
        ],
    )
    def test_a_damaged_folder_is_refused(self, reference, tmp_path, harm, message):
        reference.save(tmp_path)
        harm(tmp_path / "reference.json")
        with pytest.raises(InputError, match=message):
            ReferenceCohort.load(tmp_path)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("slides.centre", (WIDTH - 1,)),
            ("slides.variances", (3,)),
            ("genes.axes", (5, 59)),
            ("genes.centre", (60, 1)),
            ("gene_classes.means", (2, 59)),
            ("gene_classes.sds", (3, 60)),
        ],
    )
    def test_arrays_of_other_shapes_are_refused(self, tmp_path, name, shape):
        classes = {f"C{i}": "low" if i < 30 else "high" for i in range(60)}
        ReferenceCohort.fit(profiles(60, seed=1), genes(60, seed=1), classes).save(tmp_path)
        path = tmp_path / "reference.safetensors"
        arrays = load_file(path)
        assert name in arrays
        save_file(arrays | {name: np.ones(shape, dtype=np.float32)}, path)
        with pytest.raises(InputError, match=r"reference\.json is damaged"):
            ReferenceCohort.load(tmp_path)

    def test_numbers_that_are_not_finite_are_refused(self, reference, tmp_path):
        reference.save(tmp_path)
        path = tmp_path / "reference.safetensors"
        save_file(load_file(path) | {"genes.variances": np.full(len(reference.genes.variances), np.nan, "f")}, path)
        with pytest.raises(InputError, match="is damaged"):
            ReferenceCohort.load(tmp_path)
