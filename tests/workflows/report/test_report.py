"""The report, read as text and opened in a browser."""

import json
import re
import shutil
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pipeline.metrics import CaseMetrics, Metric, PredictorReport, TaskReport
from pipeline.run.explanation_file import write_explanation
from pipeline.run.finished import read_run
from preprocessing.io.errors import InputError
from workflows.report import write_report
from workflows.report.page import alerts
from workflows.report.plain import phrasing
from workflows.report.sections import flow
from workflows.run_pipeline import main

NO_DIFFERENCE = "no significant difference from any comparator"
HOSTILE = "<script>window.taken = 1</script>&\"'"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "copy")


class Score(CaseMetrics):
    c_index: Metric


def rewrite(path, change):
    """Change a table of a run."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


class Cells(HTMLParser):
    """The text of every element that names its value in metrics.json."""

    def __init__(self):
        super().__init__()
        self.found, self.path, self.depth = {}, None, 0

    def handle_starttag(self, tag, attributes):
        path = dict(attributes).get("data-path")
        if path:
            self.path, self.tag, self.found[path] = path, tag, ""

    def handle_endtag(self, tag):
        if self.path and tag == self.tag:
            self.path = None

    def handle_data(self, data):
        if self.path:
            self.found[self.path] += f" {data}"


def metrics_in(content, path=()):
    """Path and content of each metric, except calibration curves and confusion matrices."""
    for key, value in enumerate(content) if isinstance(content, list) else content.items():
        where = (*path, str(key))
        if isinstance(value, dict) and set(value) == {"value", "low", "high", "reason"}:
            yield "/".join(where), value
        elif isinstance(value, dict | list) and key not in ("calibration", "confusion"):
            yield from metrics_in(value, where)


def test_the_numbers_of_the_page_are_those_of_metrics_json(finished):
    cells, page = Cells(), (finished / "report.html").read_text()
    cells.feed(page)
    known = dict(metrics_in(json.loads((finished / "metrics.json").read_text())))
    for path, text in cells.found.items():
        metric = known[path]
        numbers = [float(number.replace("−", "-")) for number in re.findall(r"[−]?\d+(?:\.\d+)?", text)]
        expected = [metric[key] for key in ("value", "low", "high") if metric[key] is not None]
        if metric["value"] is None:
            assert text.strip() == "–", path
        elif "< 0.001" in text:
            assert metric["value"] < 0.0005, path
        else:
            assert numbers == pytest.approx(expected, rel=5e-3, abs=5.1e-4), path
    pooled = {path for path in known if "/folds/" not in path and "/per_class/" not in path and "/trivial/" not in path}
    for task in ("grade", "subtype"):
        covered, size = (known[f"tasks/{task}/prediction_sets/{name}"] for name in ("coverage", "mean_size"))
        assert f"observed coverage {covered['value']:.3f} " in page
        assert f"mean set size {size['value']:.3f}" in page
    redundant = {
        path for path in pooled if "/by_modality/both/" in path or "/prediction_sets/" in path
    }  # every case has both: the model itself
    assert pooled - redundant <= cells.found.keys()
    assert {
        path for path in known if "/model/folds/" in path and "per_class" not in path and "trivial" not in path
    } <= (cells.found.keys())


def test_the_areas_beside_the_roc_curves_are_those_of_the_predictions(finished):
    page = (finished / "report.html").read_text()
    content = re.search(r'id="grade-roc".*?application/json">(.*?)</script>', page, re.DOTALL)[1]
    names = [trace["name"] for trace in json.loads(content)["data"]]
    table = pd.read_csv(finished / "predictions.csv", dtype={"label": str})
    table = table[(table["task"] == "grade") & (table["status"] == "tested")]
    expected = [
        f"{name}: AUC {roc_auc_score(table['label'] == name, table[f'probability_{name}']):.3f}"
        for name in sorted(table["label"].unique())
    ]
    assert names == expected


def test_the_risk_groups_of_the_kaplan_meier_chart_are_those_of_the_log_rank_test(finished):
    page = (finished / "report.html").read_text()
    content = re.search(r'id="survival-kaplan-meier".*?application/json">(.*?)</script>', page, re.DOTALL)[1]
    names = [trace["name"] for trace in json.loads(content)["data"] if "cases" in trace.get("name", "")]
    sizes = {name.partition(" (")[0]: int(re.search(r"\((\d+) cases", name)[1]) for name in names}
    groups = json.loads((finished / "metrics.json").read_text())["tasks"]["survival"]["model"]["pooled"]["risk_groups"]
    assert sizes == {"high risk": groups["n_high"], "low risk": groups["n_low"]}


@pytest.mark.parametrize(
    ("difference", "mark", "summary", "sentence"),
    [
        (
            (0.08, 0.02, 0.14),
            "good",
            "significantly better than every comparator",
            "umeml is significantly better, difference 0.080 (0.020–0.140)",
        ),
        (
            (0.08, 0.0, 0.14),
            "open",
            NO_DIFFERENCE,
            "no significant difference: 0.080 (0.000–0.140)",
        ),
        (
            (0.0, 0.0, 0.0),
            "open",
            NO_DIFFERENCE,
            "identical to umeml in every bootstrap resample",
        ),
        (
            (-0.08, -0.2, 0.1),
            "open",
            NO_DIFFERENCE,
            "umeml is lower (difference not significant): −0.080 (−0.200 to 0.100)",
        ),
        (
            (-0.08, -0.14, -0.02),
            "bad",
            "significantly worse than clinical model",
            "umeml is significantly worse, difference −0.080 (−0.140 to −0.020)",
        ),
    ],
)
def test_a_difference_is_called_significant_only_where_its_interval_is_on_one_side_of_zero(
    difference, mark, summary, sentence
):
    predictor = PredictorReport(pooled=Score(n=60, c_index=Metric(0.85, 0.82, 0.88)), folds=())
    report = TaskReport(
        kind="survival",
        n=60,
        headline="c_index",
        chance=0.5,
        model_name="umeml",
        new_cohort=False,
        model=predictor,
        baselines={"clinical": predictor},
        differences={"clinical": Metric(*difference)},
    )
    verdict = phrasing.verdict_of(report)
    assert (verdict.mark, verdict.summary) == (mark, summary)
    assert sentence in verdict.sentences[1]
    assert verdict.sentences[0].endswith("; significantly above chance (0.5).")


def test_the_flow_of_cases_counts_each_once_under_its_kind_of_reason(copied):
    def lose(table):
        table.loc[[0, 1], "status"] = "left out"
        table.loc[0, "reason"] = (
            "no usable slide (A (1): cannot be opened; B: no tissue), no genes (A-11A: normal tissue)"
        )
        table.loc[1, "reason"] = "no genes"
        return table

    rewrite(copied / "cases.csv", lose)
    counts = flow(read_run(copied))
    assert (counts.n_input, counts.n_used) == (12, 10)
    assert counts.excluded == {"no usable slide, no genes": 1, "no genes": 1}
    assert counts.tasks["grade"] == {"tested": 12}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "contains no run"),
        (lambda folder: None, "contains no run"),
        (lambda folder: (folder.mkdir(), (folder / "identity.json").write_text("{}")), "contains an unfinished run"),
    ],
    ids=["empty", "absent", "unfinished"],
)
def test_a_report_of_no_finished_run_is_refused(tmp_path, capsys, make, message):
    make(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_explanations_of_an_earlier_format_are_refused(copied, capsys):
    path = copied / "explain" / "grade.json"
    content = json.loads(path.read_text())
    del content["format"]
    path.write_text(json.dumps(content))
    assert main(["report", str(copied)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "grade.json has format 1, this version reads 2; repeat the run's command" in message


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv"])
def test_a_damaged_file_is_named(copied, capsys, name):
    (copied / name).write_text('{"grade": {' if name == "metrics.json" else "")
    assert main(["report", str(copied)]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err.replace("\n", "")


def test_a_run_folder_of_an_earlier_version_is_refused_with_what_to_do(copied, capsys):
    reports = json.loads((copied / "metrics.json").read_text())["tasks"]
    (copied / "metrics.json").write_text(json.dumps(reports))  # before it had a format, tasks stood at the top
    assert main(["report", str(copied)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "has no format number, and this version reads format 2: another version wrote it" in message
    assert "draw the report with that version, or repeat the command of the run with another --out" in message


def test_the_report_is_drawn_again_and_takes_no_other_options(copied, capsys):
    before = (copied / "report.html").read_text().replace(str(copied.parent), "")
    (copied / "report.html").unlink()
    assert main(["report", str(copied)]) == 0
    assert len((copied / "report.html").read_text()) == pytest.approx(len(before), rel=1e-3)
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(copied), "--folds", "3"])
    assert "unrecognized arguments: --folds 3" in capsys.readouterr().err


def test_nothing_in_the_page_points_outside(finished):
    page = (finished / "report.html").read_text()
    ours = re.sub(
        r"<script>.*?</script>", "", page, flags=re.DOTALL
    )  # plotly.js contains URLs of maps, never requested
    assert "://" not in re.sub(r"<pre>.*?</pre>", "", ours, flags=re.DOTALL)
    assert re.search(r"""(?:src|href)=["'](?!data:|#)""", ours) is None
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_every_chart_is_drawn_in_a_browser_and_the_page_fits(finished, seen, visit, width):
    here = seen if width == 1280 else visit(finished / "report.html", width=width)
    assert here.messages == []
    assert [url for url in here.requests if not url.startswith("data:")] == [(finished / "report.html").as_uri()]
    here.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")  # charts wait there
    here.page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
    charts = here.page.eval_on_selector_all(
        ".plot",
        "all => all.map(one => { const r = one.querySelector('.main-svg').getBoundingClientRect();"
        " return [one.parentElement.id, r.width, r.height, one.querySelectorAll('.trace').length]; })",
    )
    assert len(charts) == here.page.locator("figure.chart script").count() >= 15
    assert [chart for chart in charts if not (200 < chart[1] <= width and chart[2] > 100 and chart[3] > 0)] == []
    assert here.page.evaluate("document.documentElement.scrollWidth") <= width
    answer = here.page.locator(".verdict .headline").first.bounding_box()
    assert answer["y"] + answer["height"] < 800  # on the first screen


