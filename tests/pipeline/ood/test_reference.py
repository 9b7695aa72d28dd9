import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.ood.profiles import Genes, Profile
from pipeline.ood.reference import FLAGS, MIN_CASES, Reference
from preprocessing.io.errors import InputError
from preprocessing.tiling.slide_stats import Look

LOOK = Look(80.0, 0.0, 0.05, 3.0, 0.2, 0.1, 0.2, 0.12, 0.1)
WIDTH = 96


def profiles(n, *, seed, shift=0.0, slides_per_case=1, width=WIDTH, **look):
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
        own = replace(LOOK, **(noisy | look))
        case = f"C{i // slides_per_case}"
        out.append(Profile(f"S{i}", case, mean.astype("f"), tiles.astype("f"), own))
    return out


def genes(n, *, seed, shift=0.0, missing=0.0, width=60):
    rng = np.random.default_rng(seed)
    strong = np.random.default_rng(1).standard_normal((5, width))
    values = rng.standard_normal((n, 5)) @ strong + rng.standard_normal((n, width)) + shift
    return Genes(tuple(f"C{i}" for i in range(n)), values, np.full(n, missing))


@pytest.fixture(scope="module")
def reference():
    return Reference.fit(profiles(60, seed=1), genes(60, seed=1))


class TestRates:
    @pytest.mark.parametrize(("n", "rounds"), [(20, 16), (60, 6), (200, 2)])
    def test_of_cases_like_the_training_cases_95_percent_are_in_and_99_not_out(self, n, rounds):
        flags = []
        for seed in range(rounds):
            reference = Reference.fit(profiles(n, seed=2 * seed), genes(n, seed=2 * seed))
            judged = reference.judge(profiles(100, seed=2 * seed + 1), genes(100, seed=2 * seed + 1))
            flags += judged.cases["likeness"].tolist()
        share = pd.Series(flags).value_counts(normalize=True)
        assert 0.915 < share["in"] < 0.985
        assert share.get("out", 0) < 0.02

    def test_more_slides_a_case_do_not_make_more_cases_doubtful(self):
        flags = []
        for seed in range(4):
            reference = Reference.fit(profiles(120, seed=2 * seed, slides_per_case=3), None)
            judged = reference.judge(profiles(150, seed=2 * seed + 1, slides_per_case=3), None)
            flags += judged.cases["likeness"].tolist()
        assert 0.91 < flags.count("in") / len(flags) < 0.99

    def test_the_training_cases_own_shares_are_told(self, reference):
        shares = [reference.facts[f"held_out_{flag}"] for flag in FLAGS]
        assert sum(shares) == pytest.approx(1)
        assert shares[0] >= 0.9
        assert (reference.facts["cases"], reference.facts["slides"]) == (60, 60)

    def test_the_order_of_the_slides_does_not_matter(self):
        slides = profiles(30, seed=1)
        one, other = Reference.fit(slides, None), Reference.fit(slides[::-1], None)
        assert one.limits == pytest.approx(other.limits)


class TestFaults:
    @pytest.mark.parametrize(
        ("look", "reason"),
        [
            ({"density": 0.5}, "stain: 1[0-9.]+ sd darker(?:, .*)? than in the training slides"),
            ({"density": 0.0}, "stain: [0-9.]+ sd paler"),
            ({"eosin": 0.5}, "eosin: [0-9.]+ sd stronger"),
            ({"other_colour": 0.6}, "colours of neither stain: [0-9.]+ sd stronger"),
            ({"sharpness": 1.0}, "focus: [0-9.]+ sd blurrier"),
            ({"tissue_mm2": 0.1}, "tissue: [0-9.]+ sd less"),
            ({"ink": 0.6}, "pen ink: [0-9.]+ sd more"),
            ({"empty": 0.9}, "glass in the tiles: [0-9.]+ sd more"),
        ],
    )
    def test_a_fault_is_out_and_is_called_by_its_name(self, reference, look, reason):
        judged = reference.judge(profiles(5, seed=9, **look), None)
        assert set(judged.slides["likeness"]) == {"out"}
        assert judged.slides["likeness_reason"].str.contains(reason).all()
        (name,) = ("tissue",) if "tissue_mm2" in look else look
        assert set(judged.slides[f"{name}_flag"]) == {"out"}
        assert set(judged.cases["likeness"]) == {"out"}

    def test_other_features_are_out(self, reference):
        judged = reference.judge(profiles(5, seed=9, shift=2.0), None)
        assert set(judged.slides["likeness"]) == {"out"}
        assert judged.slides["likeness_reason"].str.contains("patch features: [0-9.]+ sd farther off").all()

    def test_what_is_no_fault_is_no_fault(self, reference):
        judged = reference.judge(profiles(40, seed=9, ink=0.0, empty=0.0), None)
        assert "doubtful" not in set(judged.slides["empty_flag"]) | set(judged.slides["ink_flag"])

    def test_genes_that_are_shifted_or_missing_are_out(self, reference):
        shifted = reference.judge([], genes(5, seed=9, shift=4.0)).cases
        assert set(shifted["likeness"]) == {"out"}
        assert shifted["likeness_reason"].str.contains("genes: [0-9.]+ sd farther off than in the training cases").all()
        lacking = reference.judge([], genes(5, seed=9, missing=0.4)).cases
        assert set(lacking["missing_genes_flag"]) == {"out"}
        assert lacking["likeness_reason"].str.contains("genes of the model that are missing: [0-9.]+ sd more").all()

    def test_a_case_is_as_odd_as_the_oddest_of_its_slides(self, reference):
        good, bad = profiles(1, seed=9)[0], profiles(1, seed=10, ink=0.8)[0]
        bad = replace(bad, slide_id="S-inked")
        (row,) = reference.judge([good, bad], genes(1, seed=3)).cases.itertuples()
        assert row.likeness == "out"
        assert row.likeness_reason.startswith("slide S-inked: pen ink:")

    def test_a_slide_that_nobody_looked_at_is_judged_by_its_features(self, reference):
        unseen = [replace(slide, look=None) for slide in profiles(40, seed=9)]
        judged = reference.judge(unseen, None).slides
        assert (judged["likeness"] == "in").mean() > 0.9
        assert judged["density"].isna().all()

    def test_too_few_training_cases_make_everything_doubtful(self):
        reference = Reference.fit(profiles(MIN_CASES - 1, seed=1), None)
        (row,) = reference.judge(profiles(1, seed=2), None).cases.itertuples()
        assert row.likeness == "doubtful"
        assert row.likeness_reason == f"trained on fewer than {MIN_CASES} cases with slides: nothing to compare with"


class TestFolder:
    def test_what_was_saved_judges_alike(self, reference, tmp_path):
        reference.save(tmp_path)
        told = [one.judge(profiles(20, seed=4), genes(20, seed=4)) for one in (reference, Reference.load(tmp_path))]
        pd.testing.assert_frame_equal(told[0].slides, told[1].slides, atol=0.011)
        pd.testing.assert_frame_equal(told[0].cases, told[1].cases, atol=0.011)

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (lambda path: path.unlink(), "holds no likeness.json and likeness.safetensors"),
            (lambda path: path.write_text("{"), "is broken"),
            (lambda path: path.write_text('{"format": 99}'), "has format 99, this version reads 1"),
        ],
    )
    def test_a_folder_that_is_broken_is_refused(self, reference, tmp_path, harm, message):
        reference.save(tmp_path)
        harm(tmp_path / "likeness.json")
        with pytest.raises(InputError, match=message):
            Reference.load(tmp_path)
