import numpy as np
import pytest

from preprocessing.formats.labels import with_label

GREEN = np.full((600, 900, 3), (0, 160, 0), np.uint8)


def test_text_stands_in_the_upper_left_corner_and_nowhere_else():
    labelled = with_label(GREEN, "nearly even: not informative")
    changed = (labelled != GREEN).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min()) == (0, 0)
    assert rows.max() < 60
    assert 200 < columns.max() < 500
    box = labelled[: rows.max(), : columns.max()]
    assert (box == 255).all(axis=2).mean() > 0.5
    assert (box.max(axis=2) < 100).mean() > 0.05  # black letters
    assert (GREEN == (0, 160, 0)).all()  # the picture that was given is not changed


@pytest.mark.parametrize(("text", "shape"), [("", (600, 900)), ("nearly even: not informative", (8, 8))])
def test_without_text_or_space_the_size_stays(text, shape):
    picture = GREEN[: shape[0], : shape[1]]
    assert with_label(picture, text).shape == picture.shape
    assert (with_label(picture, "") == picture).all()


def test_in_a_narrow_picture_the_letters_are_smaller():
    tall = np.zeros((2000, 200, 3), np.uint8)
    rows, columns = np.nonzero((with_label(tall, "nearly even: not informative") > 0).any(axis=2))
    assert columns.max() < 200
    assert rows.max() < 40