def test_tables_sort_and_search(finished, seen):
    def column(number):
        return seen.page.eval_on_selector_all(
            "#slide-table tbody tr",
            f"all => all.filter(row => !row.hidden).map(row => row.cells[{number}].innerText)",
        )

    slides = pd.read_csv(finished / "slides.csv")
    by_tiles = seen.page.locator("#slide-table th button", has_text="tiles")
    by_tiles.click()
    assert [int(text) for text in column(4)] == sorted(slides["n_tiles"])
    by_tiles.click()
    assert [int(text) for text in column(4)] == sorted(slides["n_tiles"], reverse=True)
    seen.page.locator("#slide-table input").fill(slides["slide_id"][3].lower())
    assert column(1) == [slides["slide_id"][3]]
    assert seen.page.locator("#slide-table .found").inner_text() == "1 of 13"
    seen.page.locator("#slide-table input").fill("")
    assert len(column(1)) == 13


def test_a_case_is_picked_and_a_slide_enlarged(seen):
    seen.page.locator("#survival-curves select").select_option("2")
    widths = seen.page.evaluate("document.querySelector('#survival-curves .plot').data.map(trace => trace.line.width)")
    assert [i for i, width in enumerate(widths) if width > 1] == [2]
    seen.page.locator("#slides .thumbnail").first.click()
    assert seen.page.locator("dialog img").bounding_box()["width"] > 200
    seen.page.locator("dialog button").click()


