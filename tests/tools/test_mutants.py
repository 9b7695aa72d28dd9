import pytest

from tools.mutants import is_noticed, mutants_of, sample, selected_tests


def faults(source):
    return {mutant.source for mutant in mutants_of("a.py", source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"x = (a <= b)"}),
        ("x = a in b", {"x = (a not in b)"}),
        ("x = not a", {"x = (a)"}),
        ("x = -a", {"x = (a)"}),
        ("x = a and b", {"x = (a or b)"}),
        ("x = b if a else c", {"x = (c if a else b)"}),
        ("x = f(a, b)", {"x = (f(b, a))"}),
        ("x = f(a=b)", {"x = (f())"}),
        ("x = f(a=b, c=d)", {"x = (f(a=d, c=b))", "x = (f(a=b))", "x = (f(c=d))"}),
        ("x = fold.train", {"x = (fold.test)"}),
        ("x = a['slides']", {"x = a[('genes')]"}),
        ("x = 3", {"x = (4)"}),
    ],
)
def test_a_fault_is_one_change_of_an_expression(source, expected):
    assert faults(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A text with 3."""',
        "x: dict[int, 3] | None",
        "log.info('%d', 3)",
        "raise ValueError(f'{3} of {x - 1}')",
        "from a import b",
        "if TYPE_CHECKING:\n    x = 3",
        "@cache(3)\ndef f() -> 3: ...",
    ],
)
def test_messages_annotations_and_decorators_are_left_alone(source):
    assert faults(source) == set()


@pytest.fixture
def tree(tmp_path):
    """A module of which one fault is noticed and one is not."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "tests" / "pipeline").mkdir(parents=True)
    (tmp_path / "pipeline" / "sums.py").write_text("def less(a, b):\n    return a < b\n")
    (tmp_path / "tests" / "pipeline" / "test_sums.py").write_text(
        "import runpy\n\ndef test_less():\n    less = runpy.run_path('pipeline/sums.py')['less']\n"
        "    assert less(1, 2)\n    assert not less(2, 1)\n"
    )
    return tmp_path


def test_the_sample_is_the_same_for_a_seed_and_tests_mirror_the_tree(tree):
    assert sample(tree, ["pipeline"], 5, 0) == sample(tree, ["pipeline/sums.py"], 5, 0)
    assert selected_tests(tree, "pipeline/sums.py") == [["tests/pipeline/test_sums.py"]]


def test_what_no_test_notices_survives_and_the_file_is_restored(tree):
    (fault,) = sample(tree, ["pipeline"], 1, 0)
    before = (tree / "pipeline" / "sums.py").read_text()
    assert is_noticed(tree, fault, seconds=60) is None  # equal numbers are not tested
    test = tree / "tests" / "pipeline" / "test_sums.py"
    test.write_text(test.read_text() + "    assert not less(1, 1)\n")
    assert "test_less" in is_noticed(tree, fault, seconds=60)
    assert (tree / "pipeline" / "sums.py").read_text() == before
