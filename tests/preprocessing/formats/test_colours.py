import json

import numpy as np
import pytest

from preprocessing.formats.colours import (
    NEARLY_EVEN_NOTE,
    SHARES,
    SIGNED,
    Scale,
    colours_of,
    prototype_colour,
    rgb,
)


def test_scales_go_from_their_first_colour_over_the_centre_to_their_last():
    scale = Scale(0.0, 1.0, 5.0, ("#000000", "#ff0000", "#ffffff"))
    colours = scale.colours(np.array([-1.0, 0.0, 0.5, 1.0, 3.0, 5.0, 9.0]))
    assert colours.tolist() == [
        *([[0, 0, 0]] * 2),
        [127.5, 0, 0],
        [255, 0, 0],
        [255, 127.5, 127.5],
        *([[255, 255, 255]] * 2),
    ]
    flat = Scale(2.0, 2.0, 2.0, ("#000000", "#ff0000", "#ffffff"))
    assert flat.colours(np.array([2.0])).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(("deviation", "is_noted"), [(0.0, True), (0.03, True), (0.08, False), (0.6, False)])
def test_attention_within_a_few_percent_of_even_is_not_stretched_and_is_noted(deviation, is_noted):
    even = 1 / 400
    shares = even * (1 + np.linspace(-deviation, deviation, 400))
    scale = Scale.of_shares(shares, even=even)
    assert (scale.note == NEARLY_EVEN_NOTE) == is_noted
    middle = np.array(rgb(SHARES[2]), float)
    colours = scale.colours(shares)
    np.testing.assert_allclose(scale.colours(np.array([even])), [middle])
    # A deviation by d has d / 0.5 of the way from the middle colour to the ends, where the scale is at its narrowest.
    way = min(1, deviation / 0.5)
    at = np.interp([0.5 - way / 2, 0.5 + way / 2], np.linspace(0, 1, 5), np.arange(5))
    for colour, stop in zip((colours[0], colours[-1]), at, strict=True):
        first, last = (np.array(rgb(SHARES[int(one)]), float) for one in (np.floor(stop), np.ceil(stop)))
        np.testing.assert_allclose(colour, first + (stop % 1) * (last - first), atol=1e-6)


def test_attention_on_few_tiles_reaches_the_last_colour_and_the_even_share_stays_in_the_middle():
    shares = np.full(100, 0.5 / 95)
    shares[:5] = 0.1
    scale = Scale.of_shares(shares, even=0.01)
    assert scale.high == pytest.approx(0.1)
    assert scale.note == ""
    assert scale.colours(shares)[0].tolist() == list(rgb(SHARES[-1]))
    assert scale.colours(np.array([0.01]))[0].tolist() == list(rgb(SHARES[2]))


def test_values_with_a_sign_have_their_white_at_zero_however_lopsided_they_are():
    values = np.array([-0.1, 0.0, 0.2, 4.0])
    scale = Scale.signed(values)
    assert scale.stops == SIGNED
    assert scale.low == -scale.high
    assert scale.colours(values)[1].tolist() == list(rgb("#f7f7f7"))
    red, _, blue = scale.colours(values).T
    assert blue[0] > red[0]
    assert red[3] > blue[3]
    assert Scale.signed(np.array([0.5, 1.0])).low < 0  # no sign among the values, and still one on the scale


def test_unknown_values_do_not_affect_the_scale():
    assert Scale.signed(np.array([np.nan, 1.0, -2.0])).high == pytest.approx(1.99)
    assert Scale.of_shares(np.array([np.nan, 0.5]), even=0.5).high == 0.75
    assert Scale.signed(np.array([np.nan])).colours(np.array([np.nan])).tolist() == [list(rgb("#f7f7f7"))]


def test_a_scale_is_restored_from_its_legend():
    scale = Scale.of_shares(np.array([0.2, 0.8]), even=0.5)
    assert Scale.from_legend(json.loads(json.dumps(scale.legend() | {"unit": "share"}))) == scale


def test_prototypes_have_different_colours():
    assert len({prototype_colour(k) for k in range(1, 11)}) == 10
    assert prototype_colour(11) == prototype_colour(1)
    assert colours_of(np.array([1, 0]), ("#ff0000", "#0000ff")).tolist() == [[0, 0, 255], [255, 0, 0]]