def test_the_page_and_its_charts_follow_the_theme(seen):
    def brightness(element, what):
        text = seen.page.evaluate(f"getComputedStyle(document.querySelector('{element}')).{what}")
        return max(int(number) for number in re.findall(r"\d+", text)[:3])

    def is_dark():
        ground, ink = brightness("body", "backgroundColor"), brightness("#grade-roc .xtick text", "fill")
        return ground < ink - 150

    def becomes(dark):
        start = time.monotonic()
        while is_dark() != dark:
            assert time.monotonic() - start < 60
            seen.page.wait_for_timeout(100)

    becomes(False)
    seen.page.emulate_media(color_scheme="dark")
    becomes(True)
    seen.page.locator("#theme").click()
    becomes(False)


def test_text_from_the_user_is_displayed_and_never_executed(copied, visit):
    def rename(name):
        def change(table):
            table.loc[0, [column for column in table if column in (name, "reason")]] = HOSTILE
            return table

        return change

    for table, column in (("slides.csv", "slide_id"), ("cases.csv", "case_id"), ("predictions.csv", "case_id")):
        rewrite(copied / table, rename(column))
    metrics = json.loads((copied / "metrics.json").read_text())
    for report in metrics["tasks"].values():
        report["model_name"] = HOSTILE
        report["excluded_features"] = {HOSTILE: HOSTILE}
        report["comparators"] = {HOSTILE: report["baselines"]["clinical"]}
        report["differences"][HOSTILE] = report["differences"]["clinical"]
    (copied / "metrics.json").write_text(json.dumps(metrics))
    (copied / "config.yaml").write_text((copied / "config.yaml").read_text() + f"# {HOSTILE}\n")
    opened = visit(write_report(copied))
    assert opened.messages == []
    assert opened.page.evaluate("window.taken === undefined")
    assert HOSTILE in opened.page.locator("#slide-table").inner_text()
    assert HOSTILE in opened.page.locator("#case-table").inner_text()
    assert HOSTILE in opened.page.locator("#grade-values .plot").inner_text()
    assert HOSTILE in opened.page.locator("#survival-curves select").inner_text()


