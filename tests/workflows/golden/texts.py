"""What a command leaves behind, as texts of few lines that can be read, compared and kept.

Left out are what differs between any two runs (times, versions, hashes, folders) and what repeats other files.
"""

import base64
import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

ARRAY = 5  # values of a long array that are kept, evenly spaced
LISTED = 12  # objects of a long list that are kept
LEFT_OUT = re.compile(  # files that repeat others, or that nobody reads
    r"complete\.json|identity\.json|tracked\.json|run\.log|.*SHA256SUMS|.*reference\.json|models/.*-folds/(?!ensemble).*|folds/.*"
)
COLUMNS_LEFT_OUT = {"seconds", "input_fingerprint", "checksum", "hash"}
KEYS_LEFT_OUT = {
    "run.json": ("versions", "machine", "git_commit", "seconds", "started", "ended", "files", "inputs", "identity"),
    "metrics.json": ("folds", "confusion", "calibration", "trivial"),
    "model.json": ("tiles", "encoder", "settings", "coefficients", "fill", "limit", "notes"),
}
MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d[+\d:,.]*)?|\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"(?<=metadata \| )[\d.]+|(?<=\w \| )[\d.]+ \| \d+%"), "SECONDS"),
    (re.compile(r"(?<![\w.])[\d.,]+ (?:folds|tiles|slides|cases)/(?:s|min|h)\b"), "RATE"),
    (re.compile(r"(?<![\w.])[\d.,]+ (?=(?:s|min|h|[KMG]i?B)\b)"), "N "),
    (re.compile(r"^\|? ?git commit \| .*\n", re.MULTILINE), ""),  # only in a checkout
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (
        re.compile(r"(?<!\w)-?\d+\.\d{5,}(?:e[-+]?\d+)?(?!\w)|\b\d(?:\.\d+)?e[-+]\d+\b"),
        lambda found: shortened(float(found[0])),
    ),
    (re.compile(r"\b(?=[a-z\d]*[a-f])[0-9a-f]{16,}\b"), "HASH"),
)


def shortened(number: float) -> str:
    return f"{number:.4g}" if abs(number) > 1e-5 else "0.0"


def masked(text: str, folders: dict[str, str]) -> str:
    for folder, name in folders.items():
        text = text.replace(folder, name)
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def folder_texts(folder: Path) -> dict[str, str]:
    """The text of each table, document and page of a folder, by its path in it; pictures and arrays in one text."""
    texts, arrays = {}, []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if LEFT_OUT.fullmatch(name):
            continue
        if path.suffix == ".html":
            page = path.read_text(encoding="utf-8")
            texts[f"{name}.txt"] = "\n".join(page_lines(page))
            texts[f"{name}.charts.txt"] = "\n".join(chart_lines(page))
        elif path.suffix in (".json", ".geojson"):
            left_out = KEYS_LEFT_OUT.get(path.name, ())
            texts[name] = "\n".join(leaves(json.loads(path.read_text(encoding="utf-8")), left_out))
        elif path.suffix == ".csv":
            texts[name] = "\n".join(table_lines(path))
        elif path.suffix in (".md", ".yaml", ".txt"):
            texts[name] = path.read_text(encoding="utf-8").strip("\n")
        else:
            arrays.append(f"{name}: {content(path)}")
    return texts | ({"arrays.txt": "\n".join(arrays)} if arrays else {})


def table_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    kept = [i for i, name in enumerate(rows[0]) if name not in COLUMNS_LEFT_OUT]
    for row in rows:
        yield ",".join(row[i] for i in kept)


def content(path: Path) -> str:
    """Size and mean colour of a picture; shape and mean of each array of numbers."""
    if path.suffix in (".jpg", ".png"):
        with Image.open(path) as picture:
            colour = np.asarray(picture.convert("RGB")).mean(axis=(0, 1))
            return f"{picture.width} × {picture.height} pixels, {' '.join(f'{value:.1f}' for value in colour)}"
    if path.suffix in (".h5", ".h5ad"):
        found: list[str] = []
        with h5py.File(path) as file:
            file.visititems(lambda name, node: found.append(f"{name} {dataset_text(node)}"))
        return ", ".join(found)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return ", ".join(f"{name} {array_text(arrays[name])}" for name in sorted(arrays))
    return "a file"


def dataset_text(node: h5py.Group | h5py.Dataset) -> str:
    return array_text(node[()]) if isinstance(node, h5py.Dataset) and node.shape is not None else "group"


def array_text(given: np.ndarray) -> str:
    array = np.asarray(given)
    mean = f", mean {np.nanmean(array):.4g}" if array.dtype.kind in "fiu" and array.size else ""
    return f"{' × '.join(map(str, array.shape))} {array.dtype.kind}{mean}"


# --- JSON -------------------------------------------------------------------------------------------------------------


