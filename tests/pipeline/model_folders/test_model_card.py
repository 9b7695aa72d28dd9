from pipeline.model_folders.model_card import model_card

DESCRIBED = {
    "model": "umeml",
    "task": {"name": "grade", "kind": "classification"},
    "fitted": {"classes": ["2", "3"], "counts": [8, 9]},
    "omics": {"groups": {"a": ["EGFR", "MET"], "b": ["MET"]}},
    "encoder": {"name": "uni", "dim": 1024},
    "tiles": {"tile_px": 256, "mpp": 0.5},
    "training": {
        "n": 17,
        "validated": {"slides": {"metric": "macro_auc", "n": 17, "value": 0.9, "low": 0.8, "high": 0.95}},
    },
}


def test_a_card_has_data_performance_limits_and_licence():
    card = model_card(DESCRIBED)
    for text in (
        "# grade: umeml",
        "Trained on 17 cases",
        "2 (8 cases), 3 (9 cases)",
        "2 in 2 gene groups",
        "tiles of 256 px at 0.5 µm/px, embedded by uni (1024 features)",
        "From slides: macro AUC 0.900 (95 % interval 0.800 to 0.950), 17 left-out cases",
        "Only the classes above are predicted",
        "For research only",
        "Licence of the patch encoder uni: CC-BY-NC-ND-4.0",
    ):
        assert text in card


def test_a_value_without_an_interval_is_stated_with_the_reason():
    one = {
        "metric": "c_index",
        "n": 9,
        "value": 0.7,
        "low": None,
        "high": None,
        "reason": "too few to judge (4 events)",
    }
    missing = one | {"value": None, "reason": "no comparable pairs"}
    card = model_card(
        DESCRIBED
        | {
            "task": {"name": "survival", "kind": "survival"},
            "fitted": {"edges": [1.0]},
            "training": {"n": 9, "validated": {"slides": one, "genes": missing}},
        }
    )
    assert "- From slides: c-index 0.700 (no interval: too few to judge (4 events)), 9 left-out cases" in card
    assert "- From genes: c-index not measured: no comparable pairs" in card
    assert "classes" not in card
    assert "\n\n\n" not in card


def test_what_is_not_known_is_said():
    card = model_card(DESCRIBED | {"omics": None, "encoder": None, "training": {"n": 17}})
    assert "Genes: none" in card
    assert "Slides: none" in card
    assert "Not measured" in card