def test_a_missing_thumbnail_is_explained(copied):
    metadata = json.loads((copied / "run.json").read_text())
    first, second = pd.read_csv(copied / "slides.csv")["slide_id"][:2]
    for name in (first, second):
        next((copied / "thumbnails").glob(f"{name[:12]}*.jpg")).unlink(missing_ok=True)
    metadata["thumbnails_failed"] = {first: "its pixels are damaged"}
    (copied / "run.json").write_text(json.dumps(metadata))
    page = write_report(copied).read_text()
    assert "1 slide without thumbnail" in page
    assert "no thumbnail: its pixels are damaged" in page
    assert "repeat the run&#39;s command to make it" in page  # the other one
    assert pd.read_csv(copied / "slides.csv")["status"].tolist()[0] in ("done", "reused")


def test_a_run_that_ends_before_training_is_reported_as_such(finished, cohort, walk, visit, tmp_path):
    assert walk(cohort.slides, cohort.genes, "--until", "embed", "--out", tmp_path / "run") == 0
    opened = visit(tmp_path / "run" / "report.html")
    assert opened.messages == []
    assert "ended before training" in opened.page.locator("#summary").inner_text()
    assert opened.page.locator(".plot").count() == 0
    assert opened.page.locator("#slide-table tbody tr").count() == 13


def test_a_new_cohort_without_labels_and_folds_is_reported(copied, visit):
    for name in ("folds", "models", "splits"):
        shutil.rmtree(copied / name)
    (copied / "metrics.json").unlink()

    def unlabelled(table):
        columns = {
            "modalities": "slides",
            "cross_validation": "0.71",
            "distribution_shift": "out-of-distribution",
            "distribution_shift_reason": "other stain",
        }
        return table.drop(columns=["label", "survival_months", "event"]).assign(
            fold="", status="predicted", set_90="3;4", **columns
        )

    rewrite(copied / "predictions.csv", unlabelled)
    opened = visit(write_report(copied))
    assert opened.messages == []
    text = opened.page.locator("#grade-predictions").inner_text()
    assert all(
        word in text for word in ("modalities", "other stain", "3;4", "90% prediction set", "distribution shift")
    )
    assert "No metrics" in opened.page.locator("#task-grade").inner_text()
    assert opened.page.locator("#survival-curves .main-svg").count() > 0


