"""Tables as people send them: read as they were meant, or refused with file and place. The frame that was written judges."""

import csv
import gzip
import io
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.case_tables.id_columns import Evidence
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.gene_tables.gene_table import read_genes
from preprocessing.io.errors import InputError, SlideError
from preprocessing.labels.recognition import recognise
from preprocessing.omics.gene_sets import read_gene_sets
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slides.slide import Slide
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.reading import read_table
from preprocessing.tiling.masks import read_mask

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
QUICK, DEEP = settings(max_examples=40, derandomize=True, **COMMON), settings(max_examples=1500, **COMMON)

SYMBOLS = [
    "EGFR",
    "TP53",
    "HLA-A",
    "NKX2-1",
    "7SK",
    "IDH1_mut",
    "PTEN_cnv",
    "MT-CO1",
    "H2AC6",
    "SEPTIN2",
    "Ångström1",
    "ß2m",
]
ODD_IDS = [
    "007",
    "0010",
    "10",
    "../../x",
    "/etc/passwd",
    "..",
    "a/b",
    "C:\\x",
    "患者1",
    "Zoë",
    "a b",
    'say "hi"',
    "a,b",
    "a;b",
]
ODD_IDS += ["x\ty", "=1+1", "1e5", "1.0", "-7", "<b>", "%s", "~", "p'1", "01-02", "true", "A" * 300]
MISSING = ["", "NA", "NaN", "null", "#N/A", "--", "[Not Available]", "unknown"]
VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6).map(float)


@dataclass(frozen=True)
class Style:
    """How somebody's program writes a table."""

    sep: str = ","
    encoding: str = "utf-8"
    newline: str = "\n"
    quoting: int = csv.QUOTE_MINIMAL
    missing: str = ""
    packed: bool = False
    transposed: bool = False
    id_last: bool = False
    trailing: int = 0
    blank_lines: int = 0
    comment: bool = False


STYLES = st.builds(
    Style,
    sep=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    missing=st.sampled_from(MISSING),
    packed=st.booleans(),
    transposed=st.booleans(),
    id_last=st.booleans(),
    trailing=st.integers(0, 3),
    blank_lines=st.integers(0, 2),
    comment=st.booleans(),
)
FRAMES = st.builds(
    lambda ids, genes, seed, values: pd.DataFrame(
        np.random.default_rng(seed).choice(np.array(values, dtype=float), (len(ids), len(genes))),
        index=ids,
        columns=genes,
    ),
    st.lists(
        st.sampled_from(ODD_IDS) | st.from_regex(r"[a-z]{1,3}\d{1,4}", fullmatch=True),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.lists(st.sampled_from(SYMBOLS) | st.integers(0, 99).map("G{}".format), min_size=1, max_size=8, unique=True),
    st.integers(0, 99),
    st.lists(VALUES, min_size=1, max_size=12),
)


def rows_of(frame: pd.DataFrame, style: Style) -> list[list[object]]:
    """The table's cells, header first, as a program would lay them out."""
    written = [[style.missing if np.isnan(v) else repr(v) for v in row] for row in frame.to_numpy().tolist()]
    rows = [["case_id", *frame.columns], *([case, *row] for case, row in zip(frame.index, written, strict=True))]
    if style.transposed:
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "gene"
    elif style.id_last:
        rows = [[*row[1:], row[0]] for row in rows]
    return [[*row, *[""] * style.trailing] for row in rows]


def write(path: Path, rows: list[list[object]], style: Style) -> Path:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=style.sep, lineterminator="\n", quoting=style.quoting)
    writer.writerows(rows)
    text = "# made by hand\n" * style.comment + buffer.getvalue() + "\n" * style.blank_lines
    data = text.replace("\n", style.newline).encode(style.encoding)
    path.write_bytes(gzip.compress(data, 1) if style.packed else data)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wild")


def check_read_as_written(folder, frame, style):
    path = write(folder / "genes.csv", rows_of(frame, style), style)
    cases = list(map(IdentityScheme().case_of, frame.index))  # with single blanks
    table = read_genes(path, Evidence(cases=frozenset(cases)))
    assert table.dropped == []
    assert table.values.index.tolist() == cases
    frame = frame.set_axis(cases, axis=0)
    pd.testing.assert_frame_equal(table.values, frame, check_names=False, check_exact=True)


