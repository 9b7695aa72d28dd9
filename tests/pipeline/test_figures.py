import xml.etree.ElementTree as ET

from pipeline.figures import PANEL, Axis, forest
from pipeline.metrics import Metric

SVG = "{http://www.w3.org/2000/svg}"


def predictor(value, low, high):
    return {"pooled": {"macro_auc": Metric(value, low, high)}}


REPORT = {
    "contender": "umeml",
    "headline": "macro_auc",
    "model": predictor(0.8, 0.7, 0.9),
    "rivals": {"a < b": predictor(0.6, 0.5, 0.7)},
    "baselines": {"genes": predictor(0.7, 0.6, 0.8), "slides": {"pooled": {"macro_auc": Metric(None, reason="none")}}},
    "lead": {"a < b": Metric(0.2, -0.1, 0.5), "genes": Metric(0.1, 0.0, 0.2), "slides": Metric(None, reason="none")},
}


def read():
    root = ET.fromstring(forest("grade: 20 cases", REPORT))
    texts = [(float(e.get("x")), float(e.get("y")), e.text) for e in root.iter(f"{SVG}text")]
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in root.iter(f"{SVG}circle")]
    return texts, dots


def test_each_predictor_has_a_row_with_its_numbers():
    texts, _ = read()
    words = [text for _, _, text in texts]
    for expected in ("grade: 20 cases", "umeml", "a < b", "ridge on genes", "MIL on slides", "0.600 (0.500 to 0.700)"):
        assert expected in words
    assert words.count("–") == 2  # a predictor without a value, and the lead over it
    assert "0.200 (-0.100 to 0.500)" in words


def test_dots_lie_by_their_values():
    """Three predictors with a value and two leads; equal steps in value are equal steps on paper, in each panel."""
    _, dots = read()
    model, rival, lead, genes, second = dots
    assert model[0] - genes[0] == genes[0] - rival[0] > 0
    assert rival[1] == lead[1] > model[1]
    assert lead[0] > second[0]


def test_ticks_are_round_and_within_the_axis():
    for low, high, expected in ((0.48, 0.92, [0.5, 0.6, 0.7, 0.8, 0.9]), (-0.13, 0.12, [-0.1, -0.05, 0, 0.05, 0.1])):
        axis = Axis(low, high, 100)
        assert axis.ticks() == expected
        assert axis.at(low) == 100
        assert axis.at(high) == 100 + PANEL
