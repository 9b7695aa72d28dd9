import shutil

import pytest

from tools.faults import mutants_of
from tools.mutants import ROOT, Reached, is_noticed, record, sample


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
        ("x = max(a, b)", set()),
        ("x = f(a, a)", set()),
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
        "__all__ = ['train']",
        "class A(B, frozen=True): ...",
        "x: str = Literal['train', 'test']",
        "Field(description=3)",
        "parser.add_argument(help=3)",
    ],
)
def test_messages_annotations_and_decorators_are_left_alone(source):
    assert faults(source) == set()


def test_a_fault_matters_where_its_statement_the_head_of_its_block_or_the_body_with_its_default_runs():
    source = "x = 1\ndef f(a=2):\n    if a > 3:\n        return (\n            4\n        )\n    return a\n"
    reach = {mutant.before: mutant.reach for mutant in mutants_of("a.py", source)}
    assert reach == {"1": None, "2": (3, 7), "a > 3": (3, 3), "3": (3, 3), "4": (4, 6)}


@pytest.fixture
def tree(tmp_path):
    """A module of which one fault is noticed and one is not; its test lies elsewhere."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "tests" / "workflows").mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    shutil.copy2(ROOT / "tools" / "reached_lines.py", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    (tmp_path / "pipeline" / "sums.py").write_text("def less(a, b):\n    return a < b\n\n\ndef zero():\n    return 0\n")
    (tmp_path / "tests" / "workflows" / "test_all.py").write_text(
        "from pipeline.sums import less, zero\n\ndef test_less():\n    assert less(1, 2)\n    assert not less(2, 1)\n\n"
        "def test_zero():\n    assert zero() == 0\n\ndef test_broken():\n    assert less(zero(), zero())\n"
    )
    return tmp_path


def test_the_sample_is_the_same_for_a_seed(tree):
    assert sample(tree, ["pipeline"], 5, 0) == sample(tree, ["pipeline/sums.py"], 5, 0)


def test_tests_that_reach_the_line_run_and_what_none_notices_survives(tree):
    faults = {mutant.before: mutant for mutant in sample(tree, ["pipeline"], 9, 0)}
    before = (tree / "pipeline" / "sums.py").read_text()
    reached = record(tree)
    assert reached.tests(faults["a < b"]) == [
        ["tests/workflows/test_all.py::test_less"]
    ]  # test_broken fails without faults
    assert is_noticed(tree, faults["a < b"], reached) is None  # equal numbers are not tested
    assert "test_zero" in is_noticed(tree, faults["0"], reached)
    assert (tree / "pipeline" / "sums.py").read_text() == before


def test_tests_of_the_folder_come_first_and_the_quickest_of_each_group_first():
    near, far = "tests/a/test_x.py", "tests/b/test_y.py"
    seconds = {f"{near}::slow": 9.0, f"{near}::quick": 1.0, f"{far}::other": 0.1, f"{far}::long": 999.0}
    reached = Reached(seconds, {"a/x.py": {"7": [near, f"{far}::other", f"{far}::long"]}})
    (fault,) = mutants_of("a/x.py", "\n" * 6 + "def f(): return 1")
    assert reached.tests(fault) == [[f"{near}::quick", f"{near}::slow"], [f"{far}::other"]]