@QUICK
@given(frame=FRAMES, style=STYLES)
def test_a_gene_table_is_read_as_it_was_written(folder, frame, style):
    check_read_as_written(folder, frame, style)


@pytest.mark.slow
@DEEP
@given(frame=FRAMES, style=STYLES)
def test_a_gene_table_is_read_as_it_was_written_in_1500_ways(folder, frame, style):
    check_read_as_written(folder, frame, style)


# --- damaged tables: refused with file and place

IDS, GENES = ["p1", "p2", "p3", "007"], ["EGFR", "TP53", "MET"]
VALUE_FAULTS = ["inf", "-inf", "Infinity", "1e999", "1,5", "1.234,5", "2.5 x", "12%", "<0.01"]


def plain_rows() -> list[list[object]]:
    return [["case_id", *GENES], *([case, *(f"{10 * r + c}.5" for c in range(3))] for r, case in enumerate(IDS))]


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(InputError) as error:
        read_genes(path, Evidence(cases=frozenset(IDS)))
    missing = [part for part in (str(path), *parts) if part not in str(error.value)]
    assert not missing, f"{missing} not in: {error.value}"


@pytest.mark.parametrize("value", VALUE_FAULTS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_value_that_is_no_finite_number_is_refused_by_row_and_column(folder, value, transposed):
    for row, gene in ((0, 0), (2, 1), (3, 2)):
        rows = plain_rows()
        rows[row + 1][gene + 1] = value
        if transposed:
            rows = [list(column) for column in zip(*rows, strict=True)]
        path = write(folder / "genes.csv", rows, Style(sep=";"))
        refused(path, f"row {IDS[row]}", f"column {GENES[gene]}", "is not a finite number")


@pytest.mark.parametrize(("more", "message"), [(-1, "has 3 fields, the header 4"), (1, "has 5 fields, the header 4")])
def test_a_row_that_lost_or_won_a_field_is_refused_by_its_number(folder, more, message):
    for row in (2, 4):
        rows = plain_rows()
        rows[row] = rows[row][:more] if more < 0 else [*rows[row], "1"]
        refused(write(folder / "genes.csv", rows, Style()), f"row {row + 1} {message}")


NOTES = ["plain", "two\nlines", 'a "word"', "a, b; c\td", "\n\n", '5"', "#", '"\n"']
ABOVE = st.lists(st.sampled_from(["# by hand", '# a "quote', "#", "", "# x,y;z\tw"]), max_size=4)
DAMAGE = st.sampled_from(["cut", "longer", "value", "no id"])


def line_of(data: bytes, marker: str, style: Style) -> int:
    """The line of the file on which the row with that marker begins, by a search of our own: each row begins with its id."""
    text = data.decode(style.encoding).replace("\r\n", "\n").replace("\r", "\n")
    return text[: text.index(marker)].count("\n") + 1


@QUICK
@given(
    above=ABOVE,
    notes=st.lists(st.sampled_from(NOTES), min_size=4, max_size=4),
    blanks=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    at=st.integers(0, 3),
    damage=DAMAGE,
    style=st.builds(
        Style,
        sep=st.sampled_from(",;\t"),
        encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
        newline=st.sampled_from(["\n", "\r\n", "\r"]),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ),
)
def test_the_line_of_a_bad_row_is_reported_among_comments_empty_lines_and_quoted_line_ends(
    folder, above, notes, blanks, at, damage, style
):
    rows = [[f"case{i}", note, f"{i}.5", "2"] for i, note in enumerate(notes)]
    if damage == "cut":
        rows[at] = rows[at][:3]
    elif damage == "longer":
        rows[at].append("7")
    elif damage == "value":
        rows[at][2] = "1,5"
    buffer = io.StringIO()
    buffer.write("".join(line + "\n" for line in above))
    writer = csv.writer(buffer, delimiter=style.sep, lineterminator="\n", quoting=style.quoting)
    for row, n_blank in zip([["sample", "note", "EGFR", "TP53"], *rows], blanks, strict=True):
        writer.writerow(row)
        buffer.write("\n" * n_blank)
    data = buffer.getvalue().replace("\n", style.newline).encode(style.encoding)
    line = line_of(data, f"case{at}", style)
    path = folder / "genes.csv"
    if damage == "no id":
        path.write_bytes(data.decode(style.encoding).replace(f"case{at}", "").encode(style.encoding))
        assert [row.id for row in read_genes(path).dropped] == [f"row {line}"]
        return
    path.write_bytes(data)
    if damage == "longer" and at == 0:  # then the first column may be one without a name, as R writes it
        first_line = line_of(data, "case1", style)
        refused(path, f"row {first_line} has 4 fields, the header 5, with the first, which has no name")
        return
    messages = {"cut": f"row {line} has 3 fields, the header 4", "longer": f"row {line} has 5 fields, the header 4"}
    with pytest.raises(InputError) as error:
        read_genes(path)
    assert messages.get(damage, f'row case{at}, column EGFR: "1,5" is not a finite number') in str(error.value)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac-roman", "shift-jis"])
def test_text_of_another_encoding_is_refused_with_the_place(folder, encoding):
    rows = [*plain_rows(), ["é" if encoding != "shift-jis" else "患者", "1", "2", "3"]]
    path = write(folder / "genes.csv", rows, Style(encoding=encoding))
    refused(path, "is not UTF-8 text (row 6, column 1", "save it as text in UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_read(folder, encoding):
    plain, wide = (write(folder / name, plain_rows(), Style(encoding=name)) for name in ("utf-8", encoding))
    pd.testing.assert_frame_equal(read_genes(wide).values, read_genes(plain).values)


def test_utf_32_is_refused(folder):
    refused(write(folder / "genes.csv", plain_rows(), Style(encoding="utf-32")), "row 1", "UTF-8")


def test_a_zero_byte_is_refused_with_the_place(folder):
    rows = plain_rows()
    rows[3][2] = "21\0.5"
    refused(write(folder / "genes.csv", rows, Style()), "there is a zero byte (row 4, column 3)")


def test_one_gene_twice_and_one_case_twice_are_refused_by_name(folder):
    rows = plain_rows()
    refused(write(folder / "genes.csv", [[*row, row[2]] for row in rows], Style()), "1 duplicate columns: TP53")
    rows.append(["p2", "10.5", "11.5", "999"])
    refused(write(folder / "genes.csv", rows, Style()), "case p2", "column MET is 12.5 in one row and 999 in another")


def test_separators_at_the_end_of_the_rows_alone_do_not_shift_the_columns(folder):
    rows = plain_rows()
    path = write(folder / "genes.csv", [rows[0], *([*row, ""] for row in rows[1:])], Style())
    refused(path, "row 2 ends with a separator that the header does not have")


def test_names_that_a_spreadsheet_turned_into_dates_are_refused_unless_kept_or_ignored(folder):
    names = ["case_id", "2-Sep", "1-Mar", "Dec-01", "EGFR", "MARCHF1", "SEPTIN2"]
    path = write(folder / "genes.csv", [names, ["p1", *"123456"]], Style())
    evidence = Evidence(cases=frozenset(["p1"]))
    with pytest.raises(
        InputError, match=r"3 genes with names like dates \(2-Sep, 1-Mar, Dec-01\).*omics.ignore.*omics.keep"
    ):
        read_genes(path, evidence)
    dates = ("2-Sep", "1-Mar", "Dec-01")
    assert read_genes(path, evidence, TableOptions(keep=dates)).values.columns.tolist() == names[1:]
    assert read_genes(path, evidence, TableOptions(ignore=dates)).values.columns.tolist() == names[4:]


def test_an_id_with_leading_zeros_keeps_them_whatever_its_column_is_called(folder):
    rows = [["number", "who", "EGFR"], *([str(i), f"{i:03}", "1.5"] for i in range(8, 12))]
    table = read_genes(
        write(folder / "genes.csv", rows, Style()), Evidence(cases=frozenset(["008", "009", "010", "011"]))
    )
    assert table.values.index.tolist() == ["008", "009", "010", "011"]


@pytest.mark.parametrize(("cases", "genes"), [(1, 1), (1, 5), (5, 1)])
def test_a_single_row_or_column_is_a_table(folder, cases, genes):
    frame = pd.DataFrame(np.arange(float(cases * genes)).reshape(cases, genes))
    frame.index, frame.columns = [f"q{i}" for i in range(cases)], [f"G{i}" for i in range(genes)]
    check_read_as_written(folder, frame, Style())


def test_sixty_thousand_genes_are_read_in_seconds(folder):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 60_000)).round(4))
    frame.index, frame.columns = [f"p{i}" for i in range(6)], [f"ENSG{i:011}" for i in range(60_000)]
    for transposed in (False, True):
        path = write(folder / "genes.csv", rows_of(frame, Style(transposed=transposed)), Style())
        start = time.process_time()
        table = read_genes(path, Evidence(cases=frozenset(list(frame.index))))
        assert time.process_time() - start < 10
        assert np.array_equal(table.values.to_numpy(), frame.to_numpy())
        assert table.values.columns.tolist() == frame.columns.tolist()


