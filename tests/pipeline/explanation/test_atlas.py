import numpy as np
import pandas as pd

from pipeline.explanation.atlas import TypicalTile, describe_atlas, most_typical, shares_by_group, tally_case

# Case a: slides a1 (4 tiles), a2 (1); case b: slide b1 (2). The prototype of each tile: 0 0 0 1 | 0 and 1 1.
A = np.array([[0.5, 0.9, 0.7, 0.1, 0.6], [0.2, 0.3, 0.4, 0.8, 0.5]])
B = np.array([[0.1, 0.2], [0.3, 0.95]])
ALL = np.arange(4)
TALLIES = [tally_case("a", A, [("a1", ALL), ("a2", ALL[:1])]), tally_case("b", B, [("b1", ALL[:2])])]


def test_tiles_are_assigned_to_the_most_similar_prototype():
    assert [tally.counts.tolist() for tally in TALLIES] == [[4, 1], [0, 2]]


def test_typical_tiles_are_the_most_similar_ones_at_most_two_per_slide():
    assert most_typical(TALLIES, 0) == [TypicalTile(0.9, "a1", 1), TypicalTile(0.7, "a1", 2), TypicalTile(0.6, "a2", 0)]
    assert most_typical(TALLIES, 1) == [
        TypicalTile(0.95, "b1", 1),
        TypicalTile(0.8, "a1", 3),
        TypicalTile(0.3, "b1", 0),
    ]


def test_typical_tiles_of_a_sample_have_their_numbers_among_all_tiles_of_the_slide():
    tally = tally_case("a", A, [("a1", np.array([3, 5, 8, 9])), ("a2", np.array([7]))])
    assert [(tile.slide_id, tile.row) for tile in tally.typical[0]] == [("a1", 5), ("a1", 8), ("a2", 7)]
    assert [(tile.slide_id, tile.row) for tile in tally.typical[1]] == [("a1", 9)]


def test_at_most_eight_tiles_are_typical():
    many = [tally_case(f"c{i}", np.full((1, 3), i / 10), [(f"s{i}", ALL[:3])]) for i in range(6)]
    assert [tile.slide_id for tile in most_typical(many, 0)] == ["s5", "s5", "s4", "s4", "s3", "s3", "s2", "s2"]


def test_shares_are_means_over_cases_by_their_groups():
    """Case a: 4/5 and 1/5; case b: 0 and 1; a third case, 1/2 and 1/2, has no grade."""
    third = tally_case("c", np.array([[0.9, 0.1], [0.1, 0.9]]), [("c1", ALL[:2])])
    groups = pd.DataFrame({"grade": ["2", "4", None], "risk": ["low risk", "high risk", "high risk"]}, ["a", "b", "c"])
    overall, by = shares_by_group([*TALLIES, third], groups)
    np.testing.assert_allclose(overall, [(0.8 + 0 + 0.5) / 3, (0.2 + 1 + 0.5) / 3])
    assert by[0] == {"grade": {"2": 0.8, "4": 0.0}, "risk": {"high risk": 0.25, "low risk": 0.8}}
    assert by[1] == {"grade": {"2": 0.2, "4": 1.0}, "risk": {"high risk": 0.75, "low risk": 0.2}}


def test_unknown_groups_have_no_shares():
    _, by = shares_by_group(TALLIES, pd.DataFrame({"grade": [None, None]}, ["a", "b"]))
    assert by == [{}, {}]


def test_the_atlas_has_an_entry_for_each_prototype_and_none_without():
    atlas = describe_atlas(TALLIES, pd.DataFrame(index=["a", "b"]), ["#111111", "#222222"], {0: ["x.jpg"]})
    assert [(one["prototype"], one["colour"], one["images"], one["share"]) for one in atlas] == [
        (1, "#111111", ["x.jpg"], 0.4),
        (2, "#222222", [], 0.6),
    ]
    assert describe_atlas([], pd.DataFrame(), [], {}) == []
