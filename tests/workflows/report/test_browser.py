"""What a reader does with the report in a browser: open the panel of a case, save charts, print."""

import io
import json
import re
from pathlib import Path

import pandas as pd

from workflows.report.plain.images import anchor_of


def test_the_panel_of_a_case_repeats_maps_and_tiles_of_its_explanation(finished, seen):
    explanation = json.loads((finished / "explain" / "grade.json").read_text())["cases"][0]
    panel = seen.page.locator(f"#{anchor_of(explanation['case_id'])}")
    panel.evaluate("one => { one.open = true; }")
    tiles = panel.locator("img[data-from*='grade'][data-from*='tile']")
    assert tiles.count() == len(explanation["top_tiles"]) > 1
    for image in panel.locator("img[data-from]").all():
        source = seen.page.locator(f"[id='{image.get_attribute('data-from')}']")
        assert image.get_attribute("src") == source.get_attribute("src")
        assert image.evaluate("one => one.complete && one.naturalWidth > 0")
    maps = panel.locator(".overlays figcaption").all_inner_texts()
    assert {"prototype", "attention", "contribution"} <= set(maps)


def test_every_chart_is_saved_as_svg_and_as_csv(finished, visit):
    page = visit(finished / "report.html").page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
    for key in page.eval_on_selector_all("figure.chart:has(script)", "all => all.map(one => one.id)"):
        chart = page.locator(f"figure[id='{key}']")
        page.wait_for_timeout(250)  # Chromium allows ten downloads a second
        for button, ending in (("Download plot", "svg"), ("Download the numbers", "csv")):
            with page.expect_download() as waited:
                chart.locator(f".modebar-btn[data-title^='{button}']").dispatch_event("click")
            assert waited.value.suggested_filename == f"{key}.{ending}"
            text = Path(waited.value.path()).read_text()
            if ending == "svg":
                assert text.startswith("<svg")
            else:
                table = pd.read_csv(io.StringIO(text))
                assert list(table) == ["trace", "x", "y"]
                assert len(table) > 0
                assert table[["x", "y"]].notna().any(axis=None)


def test_no_chart_can_be_sent_to_a_server(finished, visit):
    """Plotly has a button that uploads a chart's data."""
    page = visit(finished / "report.html").page
    titles = page.eval_on_selector_all(".modebar-btn", "all => [...new Set(all.map(one => one.dataset.title))]")
    assert set(titles) == {
        "Download plot",
        "Download the numbers as CSV",
        "Zoom",
        "Pan",
        "Zoom in",
        "Zoom out",
        "Reset axes",
    }


def test_the_printed_page_is_light_open_and_complete(finished, visit):
    page = visit(finished / "report.html").page
    page.emulate_media(color_scheme="dark")
    page.evaluate(
        "window.addEventListener('beforeprint', () => { window.printed = {theme: document.documentElement.dataset.theme,"
        " closed: document.querySelectorAll('details:not([open])').length,"
        " widths: [...new Set([...document.querySelectorAll('.js-plotly-plot')].map(one => one._fullLayout.width))],"
        " charts: document.querySelectorAll('.plot:not(.js-plotly-plot)').length,"
        " empty: [...document.querySelectorAll('img[data-from]:not([src])')].length}; })"
    )
    printed = page.pdf(prefer_css_page_size=True)
    assert page.evaluate("window.printed") == {"theme": "light", "closed": 0, "empty": 0, "charts": 0, "widths": [460]}
    assert len(re.findall(rb"/Type */Page\b", printed)) > 5
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()


def test_the_toolbar_of_a_chart_covers_no_legend_on_a_narrow_screen(finished, visit):
    page = visit(finished / "report.html", width=420).page
    boxes = page.eval_on_selector_all(
        ".js-plotly-plot",
        "all => all.filter(one => one.querySelector('.legend')).map(one => [one.closest('figure').id,"
        " one.querySelector('.legend').getBoundingClientRect().top, one.querySelector('.modebar').getBoundingClientRect().bottom])",
    )
    assert any(key.endswith("kaplan-meier") for key, _, _ in boxes)
    assert [key for key, legend_top, toolbar_bottom in boxes if legend_top < toolbar_bottom] == []