# --- other files of text


SET_NAMES = st.sampled_from(["../../x", "/etc/passwd", "Ångström", "A, B", "HALLMARK_1", "..", "x" * 300, "<b>"])


@QUICK
@given(
    sets=st.dictionaries(
        SET_NAMES, st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=6, unique=True), min_size=1
    ),
    style=STYLES,
    gmt=st.booleans(),
)
def test_gene_sets_are_read_as_they_were_written(folder, sets, style, gmt):
    if gmt:
        path = folder / "sets.gmt"
        lines = ["\t".join([name, "about it", *genes]) for name, genes in sets.items()]
        path.write_bytes((style.newline.join(lines) + style.newline).encode(style.encoding))
    else:
        longest = max(map(len, sets.values()))
        rows = [[*sets], *([genes[i] if i < len(genes) else "" for genes in sets.values()] for i in range(longest))]
        path = write(folder / "sets.csv", rows, style)
    assert read_gene_sets(path) == sets


@QUICK
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(ODD_IDS), st.sampled_from(ODD_IDS), st.sampled_from([None, 0.25, 0.5, 1.0])),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0],
    ),
    style=STYLES,
)
def test_a_manifest_keeps_ids_as_they_are_written(folder, rows, style):
    table = [["path", "slide_id", "case_id", "mpp"]]
    table += [
        [f"{i}.svs", slide, case, style.missing if mpp is None else mpp] for i, (slide, case, mpp) in enumerate(rows)
    ]
    path = (
        write(folder / "manifest.csv", table, style)
        if not style.packed
        else write(folder / "manifest.csv", table, Style())
    )
    found = {file.path.name: (file.slide_id, file.case_id, file.mpp) for file in find_slides(path).files}
    cleaned = [(*(" ".join(name.split()) for name in names), mpp) for *names, mpp in rows]  # single blanks
    assert found == {f"{i}.svs": row for i, row in enumerate(cleaned)}


