import numpy as np
import pandas as pd

from pipeline.explanation.atlas import Typical, case_share, describe_atlas, most_typical, shares_by_group

# Case a: slides a1 (4 tiles), a2 (1); case b: slide b1 (2). The prototype of each tile: 0 0 0 1 | 0 and 1 1.
A = np.array([[0.5, 0.9, 0.7, 0.1, 0.6], [0.2, 0.3, 0.4, 0.8, 0.5]])
B = np.array([[0.1, 0.2], [0.3, 0.95]])
SHARES = [case_share("a", A, [("a1", 4), ("a2", 1)]), case_share("b", B, [("b1", 2)])]


def test_tiles_belong_to_the_prototype_they_are_most_similar_to():
    assert [share.counts.tolist() for share in SHARES] == [[4, 1], [0, 2]]


def test_typical_tiles_are_the_most_similar_ones_two_of_a_slide_at_most():
    assert most_typical(SHARES, 0) == [Typical(0.9, "a1", 1), Typical(0.7, "a1", 2), Typical(0.6, "a2", 0)]
    assert most_typical(SHARES, 1) == [Typical(0.95, "b1", 1), Typical(0.8, "a1", 3), Typical(0.3, "b1", 0)]


def test_no_more_than_eight_tiles_are_shown():
    many = [case_share(f"c{i}", np.full((1, 3), i / 10), [(f"s{i}", 3)]) for i in range(6)]
    assert [tile.slide_id for tile in most_typical(many, 0)] == ["s5", "s5", "s4", "s4", "s3", "s3", "s2", "s2"]


def test_shares_are_means_over_cases_by_their_groups():
    """Case a: 4/5 and 1/5; case b: 0 and 1; a third case, 1/2 and 1/2, has no grade."""
    third = case_share("c", np.array([[0.9, 0.1], [0.1, 0.9]]), [("c1", 2)])
    groups = pd.DataFrame({"grade": ["2", "4", None], "risk": ["low risk", "high risk", "high risk"]}, ["a", "b", "c"])
    overall, by = shares_by_group([*SHARES, third], groups)
    np.testing.assert_allclose(overall, [(0.8 + 0 + 0.5) / 3, (0.2 + 1 + 0.5) / 3])
    assert by[0] == {"grade": {"2": 0.8, "4": 0.0}, "risk": {"high risk": 0.25, "low risk": 0.8}}
    assert by[1] == {"grade": {"2": 0.2, "4": 1.0}, "risk": {"high risk": 0.75, "low risk": 0.2}}


def test_groups_that_are_not_known_are_not_told():
    _, by = shares_by_group(SHARES, pd.DataFrame({"grade": [None, None]}, ["a", "b"]))
    assert by == [{}, {}]


def test_the_atlas_has_an_entry_for_each_prototype_and_none_without():
    atlas = describe_atlas(SHARES, pd.DataFrame(index=["a", "b"]), ["#111111", "#222222"], {0: ["x.jpg"]})
    assert [(one["prototype"], one["colour"], one["tiles"], one["share"]) for one in atlas] == [
        (1, "#111111", ["x.jpg"], 0.4),
        (2, "#222222", [], 0.6),
    ]
    assert describe_atlas([], pd.DataFrame(), [], {}) == []
