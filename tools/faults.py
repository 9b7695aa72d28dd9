"""Small faults that can be planted in a source file, one at a time.

A fault is one change of an expression: a comparison, sign or constant, a dropped `not`, exchanged arguments or branches, an option
that is not passed on, training cases in the place of test cases, one modality in the place of the other. Texts for the user,
annotations and what only tools read are left alone.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr}
TEXTS = {
    "description",
    "help",
    "metavar",
    "title",
    "encoding",
    "strict",
    "stacklevel",
    "indent",
}  # of a call; no test sees them missing
SYMMETRIC = {
    "min",
    "max",
    "minimum",
    "maximum",
    "array_equal",
    "isclose",
    "hypot",
}  # functions, of their first two arguments
TYPES_ONLY = {("keywords", ast.ClassDef), ("bases", ast.ClassDef)}
NAMES = {"train": "test", "test": "train", "slides": "genes", "genes": "slides", "low": "high", "first": "last"}


Reach = tuple[int, int] | None


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        file: path in the tree.
        line: of the expression.
        before: the expression.
        after: what takes its place.
        source: the content of the file with the fault.
        reach: the lines, first and last, one of which runs whenever the expression matters; None for what takes effect at import.
    """

    file: str
    line: int
    before: str
    after: str
    source: str
    reach: tuple[int, int] | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  →  {self.after}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All faults that can be planted in a file."""
    lines = source.encode().split(b"\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for node, reach in _expressions(ast.parse(source), None):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = source.encode()[begin:end].decode()
        for after in filter(ast.unparse(node).__ne__, _changed(node)):
            text = source.encode()[:begin] + f"({after})".encode() + source.encode()[end:]
            found.append(Mutant(file, node.lineno, " ".join(before.split()), after, text.decode(), reach))
    return found


def compiles(mutant: Mutant) -> bool:
    """Whether the file is still Python."""
    try:
        compile(mutant.source, mutant.file, "exec")
    except SyntaxError:
        return False
    return True


def _expressions(node: ast.AST, reach: Reach) -> Iterator[tuple[ast.expr, Reach]]:
    """The expressions that decide something, with their reach: no annotations, decorators, docstrings, or text for the user."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params") or (name, type(node)) in TYPES_ONLY:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_text(child):
                continue
            if isinstance(child, ast.expr):
                yield child, reach
            yield from _expressions(child, _reach(node, child, reach))


def _reach(parent: ast.AST, child: ast.AST, reach: Reach) -> Reach:
    """The reach of what is directly in a child: a statement, the head of a block, or for defaults the body of the function."""
    if isinstance(child, ast.arguments) and isinstance(parent, ast.FunctionDef):
        return parent.body[0].lineno, parent.end_lineno or parent.lineno
    if isinstance(parent, ast.Module | ast.ClassDef) or not isinstance(
        child, ast.stmt | ast.excepthandler | ast.match_case
    ):
        return reach
    first = child.pattern.lineno if isinstance(child, ast.match_case) else child.lineno
    body = getattr(child, "body", None)
    last = max(first, body[0].lineno - 1) if body else getattr(child, "end_lineno", None) or first
    return first, last


def _is_text(node: ast.AST) -> bool:
    """Whether a node is a message: to raise, to log, or an f-string; or what only tools read."""
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test):
            return ast.unparse(test) == "TYPE_CHECKING"
        case ast.Expr(value):
            return isinstance(value, ast.Constant) or ast.unparse(value).startswith(("log.", "log_", "warnings.warn"))
        case ast.Assign([ast.Name("__all__")]) | ast.FunctionDef("__str__" | "__repr__"):
            return True
        case ast.Subscript(ast.Name("Literal")):
            return True
        case ast.keyword(arg):
            return arg in TEXTS
    return False


def _changed(node: ast.expr) -> Iterator[str]:
    """What a fault makes of an expression, as source; nothing for one that has none."""
    match node:
        case ast.Compare(left, [operator], [right]):
            yield ast.unparse(ast.Compare(left, [COMPARISONS[type(operator)]()], [right]))
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not _is_type(node):
            yield ast.unparse(ast.BinOp(left, OPERATORS[type(operator)](), right))
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield ast.unparse(operand)
        case ast.BoolOp(operator, values):
            yield ast.unparse(ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values))
        case ast.IfExp(test, body, orelse):
            yield ast.unparse(ast.IfExp(test, orelse, body))
        case ast.Constant(value):
            yield from _changed_constant(value)
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.unparse(ast.Attribute(value, NAMES[name], ast.Load()))
        case ast.Call():
            yield from _changed_call(node)


def _is_type(node: ast.BinOp) -> bool:
    return any(isinstance(one, ast.Constant) and one.value is None for one in (node.left, node.right))


def _changed_constant(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, int):
        yield repr(value + 1)
    elif isinstance(value, float):
        yield repr(value * 2 or 1.0)
    elif isinstance(value, str) and value in NAMES:
        yield repr(NAMES[value])


def _changed_call(node: ast.Call) -> Iterator[str]:
    """Two arguments exchanged, the values of two keywords exchanged, and a keyword left out."""
    args, keywords = node.args, node.keywords
    symmetric = ast.unparse(node.func).removeprefix("np.") in SYMMETRIC
    if len(args) >= 2 and not symmetric and not any(isinstance(one, ast.Starred) for one in args[:2]):
        yield ast.unparse(ast.Call(node.func, [args[1], args[0], *args[2:]], keywords))
    named = [one for one in keywords if one.arg and one.arg not in TEXTS]
    if len(named) >= 2:
        one, other = named[:2]
        exchanged = {one: ast.keyword(one.arg, other.value), other: ast.keyword(other.arg, one.value)}
        yield ast.unparse(ast.Call(node.func, args, [exchanged.get(each, each) for each in keywords]))
    for gone in named:
        yield ast.unparse(ast.Call(node.func, args, [one for one in keywords if one is not gone]))