# --- any bytes at all: an answer or a refusal, never another error

CORPUS = {
    "genes.csv": b'case_id,EGFR,TP53,grade\np1,1.5,2,3\n"p2",NA,-3e-5,2\np3,1,,4\n',
    "clinical.tsv": b"case_submitter_id\tvital_status\tdays_to_death\tage\tgrade\np1\tDead\t30\t51\tG2\np2\tAlive\t\t44\tIII\n",
    "sets.gmt": b"one\tabout\tEGFR\tTP53\ntwo\t\tMET\n",
    "sets.csv": b"one,two\nEGFR,MET\nTP53,\n",
    "manifest.csv": b"path,slide_id,case_id,mpp\na.svs,s1,p1,0.5\nb.svs,s2,p2,\n",
    "S.geojson": b'{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"classification":{"name":"Tumor"}},'
    b'"geometry":{"type":"Polygon","coordinates":[[[0,0],[400,0],[400,300],[0,300],[0,0]],[[50,50],[60,50],[60,60],[50,50]]]}}]}',
}
TOKENS = [
    b"",
    b"\n",
    b",",
    b"\t",
    b";",
    b'"',
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"#",
    b"1e999",
    b"nan",
]
TOKENS += [
    b"-",
    b"{",
    b"[",
    b"[" * 5000,
    b"null",
    b"1" * 400,
    b"\xc3\x28",
    "\u2028".encode(),
    b"TCGA-06-0125",
    b"\r",
    b"1_0",
    b"True",
]
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.sampled_from(TOKENS) | st.binary(max_size=4)),
    min_size=1,
    max_size=6,
)


