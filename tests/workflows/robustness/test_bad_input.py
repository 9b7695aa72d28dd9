"""Whatever is wrong with the input: exit code 2, one message that names file, value and remedy, and nothing is written."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from workflows.demo import write_svs
from workflows.run_pipeline import main


def listing(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(walk, cohort, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder with a store of its own; the message."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def refused(*words, slides=cohort.slides, genes=cohort.genes, out="run"):
        before = listing(tmp_path), listing(cohort.folder)
        assert walk(slides, genes, "--store", "features.zarr", "--out", out, *words) == 2
        assert (listing(tmp_path), listing(cohort.folder)) == before, "something was written"
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, printed.err
        assert "Traceback" not in printed.err
        return printed.err[printed.err.index("error: ") :]

    return refused


@pytest.fixture
def write(tmp_path):
    """Writes a table, or a text; its path."""
    count = iter(range(100))

    def write(content, suffix="csv"):
        path = tmp_path / f"table{next(count)}.{suffix}"
        if isinstance(content, str):
            path.write_text(content)
        else:
            content.to_csv(path, index=False)
        return path

    return write


def names(message, *parts):
    missing = [str(part) for part in parts if str(part) not in message]
    assert not missing, f"{missing} not in: {message}"


# --- slides


def test_no_slides(refused, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("x")
    names(refused(slides=empty), f"no slide in {empty}", ".svs")
    names(refused(slides=tmp_path / "nowhere"), "nowhere does not exist; give a folder, a slide or a manifest")
    names(refused(slides=empty / "notes.txt"), "notes.txt is neither a folder nor a manifest CSV nor a slide")


def test_only_frozen_slides(refused, cohort, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(next(cohort.slides.glob("*.svs")), folder / "TCGA-ZZ-0001-01A-01-TS1.svs")
    names(refused(slides=folder), "none of the 1 slides in", "slide kind TS", "--slide-kind all uses every slide")


def test_only_broken_slides(refused, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "TCGA-ZZ-0001-01Z-00-DX1.svs").write_text("x")
    names(refused(slides=folder), "none of the 1 slides", "TCGA-ZZ-0001-01Z-00-DX1: ", "not a slide that OpenSlide")


def test_masks_that_are_nowhere(refused):
    names(refused("--tissue-masks", "nowhere"), "--tissue-masks nowhere: it is not a folder", "SLIDE_ID.geojson")


def test_a_tissue_detector_that_does_not_exist(refused):
    names(
        refused("--set", "tiles.tissue.detector=hest"), "unknown tissue detector", "hest", "colour, grandqc, tiatoolbox"
    )
    names(
        refused("--set", "tiles.tissue.detector=grandqc"), "grandqc: no weights", "tiles.tissue.settings.weights=FILE"
    )


def test_two_different_slides_of_one_name(refused, cohort, tmp_path):
    one, other = sorted(cohort.slides.glob("*.svs"))[:2]
    for folder, path in (("a", one), ("b", other)):
        (tmp_path / "slides" / folder).mkdir(parents=True)
        (tmp_path / "slides" / folder / one.name).symlink_to(path)
    names(refused(slides=tmp_path / "slides"), "are different, but both have the slide id", "give a manifest CSV")


@pytest.mark.parametrize(
    ("manifest", "parts"),
    [
        ("slide_id,file\na,b.svs\n", ("no column `path`; it has slide_id, file",)),
        ("path,mpp\nb.svs,fine\n", ("line 2", 'mpp "fine" is not a number')),
        ("path,mpp\nb.svs,352\n", ("line 2", "mpp 352.0 lies outside 0.05–5.0 µm")),
    ],
)
def test_wrong_manifests(refused, write, manifest, parts):
    path = write(manifest)
    names(refused(slides=path), path, *parts)


def test_neither_slides_nor_genes(refused):
    names(refused(slides="none", genes="none"), "at least one of SLIDES and GENES must not be none")


# --- genes


def test_genes_of_other_cases_shows_three_ids_of_each_side(refused, cohort, write):
    table = cohort.table()
    table["case_id"] = [f"TCGA-QQ-{i:04d}" for i in range(12)]
    path = write(table)
    names(
        refused(genes=path),
        f"{path}: not one case in common",
        "TCGA-QQ-0000, TCGA-QQ-0001, TCGA-QQ-0002, …",
        "TCGA-Z0-0003, TCGA-Z0-0006, TCGA-Z0-0009, …",
        "write the ids the same way",
    )


def test_a_gene_table_that_is_not_there_or_empty(refused, write):
    names(refused(genes="nowhere.csv"), "nowhere.csv: cannot be read")
    path = write("case_id,EGFR\n")
    names(refused(genes=path), path, "is empty: a header and at least one row are needed")


def test_duplicate_cases_that_disagree(refused, cohort, write):
    table = cohort.table()
    twin = table.iloc[[0]].assign(EGFR=99.5)
    path = write(pd.concat([table, twin]))
    names(refused(genes=path), path, f"case {table['case_id'][0]} has several rows", "EGFR", "99.5", "keep one row")
    path = write(pd.concat([table, table.iloc[[0]].assign(subtype="other")]))
    names(refused(genes=path), path, "column subtype is", "keep one row of the case")


@pytest.mark.parametrize("value", ["high", "1,5", "inf"])
def test_genes_that_are_not_numbers(refused, cohort, write, value):
    table = cohort.table().astype({"EGFR": object})
    table.loc[3, "EGFR"] = value
    path = write(table)
    names(
        refused(genes=path),
        path,
        f"row {table['case_id'][3]}, column EGFR",
        value,
        "is not a finite number; correct it",
    )


def test_a_further_table_that_is_not_there(refused):
    names(refused("--omics", "cnv.csv:cnv"), "cnv.csv: cannot be read")


# --- workbooks


@pytest.fixture
def workbook(cohort, tmp_path):
    """Writes an Excel workbook with these sheets; its path."""

    def workbook(**sheets):
        with pd.ExcelWriter(tmp_path / "book.xlsx") as book:
            for name, table in sheets.items():
                table.to_excel(book, sheet_name=name, index=False)
        return tmp_path / "book.xlsx"

    return workbook


@pytest.mark.parametrize("option", ["genes", "--clinical"])
def test_a_workbook_that_begins_with_a_read_me_names_its_sheets(refused, workbook, cohort, option):
    path = workbook(About=pd.DataFrame({"About": ["what", "this", "is"]}), Values=cohort.table())
    message = refused(genes=path) if option == "genes" else refused("--clinical", path)
    names(message, "only one column" if option == "genes" else "not one case in common")
    names(message, f"{path} has 2 sheets, About and Values, of which About is read; {path}:SHEET selects another")
    assert message.count("of which About is read") == 1


def test_labels_on_another_sheet_are_searched_for_there(refused, workbook, cohort):
    labels = ["grade", "subtype", "survival_months", "event"]
    path = workbook(Genes=cohort.table().drop(columns=labels), Labels=cohort.table()[["case_id", *labels]])
    message = refused(genes=path)
    names(message, "there are no labels to learn from", "--clinical FILE")
    names(message, f"{path} has 2 sheets, Genes and Labels, of which Genes is read; {path}:SHEET selects another")


def test_a_workbook_of_one_sheet_has_none_to_name(refused, workbook):
    assert ":SHEET" not in refused(genes=workbook(About=pd.DataFrame({"About": ["what", "this", "is"]})))


# --- labels


def test_no_labels_at_all(refused, cohort, write):
    path = write(cohort.table().drop(columns=["grade", "subtype", "survival_months", "event"]))
    names(refused(genes=path), "there are no labels to learn from", "--clinical FILE", "--until embed")


def test_why_there_is_no_label_is_reported_before_the_error(walk, cohort, write, capsys):
    table = pd.read_csv(cohort.genes).assign(died_or_not=1)
    table = table[["case_id", "survival_months", "died_or_not"]]
    assert walk("none", cohort.genes, "--clinical", str(write(table)), "--dry-run") == 2
    message = capsys.readouterr().err
    assert message.index("no column of deaths") < message.index("error: there are no labels to learn from")


def test_the_label_that_is_asked_for_is_missing(refused, cohort, write):
    path = write(cohort.table().drop(columns="grade"))
    message = refused("--task", "grade", genes=path)
    names(message, "has a label for grade", "labels are there for survival, subtype", "--clinical")


def test_a_constant_label(refused, cohort, write):
    path = write(cohort.table().assign(grade=3))
    names(refused("--task", "grade", genes=path), 'task grade: every one of the 12 labelled cases is "3"', "--task")


def test_too_few_deaths(refused, cohort, write):
    path = write(cohort.table().assign(event=0))
    names(refused("--task", "survival", genes=path), "0 deaths among 12 cases for 2 folds", "--folds", "inverted")


def test_labels_that_contradict_each_other(refused, cohort, write):
    table = cohort.table()
    path = write(table.assign(censorship=table["event"]))
    message = refused(genes=path)
    names(message, path, "event", "censorship", "TCGA-")


def test_a_clinical_table_of_other_cases(refused, write):
    path = write("case_id,grade\nTCGA-QQ-0001,2\n")
    names(refused("--clinical", path), path, "not one case in common", "TCGA-QQ-0001")
    names(refused("--clinical", "nowhere.csv"), "nowhere.csv: cannot be read")


def test_a_label_that_is_not_understood(refused, cohort, write):
    table = cohort.table().astype({"grade": object})
    table.loc[0, "grade"] = "severe"
    path = write(table)
    names(refused(genes=path), path, "column grade", table["case_id"][0], '"severe" is not understood')


# --- gene sets and covariates


def test_a_gene_set_without_a_gene_of_the_table(refused, write):
    path = write("A,B\nEGFR,ENSG0001\nMET,ENSG0002\n")
    names(refused("--gene-sets", path), "gene set B", "ENSG0001, ENSG0002", "genes.csv", "omics.empty_sets")


def test_gene_sets_that_cannot_be_used(refused, cohort, write):
    names(refused("--gene-sets", "nowhere.gmt"), "nowhere.gmt: cannot be read")
    clinical = write(cohort.table()[["case_id", "grade"]])
    message = refused("--gene-sets", cohort.sets, "--clinical", clinical, genes="none")
    names(message, f"--gene-sets {cohort.sets}: the run has no genes", "leave --gene-sets out")


def test_covariates_that_cannot_be_used(refused, cohort, write):
    names(refused("--covariates", "agee"), 'no column "agee"', "leave it out", 'did you mean "age"?')
    path = write(cohort.table().assign(age=np.nan))
    names(
        refused("--covariates", "age", genes=path), 'no column "age" that holds a value', "leave it out, or fill it in"
    )


# --- options


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--task", "surviva"), ('unknown task "surviva"', 'did you mean "survival"?', "Known: diagnosis, grade")),
        (("--model", "umelm"), ('unknown model "umelm"', 'did you mean "umeml"?')),
        (("--preset", "papr"), ('unknown preset "papr"', 'did you mean "paper"?', "Known: ablation, best, paper")),
        (("--model", "abmil", "--preset", "ablation"), ('unknown key "variants.no modularity.modularity"',)),
        (("--encoder", "phikn"), ('unknown encoder "phikn"', 'did you mean "phikon"?')),
        (("--set", "train.epoch=3"), ('unknown key "train.epoch"', 'did you mean "epochs"?')),
        (("--set", "models.umeml.gama=3"), ('unknown key "models.umeml.gama"', 'did you mean "gamma"?')),
        (("--folds", "1"), ("--folds 1: must be at least 2",)),
        (("--folds", "13"), ("12 cases with a label for 13 folds", "--folds")),
        (("--default-mpp", "50"), ("--default-mpp 50: must be at most 5",)),
        (("--tile-px", "many"), ("--tile-px many: must be a whole number",)),
        (("--until", "trian"), ("--until trian: must be", "'train'")),
        (("--config", "nowhere.yaml"), ("--config nowhere.yaml does not exist",)),
        (("--encoder-weights", "nowhere.pt"), ("--encoder-weights nowhere.pt: the path does not exist",)),
        (("--splits", "nowhere"), ("no splits_0.csv, splits_1.csv, … in nowhere",)),
        (("--split-by", "site", "--folds", "4"), ("3 different values for 4 folds", "--folds")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) and value[0].startswith("--") else "",
)
def test_options_that_do_not_fit(refused, words, parts):
    names(refused(*words), *parts)


def test_cuda_where_there_is_none(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    names(refused("--device", "cuda"), "--device cuda", "use --device cpu or auto")


def test_an_encoder_out_of_reach_is_reported_before_a_slide_is_tiled(refused, monkeypatch):
    def offline(*_, **__):
        raise OSError("401 Client Error: gated")

    monkeypatch.setattr("timm.create_model", offline)
    message = refused("--encoder", "virchow")
    names(message, "virchow could not be loaded", "401 Client Error: gated", "hf auth login", "--encoder-weights")


def test_a_flag_that_is_not_there_or_cut_short(walk, cohort, capsys):
    for flag in ("--foldz=3", "--fold=3"):
        with pytest.raises(SystemExit, match="2"):
            walk(cohort.slides, cohort.genes, flag)
        assert f"unknown option {flag.partition('=')[0]}; did you mean --folds?" in capsys.readouterr().err


def test_a_split_file_with_a_case_on_both_sides(refused, cohort, tmp_path):
    cases = cohort.table()["case_id"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "splits_0.csv").write_text(f"train,val\n{cases[0]},{cases[1]}\n{cases[1]},\n")
    message = refused("--splits", tmp_path / "splits")
    names(message, "splits_0.csv: 1 case in both train and val", cases[1], "keep each on one side")


def test_a_split_without_deaths_to_learn_from(refused, cohort, tmp_path):
    table = cohort.table()
    alive, dead = table["case_id"][table["event"] == 0], table["case_id"][table["event"] == 1]
    (tmp_path / "splits").mkdir()
    columns = {"train": alive.reset_index(drop=True), "val": dead.reset_index(drop=True)}
    pd.DataFrame(columns).to_csv(tmp_path / "splits" / "splits_0.csv")
    message = refused("--task", "survival", "--splits", tmp_path / "splits")
    names(message, f"fold 0 has no death among its {len(alive)} training cases", "use other splits")


def test_a_case_to_explain_that_is_not_used(refused):
    names(refused("--explain", "TCGA-00-0000"), "--explain: TCGA-00-0000: not among the 12 cases", "--dry-run")


# --- the folder


def test_an_output_folder_that_holds_another_run(refused, finished):
    message = refused("--seed", "7", out=finished)
    names(message, f"--out {finished} contains another run", "name another folder")


def test_output_folders_that_are_none(refused, cohort, tmp_path):
    names(refused(out=cohort.genes), "genes.csv is a file; name a folder")
    names(refused("--store", cohort.genes), "--store", "genes.csv is a file; name a folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    names(refused(out=tmp_path / "mine"), "mine is not empty and contains no run; name another folder")


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_folders_that_cannot_be_used_are_reported_even_by_a_dry_run(refused, cohort, finished, words):
    names(refused("--store", f"{cohort.genes}/st", *words), "--store", "cannot be made", "genes.csv is a file")
    names(refused("--store", finished, *words), "--store", "holds something else", "name another folder")
    names(refused("--seed", "7", *words, out=finished), f"--out {finished} contains another run")


def test_a_store_that_cannot_be_made(refused):
    names(refused("--store", "/proc/none/st"), "--store /proc/none/st cannot be made")


def test_thin_classes_are_named_and_the_run_goes_on(walk, cohort, write, tmp_path, capsys):
    table = cohort.table()
    table["grade"] = [4, 4, *[2, 3] * 5]
    assert walk(cohort.slides, write(table), "--task", "grade", "--folds", "3", "--dry-run") == 0
    assert 'class "4" has 2 cases for 3 folds, so some folds test none of it' in capsys.readouterr().err


def test_a_slide_that_is_only_glass_is_no_reason_to_stop_at_once(walk, cohort, tmp_path, capsys):
    """It is known only after tiling that no case is left: still a message, and exit code 2."""
    case = cohort.table()["case_id"][0]
    (tmp_path / "slides").mkdir()
    path = tmp_path / "slides" / f"{case}-01Z-00-DX1.svs"
    write_svs(path, np.full((600, 600, 3), 243, np.uint8), mpp=0.5, power=20)
    options = ("--store", tmp_path / "s", "--out", tmp_path / "run", "--until", "embed")
    assert walk(tmp_path / "slides", cohort.genes, *options) == 3
    assert "tissue" in capsys.readouterr().err


def test_swapped_inputs_are_recognised(walk, cohort, capsys):
    assert walk(cohort.genes, cohort.slides, "--dry-run") == 2
    assert "are SLIDES and GENES swapped" in " ".join(capsys.readouterr().err.split())
    assert walk(cohort.genes, "none", "--dry-run") == 2
    error = capsys.readouterr().err
    assert "SLIDES and GENES are swapped" in " ".join(error.split())
    assert len(error) < 2000


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (
            "s3://bucket/slides",
            "s3://bucket/slides is not on a disk, and input is read from disk only; mount the bucket",
        ),
        ("https://host/a.svs", "https://host/a.svs is not on a disk"),
        (r"C:\slides", r"C:\slides is a path of Windows"),
    ],
)
def test_slides_elsewhere_are_refused_with_the_address_unharmed(walk, address, reason, capsys):
    assert walk(address, "none") == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_glob_of_slides_without_a_gene_table_is_refused(cohort, capsys):
    slides = sorted(cohort.slides.glob("*.svs"))
    with pytest.raises(SystemExit, match="2"):
        main([str(path) for path in slides])
    assert "but no GENES: give the gene table after them, or none" in " ".join(capsys.readouterr().err.split())


def test_a_mistyped_command_is_named_with_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["reprot", "run"])
    assert "reprot is neither a command nor a file; did you mean run_pipeline report?" in capsys.readouterr().err
    (tmp_path / "reprot").mkdir()  # a folder of slides may have any name
    assert main(["reprot", "genes.csv"]) == 2
    assert "no slide in reprot" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"run_pipeline \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--encder", "uni"), "unknown option --encder; did you mean --encoder? (--help lists all options)"),
        (("--masks", "m"), "unknown option --masks; did you mean --tissue-masks?"),
        (("--dry_run",), "unknown option --dry_run; did you mean --dry-run?"),
        (("--slide-hash", "full"), "unknown option --slide-hash; did you mean --hash? (--help"),
        (("--bootstrap", "-1"), "unknown option --bootstrap; did you mean --set bootstrap=VALUE? (--help"),
        (("–-dry-run",), "unknown option --dry-run; did you mean --dry-run?"),  # a dash of a word processor
        (("—explain", "all"), "unknown option --explain; did you mean --explain?"),
        (
            ("more.csv",),
            "3 inputs are given, genes.csv among them: give SLIDES and one gene table; further molecular tables go",
        ),
    ],
)
def test_a_mistyped_option_or_a_table_too_many_is_named_alone(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        main(["slides", "genes.csv", *words])
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--clinical", "s3://bucket/c.csv", "--clinical: s3://bucket/c.csv is not on a disk"),
        ("--gene-sets", r"C:\sets.gmt", r"--gene-sets: C:\sets.gmt is a path of Windows"),
        ("--trained", "https://host/models", "--trained: https://host/models is not on a disk"),
    ],
)
def test_other_inputs_elsewhere_are_refused_with_the_address_unharmed(walk, cohort, option, value, reason, capsys):
    assert walk(cohort.slides, cohort.genes, option, value) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_an_empty_path_is_refused_and_a_pattern_in_quotes_is_expanded(walk, cohort, capsys):
    assert walk("", cohort.genes, "--dry-run") == 2
    assert "slides: the path is empty" in " ".join(capsys.readouterr().err.split())
    assert walk(cohort.slides / "*.svs", cohort.genes, "--dry-run") == 0
    assert walk(cohort.slides / "*.ndpi", cohort.genes, "--dry-run") == 2
    assert "no file matches" in " ".join(capsys.readouterr().err.split())
