"""A browser, in which tests open reports."""

import os
import shutil
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, sync_playwright

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
QUIET += ("--disable-sync", "--no-first-run")


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None and os.environ.get("CI"):
        pytest.fail("chromium is not installed: apt-get install chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser
        browser.close()


@dataclass(frozen=True)
class Visit:
    """A page with all charts drawn, its console messages and the URLs it requested."""

    page: Page
    messages: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def visit(browser):
    """Opens a report."""

    def visit(path, *, width=1280):
        seen = Visit(browser.new_page(viewport={"width": width, "height": 800}, color_scheme="light"), [], [])
        seen.page.on("console", lambda message: seen.messages.append(message.text))
        seen.page.on("pageerror", lambda error: seen.messages.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(path.as_uri())
        seen.page.wait_for_selector("html[data-drawn]", timeout=180_000)
        return seen

    return visit


@pytest.fixture(scope="module")
def seen(finished, visit):
    """The report of the finished run, 1280 px wide."""
    return visit(finished / "report.html")