def edit(data: bytes, edits) -> bytes:
    for place, length, token in edits:
        at = int(place * len(data))
        data = data[:at] + token + data[at + length :]
    return data


def read_any(path: Path) -> None:
    if path.suffix == ".geojson":
        read_mask(
            Slide("S", "S", path.with_name("S.svs"), (0.5, 0.5), "", (500, 400), ""),
            path.parent,
            (40, 50),
            corner_px=(0, 0),
        )
    elif path.stem == "manifest":
        find_slides(path)
    elif path.stem == "sets":
        read_gene_sets(path)
    elif path.stem == "clinical":
        recognise(read_clinical(path).frame, source=str(path))
    else:
        table = read_genes(path)
        assert np.isfinite(table.values.to_numpy()[~table.values.isna().to_numpy()]).all()
        recognise(table.annotations, source=str(path))


def check_answer_or_refusal(folder, name, edits):
    path = folder / name
    path.write_bytes(edit(CORPUS[name], edits))
    with suppress(InputError, SlideError):
        read_any(path)


def test_the_corpus_itself_is_read(folder):
    for name in CORPUS:
        (folder / name).write_bytes(CORPUS[name])
        read_any(folder / name)


@pytest.mark.parametrize("name", CORPUS)
@QUICK
@given(edits=EDITS)
def test_damaged_bytes_are_read_or_refused(folder, name, edits):
    check_answer_or_refusal(folder, name, edits)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPUS)
@DEEP
@given(edits=EDITS)
def test_bytes_damaged_in_1500_ways_are_read_or_refused(folder, name, edits):
    check_answer_or_refusal(folder, name, edits)


@pytest.mark.parametrize("sep", ["\t", ";"])
@pytest.mark.parametrize("title", ["", "Expression, log2 (RNA-seq)\n\n", "Table 1; genes\n"])
@pytest.mark.parametrize("corner", ["case_id", "", None])
def test_decimal_commas_between_tabs_do_not_hide_the_header(write, sep, title, corner):
    """Each row has as many commas as tabs, as a spreadsheet set to German or French writes it."""
    header = sep.join([*([] if corner is None else [corner]), "EGFR", "TP53", "PTEN"])
    rows = [sep.join([f"P{i}", f"{i},25", f"{i},5", f"-{i},75"]) for i in range(1, 6)]
    table = read_table(write("\n".join([title + header, *rows, ""])))
    assert list(table.columns) == [corner or "", "EGFR", "TP53", "PTEN"]
    assert table["EGFR"].tolist() == [1.25, 2.25, 3.25, 4.25, 5.25]
    assert table["PTEN"].tolist() == [-1.75, -2.75, -3.75, -4.75, -5.75]


def test_lists_within_cells_do_not_hide_the_header(write):
    table = read_table(write("A title of words\ncase_id,slides,grade\nP1,a;b,2\nP2,c;d,3\nP3,e;f,4\n"))
    assert list(table.columns) == ["case_id", "slides", "grade"]
    assert len(table) == 3


def test_a_title_with_a_comma_is_no_header_without_the_name_of_the_first_column(write):
    table = read_table(write("Table 1, clinical data\ncase_id,sex,grade\nP1,f,2\nP2,m,3\nP3,f,4\n"))
    assert list(table.columns) == ["case_id", "sex", "grade"]
    of_r = read_table(write("sex,grade\nP1,f,2\nP2,m,3\nP3,f,4\n"))
    assert list(of_r.columns) == ["", "sex", "grade"]
    first_of_words = read_table(write("sex,survival_months\nP1,f,>90\nP2,m,3\nP3,f,4\n"))
    assert list(first_of_words.columns) == ["", "sex", "survival_months"]
    first_missing = read_table(write("sex,grade\nP1,f,NA\nP2,m,3\nP3,f,4\n"))
    assert list(first_missing.columns) == ["", "sex", "grade"]
    assert first_missing[""].tolist() == ["P1", "P2", "P3"]
