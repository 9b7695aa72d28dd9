"""Patches where they lie on their slide, and pooled by two until they fit."""

import pytest
import torch

from models.layers.slide_map import SlideMap, lay_out, lay_out_within, rows_by_slide

CELLS = torch.tensor([[6, 3], [5, 3], [6, 5], [9, 4]])  # columns 5 to 9, rows 3 to 5; pooled by 2, two share a cell
PATCHES = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])


def test_patches_lie_where_they_were_relative_to_the_first_tissue():
    slide = SlideMap(lay_out(CELLS, min_side=1), PATCHES)
    found = slide.laid_out(slide.patches)[..., 0]
    assert found.tolist() == [[2.0, 1.0, 0, 0, 0], [0, 0, 0, 0, 4.0], [0, 3.0, 0, 0, 0]]
    assert slide.layout.mask().tolist() == (found > 0).tolist()


def test_a_small_slide_gets_empty_cells_at_its_right_and_lower_side():
    layout = lay_out(CELLS, min_side=6)
    assert (layout.height, layout.width) == (6, 6)
    assert layout.occupied.tolist() == [0, 1, 6 + 4, 12 + 1]


def test_pooled_cells_are_the_means_of_their_patches_which_have_equal_parts_of_their_shares():
    slide = SlideMap(lay_out(CELLS, min_side=1, halvings=1), PATCHES)
    assert slide.patches.tolist() == [[1.5, 15.0], [4.0, 40.0], [3.0, 30.0]]
    shares = torch.tensor([[0.4, 0.0, 0.5], [0.1, 0.0, 0.0]])
    assert slide.by_patch(shares).tolist() == pytest.approx([0.2, 0.2, 0.1, 0.5])


def test_a_slide_is_pooled_until_it_fits_or_is_one_cell():
    assert lay_out_within(CELLS, min_side=1, fits=lambda layout: len(layout.occupied) < 4).halvings == 1
    assert len(lay_out_within(CELLS, min_side=1, fits=lambda _: False).occupied) == 1


def test_two_patches_on_one_cell_are_refused():
    with pytest.raises(ValueError, match="5 patches of a slide share 4 cells"):
        lay_out(torch.cat([CELLS, CELLS[:1]]), min_side=1)


def test_rows_are_grouped_by_slide():
    cells = torch.tensor([[1, 0, 0], [0, 4, 4], [1, 1, 0]])
    assert [rows.tolist() for rows in rows_by_slide(cells)] == [[1], [0, 2]]