@pytest.fixture
def explained(copied):
    """The run with explanations of one case alone, as they are written beside it."""
    shutil.rmtree(copied / "explain")
    folder = copied / "explain" / "grade"
    folder.mkdir(parents=True)
    for name in ("slide.jpg", "map.jpg", "tile.jpg"):
        Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(folder / name)
    scale = {"low": 0, "centre": 0.02, "high": 0.03, "colours": ["#440154", "#fde725"], "note": "nearly even"}
    legends = {
        "prototype": [["prototype 1", "#1b9e77"], ["prototype 2", "#d95f02"]],
        "attention": scale | {"unit": "share of attention"},
    }
    overlays = [{"layer": "prototype", "image": "map.jpg"}, {"layer": "attention", "image": "lost.jpg"}]
    group = {"group": HOSTILE, "attention": 0.4, "permutation": None, "gradient_x_input": 0.2, "direction": "-"}
    case = {
        **{"case_id": HOSTILE, "selection": "most certain, right", "fold": 0, "label": "4", "prediction": "4"},
        "certainty": 0.91,
        "by_modality": {"all": {"output": 0.91, "prediction": "4"}, "slides": {"output": 0.66, "prediction": "3"}},
        "genes": [{**group, "top_genes": [["EGFR", 0.12], ["TP53", 0.1]]}],
        "legends": legends,
        "slides": [{"slide_id": "S1", "tile_table": "S1.csv", "thumbnail": "slide.jpg", "overlays": overlays}],
    }
    atlas = [{"prototype": 1, "colour": "#1b9e77", "images": ["tile.jpg"], "share": 0.21}]
    atlas[0]["share_by_group"] = {"grade": {"2": 0.125}}
    content = {"task": "grade", "model": "umeml", "notes": ["Fold 0 explains it."], "cases": [case], "atlas": atlas}
    write_explanation(copied / "explain" / "grade.json", content)
    return copied


def test_explanations_are_displayed_and_a_missing_image_is_named(explained, visit):
    opened = visit(write_report(explained))
    assert opened.messages == []
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    opened.page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
    text_of_section = opened.page.locator("#explanations").inner_text()
    for text in (
        "Fold 0 explains it.",
        "most certain, right",
        "certainty 91%",
        "slides only",
        "prototype 2",
        "21.0%",
    ):
        assert text in text_of_section
    assert all(
        text in text_of_section
        for text in ("0.910", "0.660", "slides only", "EGFR, TP53", "12.5%", "share of attention; nearly even")
    )
    assert "lost.jpg is missing in explain/grade" in text_of_section
    assert opened.page.locator("#explanations img").count() == 3
    ramp = opened.page.locator("#explanations .ramp").evaluate("one => getComputedStyle(one).backgroundImage")
    assert ramp == "linear-gradient(90deg, rgb(68, 1, 84), rgb(253, 231, 37))"
    assert opened.page.locator("#explanations .main-svg").count() > 0
    assert HOSTILE in text_of_section
    opened.page.set_viewport_size({"width": 390, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_run_folder_of_another_version_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"store": "f.zarr"}')
    with pytest.raises(
        InputError, match=r"run\.json has format 1, this version reads 5; use the version that wrote it"
    ):
        read_run(tmp_path)


def test_slides_that_were_enlarged_are_an_alert_with_the_factor():
    slides = pd.DataFrame(
        {
            "slide_id": list("abcd"),
            "status": ["done", "done", "reused", "failed"],
            "upsampling": [1.0, 1.01, 1.2, 2.0],
        }
    )
    run = SimpleNamespace(record={}, metrics={}, failed_slides={"d": "torn"}, slides=slides)
    assert [alert.text for alert in alerts(run)][1] == (
        "1 slide is coarser than the tiles and is enlarged, up to 1.20 times: features of enlarged pixels differ from those of a "
        "finer scan."
    )
    assert len(alerts(SimpleNamespace(record={}, metrics={}, failed_slides={}, slides=slides.head(2)))) == 0
    assert (
        len(
            alerts(
                SimpleNamespace(
                    record={}, metrics={}, failed_slides={}, slides=slides.head(2).drop(columns="upsampling")
                )
            )
        )
        == 0
    )


def test_caveats_of_metrics_are_at_the_top():
    metrics = {"survival": SimpleNamespace(caveats=()), "grade": SimpleNamespace(caveats=("these metrics are given.",))}
    (alert,) = alerts(SimpleNamespace(record={}, metrics=metrics, failed_slides={}, slides=pd.DataFrame()))
    assert alert.text == "Task grade: these metrics are given."
