from pipeline.terminal.tables import format_list, format_table

HEAD = ("model", "accuracy", "area under the curve")
ROWS = [("umeml", "0.750 (0.650–0.850)", "0.9"), ("snn", "0.5")]


def test_columns_stand_side_by_side_and_words_of_the_head_below_one_another():
    assert format_table(HEAD, ROWS, width=80) == [
        "                            area",
        "                            under",
        "                            the",
        "model  accuracy             curve",
        "umeml  0.750 (0.650–0.850)  0.9",
        "snn    0.5",
    ]


def test_columns_that_do_not_fit_continue_below():
    assert format_table(HEAD, ROWS, width=30) == [
        "model  accuracy",
        "umeml  0.750 (0.650–0.850)",
        "snn    0.5",
        "",
        "       area",
        "       under",
        "       the",
        "model  curve",
        "umeml  0.9",
        "snn",
    ]


def test_a_cell_is_never_cut():
    assert format_table(("a", "b"), [("x", "y" * 50)], width=10)[1] == "x  " + "y" * 50


def test_long_names_stand_above_the_other_cells():
    rows = [("features/a-very-long-name", "uni", "3 KiB"), ("tiles/b", "", "11 KiB")]
    assert format_list(("group", "encoder", "size"), rows, width=60) == [
        "group                      encoder  size",
        "features/a-very-long-name  uni      3 KiB",
        "tiles/b                             11 KiB",
    ]
    assert format_list(("group", "encoder", "size"), rows, width=20) == [
        "group",
        "  encoder  size",
        "features/a-very-long-name",
        "  uni      3 KiB",
        "tiles/b",
        "           11 KiB",
    ]
