import numpy as np

from preprocessing.formats.colours import SHARES, SIGNED, Scale, colours_of, prototype_colour, rgb


def test_scales_go_from_their_first_colour_to_their_last():
    scale = Scale(0.0, 1.0, ("#000000", "#ff0000", "#ffffff"))
    colours = scale.colours(np.array([-1.0, 0.0, 0.5, 1.0, 9.0]))
    assert colours.tolist() == [[0, 0, 0], [0, 0, 0], [255, 0, 0], [255, 255, 255], [255, 255, 255]]
    assert Scale(2.0, 2.0, ("#000000", "#ffffff")).colours(np.array([2.0, 2.0])).tolist() == [[0, 0, 0]] * 2


def test_shares_that_are_nearly_even_are_distinguished():
    shares = np.linspace(0.0161, 0.0167, 101)
    colours = Scale.of(shares).colours(shares)
    assert colours[0].tolist() == list(rgb(SHARES[0]))
    assert colours[-1].tolist() == list(rgb(SHARES[-1]))


def test_values_with_a_sign_have_their_white_at_zero_however_lopsided_they_are():
    values = np.array([-0.1, 0.0, 0.2, 4.0])
    scale = Scale.of(values)
    assert scale.stops == SIGNED
    assert scale.low == -scale.high
    assert scale.colours(values)[1].tolist() == list(rgb("#f7f7f7"))
    red, _, blue = scale.colours(values).T
    assert blue[0] > red[0]
    assert red[3] > blue[3]


def test_unknown_values_do_not_affect_the_scale():
    assert Scale.of(np.array([np.nan, 1.0, 2.0])).low > 0.9
    assert Scale.of(np.array([np.nan])).colours(np.array([np.nan])).tolist() == [list(rgb(SHARES[0]))]


def test_prototypes_have_different_colours():
    assert len({prototype_colour(k) for k in range(1, 11)}) == 10
    assert prototype_colour(11) == prototype_colour(1)
    assert colours_of(np.array([1, 0]), ("#ff0000", "#0000ff")).tolist() == [[0, 0, 255], [255, 0, 0]]
