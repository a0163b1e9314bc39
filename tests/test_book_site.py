"""The built site as a reader meets it, in headless Chromium: quiet, complete, narrow, by keyboard, with its search.

The site is built once from the recorded results of this checkout; BOOK_SITE=FOLDER names a built one instead.
Playwright drives the Chromium of this machine (`chromium`, `chromium-browser` or `google-chrome` on PATH); nothing is
downloaded.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
PARTS = ("docs", "fusion_alpha", "kernels", "metrics", "models/sentiment_minilm", "schemas", "stages")
FILES = ("CONTRIBUTING.md", "dvc.yaml", "dvc.lock", "params.yaml")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout's recorded results, built in a copy."""
    if built := os.environ.get("BOOK_SITE"):
        return Path(built).resolve()
    katex = ROOT / "docs" / "_build" / "katex"
    if not (katex / "node_modules").exists():
        pytest.skip("KaTeX is not installed yet: run `make book` once")
    root = tmp_path_factory.mktemp("book")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, root)
    shutil.copytree(katex, root / "docs" / "_build" / "katex")
    command = [sys.executable, str(root / "docs" / "build.py"), "--site"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
    if "results are missing or stale" in done.stderr:
        pytest.skip(f"the results of this checkout are stale: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return root / "docs" / "_build" / "html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH")
    with playwright.sync_playwright() as started:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with one
        opened = started.chromium.launch(executable_path=program, args=sandbox)
        yield opened
        opened.close()


class Watched:
    """A page whose console, errors and requests are kept."""

    def __init__(self, browser: Any, site: Path, size: dict[str, int]) -> None:
        self.site = site
        self.page = browser.new_page(viewport=size)
        self.page.set_default_timeout(60_000)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", lambda request: self.said.append(f"failed: {request.url}"))

    def open(self, name: str) -> Any:
        self.page.goto((self.site / name).as_uri())
        return self.page

    def outside(self) -> list[str]:
        own = self.site.as_uri()
        return [url for url in self.asked if not url.startswith((own, "data:"))]


def names(site: Path) -> list[str]:
    return sorted(path.name for path in site.glob("*.html"))


def test_every_page_is_quiet_complete_and_fits_a_phone(browser: Any, site: Path) -> None:
    watched = Watched(browser, site, PHONE)
    anchors: dict[str, set[str]] = {}
    links: dict[str, list[str]] = {}
    for name in names(site):
        page = watched.open(name)
        page.evaluate("document.querySelectorAll('img').forEach((image) => (image.loading = 'eager'))")
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("[...document.images].filter((i) => !i.naturalWidth || !i.alt).map((i) => i.src)") == [], (
            name
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], f"{name} is too wide"
        assert page.locator("h1").count() >= 1, name
        anchors[name] = set(page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)"))
        links[name] = page.evaluate("[...document.querySelectorAll('a[href]')].map((one) => one.getAttribute('href'))")
    for name, targets in links.items():
        for target in targets:
            file, _, fragment = target.partition("#")
            if not file.startswith(("http:", "https:", "mailto:")):
                assert (file or name) in anchors, f"{name}: {target}"
                assert not fragment or fragment in anchors[file or name], f"{name}: {target}"
    assert watched.said == []
    assert watched.outside() == []


STOPS = """[...document.querySelectorAll("a[href], input, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility()).length"""
# The browser scrolls to what has the focus in one of the next frames.
FOCUS = """async () => {
  const one = document.activeElement, style = getComputedStyle(one);
  let box = one.getBoundingClientRect();
  for (let frame = 0; frame < 60 && (box.bottom <= 0 || box.top >= innerHeight); frame++) {
    await new Promise((next) => requestAnimationFrame(next));
    box = one.getBoundingClientRect();
  }
  return {tag: one.tagName, text: (one.textContent || one.getAttribute("aria-label") || "").trim().slice(0, 40),
    main: !!one.closest("main"), outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
    seen: box.width > 0 && box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight};
}"""


@pytest.mark.parametrize("name", ["index.html", "experiments.html", "fusion-alpha.html"])
def test_a_page_can_be_walked_with_the_tab_key(browser: Any, site: Path, name: str) -> None:
    watched = Watched(browser, site, DESK)
    page = watched.open(name)
    wanted = page.evaluate(STOPS)
    walked = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        walked.append(page.evaluate(FOCUS))
    assert walked[0]["text"] == "Skip to the text"
    assert [one for one in walked if not one["outline"] or not one["seen"]] == []
    inside = [one["main"] for one in walked]
    assert inside[:4] == [False] * 4  # header and contents first, then the text
    assert True in inside


def test_the_skip_link_leads_past_the_contents(browser: Any, site: Path) -> None:
    page = Watched(browser, site, DESK).open("experiments.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS)["main"]


def test_the_contents_open_on_a_phone_by_keyboard(browser: Any, site: Path) -> None:
    page = Watched(browser, site, PHONE).open("index.html")
    link = page.locator("details.menu a", has_text="Experiments").first
    assert not link.is_visible()
    page.locator("details.menu summary").focus()
    page.keyboard.press("Enter")
    assert link.is_visible()
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/experiments.html")


FOUND = {  # what a reader may type -> a page that must be among the first five sections
    "sign-flip null": "fusion-alpha.html",
    "philox": "bicep.html",
    "break-even": "strategy.html",
    "canaries": "recovery.html",
    "kubernetes": "future.html",
    "underhype": "glossary.html",
    "tau_over": "fusion-alpha.html",
}


def test_search_finds_sections_by_keyboard_alone(browser: Any, site: Path) -> None:
    watched = Watched(browser, site, DESK)
    page = watched.open("index.html")
    for words, wanted in FOUND.items():
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "q"
        page.keyboard.type(words)
        page.wait_for_function("document.querySelectorAll('form.search li').length > 0")
        page.wait_for_timeout(200)  # what was typed last
        found = page.evaluate("[...document.querySelectorAll('form.search li a')].map((a) => a.getAttribute('href'))")
        assert wanted in [url.partition("#")[0] for url in found[:5]], f"{words}: {found[:5]}"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == found[0]
        page.keyboard.press("Escape")
        assert page.locator("form.search li").count() == 0
        page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("xyzzyplugh")
    page.wait_for_function("document.querySelector('form.search [role=status]').textContent === '0 sections'")
    page.keyboard.press("Escape")
    page.keyboard.type("kubernetes")  # the field has kept the focus
    page.wait_for_function("document.querySelectorAll('form.search li').length > 0")
    page.keyboard.press("Enter")
    page.wait_for_url("**/future.html*")
    assert watched.said == []
    assert watched.outside() == []


def test_search_fits_a_phone(browser: Any, site: Path) -> None:
    page = Watched(browser, site, PHONE).open("index.html")
    page.locator("form.search input").fill("contradiction")
    page.wait_for_function("document.querySelectorAll('form.search li').length > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    box = page.locator("form.search ol").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
