"""Tables in the terminal: columns side by side, as many as fit; a cell is never cut or broken."""

from collections.abc import Sequence

GAP = "  "


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Return the lines of a table whose first column names the rows.

    Where not all columns fit, those that do not continue below, under the names of the rows again. Words of the head stand below
    one another where the cells are narrower.

    Args:
        head: names of the columns.
        rows: cells of each row; a row may be shorter than the head.
        width: characters of a line. A column that is wider by itself is not cut.
    """
    if len(head) == 1:
        return _block(head, rows)
    cells = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    blocks, block = [], [0]
    for column in range(1, len(head)):
        if len(block) > 1 and _width(head, cells, [*block, column]) > width:
            blocks.append(block)
            block = [0]
        block.append(column)
    lines: list[str] = []
    for chosen in (*blocks, block):
        lines += [""] * bool(lines) + _block([head[i] for i in chosen], [[row[i] for i in chosen] for row in cells])
    return lines


def format_list(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Return the lines of a table whose first column is long: where a line is too narrow, it stands above the others.

    Args:
        head: names of the columns.
        rows: cells of each row.
        width: characters of a line. A column that is wider by itself is not cut.
    """
    if _width(head, rows, range(len(head))) <= width:
        return _block(head, rows)
    below = _block(head[1:], [row[1:] for row in rows])
    lines = [head[0], *(GAP + line for line in below[: len(below) - len(rows)])]
    for row, line in zip(rows, below[len(below) - len(rows) :], strict=True):
        lines += [row[0], GAP + line]
    return lines


def _width(head: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int]) -> int:
    return sum(_column_width(head[i], [row[i] for row in rows]) for i in columns) + len(GAP) * (len(columns) - 1)


def _column_width(name: str, cells: Sequence[str]) -> int:
    return max(max(map(len, name.split()), default=0), max(map(len, cells), default=0))


def _block(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [_column_width(name, [row[i] for row in rows]) for i, name in enumerate(head)]
    names = [_broken(name, width) for name, width in zip(head, widths, strict=True)]
    tallest = max(map(len, names))
    above = [[*[""] * (tallest - len(name)), *name] for name in names]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (*zip(*above, strict=True), *rows)
    ]


def _broken(name: str, width: int) -> list[str]:
    """The words of a name, in lines of a width."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if len(longer) <= width else [*lines, word]
    return lines