def leaves(value: Any, left_out: tuple[str, ...] = (), path: str = "") -> Iterator[str]:
    """A line for each leaf: its path and its value; short lists, and metrics with their intervals, in one."""
    if isinstance(value, dict) and value.keys() == {"value", "low", "high", "reason"}:
        interval = f"{scalar(value['value'])} ({scalar(value['low'])} to {scalar(value['high'])})"
        yield f"{path}: {interval} {value['reason'] or ''}".rstrip()
    elif isinstance(value, dict) and value.keys() == {"dtype", "bdata"}:
        yield from leaves(np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist(), left_out, path)
    elif isinstance(value, dict) and value:
        for key, one in value.items():
            if key not in left_out:
                yield from leaves(one, left_out, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for number, one in enumerate(value[:LISTED]):
            yield from leaves(one, left_out, f"{path}/{number}")
        if len(value) > LISTED:
            yield f"{path}: {len(value)} in all"
    elif isinstance(value, list):
        yield f"{path}: {listed(value)}"
    else:
        yield f"{path}: {scalar(value)}"


def listed(values: list[Any]) -> str:
    if len(values) <= 2 * ARRAY:
        return f"[{', '.join(map(scalar, values))}]"
    some = [values[i] for i in np.linspace(0, len(values) - 1, ARRAY).round().astype(int)]
    return f"[{', '.join(map(scalar, some))}] of {len(values)}"


def scalar(value: Any) -> str:
    if isinstance(value, float):
        return shortened(value) if np.isfinite(value) and value != int(value) else f"{value:.1f}"
    return str(value).replace("\n", " ⏎ ")


STYLE = (
    "template",
    "font",
    "margin",
    "paper_bgcolor",
    "plot_bgcolor",
    "automargin",
    "zeroline",
    "showline",
    "thickness",
    "width",
)
STYLE += (
    "title_standoff",
    "standoff",
    "fixedrange",
    "size",
    "height",
    "hovermode",
    "orientation",
    "legend",
    "xanchor",
    "yanchor",
)

# --- The report -------------------------------------------------------------------------------------------------------


PANEL = '<details class="card case-panel"'


class _Page(HTMLParser):
    """Visible text: a line for each block, cells of a table side by side."""

    INLINE = frozenset(("a", "abbr", "b", "code", "dfn", "em", "i", "span", "strong", "sub", "sup", "small", "mark"))
    HIDDEN = frozenset(("script", "style", "template"))

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.hidden = [""], 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in self.HIDDEN
        given = dict(attrs)
        if tag in ("td", "th"):
            self.lines[-1] += " | "
        elif tag not in self.INLINE:
            self.lines.append("")
        texts = [text for key in ("alt", "title", "data-term", "href") if (text := given.get(key))]
        self.lines[-1] += "".join(f"[{text}]" for text in texts if not text.startswith("data:"))

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN
        if tag not in self.INLINE and tag not in ("td", "th"):
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.lines[-1] += data


def page_lines(page: str) -> Iterator[str]:
    """The visible text; of the panels of cases, only that of the first and the last one."""
    reader = _Page()
    first, *others = page.split(PANEL)
    reader.feed(PANEL.join((first, *others[:1], *others[-1:])) if len(others) > 1 else page)
    for line in reader.lines:
        if text := " ".join(line.split()):
            yield text


def chart_lines(page: str) -> Iterator[str]:
    """Every chart: a line for what is on its axes, and one for each of the things that it draws."""
    for key, found in re.findall(
        r'id="([\w-]+)"[^>]*>(?:(?!id=").)*?application/json">(.*?)</script>', page, re.DOTALL
    ):
        figure = json.loads(found)
        yield f"{key}: {'; '.join(leaves(figure['layout'], STYLE))}"
        for trace in figure["data"]:
            yield f"{key}: {'; '.join(leaves(trace, STYLE))}"


# --- Comparison -------------------------------------------------------------------------------------------------------

DECIMAL = re.compile(r"[-−]?\b\d+(?:\.\d+(?:e[-+]\d+)?|e[-+]\d+)")
RELATIVE, ABSOLUTE = 0.01, 0.001  # between decimal numbers: processors round float32 differently


def difference(found: str, expected: str) -> str | None:
    """The first lines that differ in more than the rounding of a decimal number, or None."""
    ours, theirs = found.splitlines(), expected.splitlines()
    for number, (one, other) in enumerate(zip_longest(ours, theirs, fillvalue="(the end)"), 1):
        if not same(one, other):
            return f"line {number}:\n  found    {one}\n  expected {other}"
    return None


def same(one: str, other: str) -> bool:
    if one == other:
        return True
    if DECIMAL.sub("", one) != DECIMAL.sub("", other):
        return False
    ours, theirs = ([float(x.replace("−", "-")) for x in DECIMAL.findall(text)] for text in (one, other))
    return np.allclose(ours, theirs, rtol=RELATIVE, atol=ABSOLUTE)
