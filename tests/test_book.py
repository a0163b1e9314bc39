"""The book: its structure, its references, that no result is typed by hand, and the build itself."""

import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
sys.path.insert(0, str(DOCS / "theme"))

NAMES = ("build", "exhibits", "figures", "flow", "render", "results")
build, exhibits, figures, flow, render, results = map(importlib.import_module, NAMES)

CITATION = re.compile(r"\{cite:[pt]\}`([^`]+)`")


def chapters() -> list[Path]:
    """Every page of the book, in the order of its contents."""

    def pages(entries: list[dict[str, Any]]) -> list[Path]:
        found = []
        for entry in entries:
            found += [DOCS / entry["file"]] if "file" in entry else sorted(DOCS.glob(entry["pattern"]))
            found += pages(entry.get("children", []))
        return found

    return pages(yaml.safe_load((DOCS / "myst.yml").read_text())["project"]["toc"])


def sources() -> dict[str, str]:
    return {str(path.relative_to(DOCS)): path.read_text() for path in chapters()}


def prose(page: str) -> str:
    """The page without front matter, code cells and code."""
    page = re.sub(r"\A---\n.*?\n---\n", "", page, flags=re.DOTALL)
    page = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "", page)


def test_contents_and_files_are_the_same_pages() -> None:
    listed = chapters()
    assert len(listed) == len(set(listed))
    written = {path for path in DOCS.rglob("*.md") if not {"_build", "node_modules"} & set(path.parts)}
    assert set(listed) == written - {DOCS / "decisions" / "template.md"}


def test_cited_works_and_bibliography_are_the_same() -> None:
    cited = {key.strip() for page in sources().values() for keys in CITATION.findall(page) for key in keys.split(",")}
    known = re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.MULTILINE)
    assert len(known) == len(set(known))
    assert cited == set(known)


def test_every_work_has_a_topic() -> None:
    entries = (DOCS / "references.bib").read_text().split("\n@")[1:]
    assert [entry.split(",")[0] for entry in entries if "keywords" not in entry] == []


def test_links_between_pages_and_to_labels_resolve() -> None:
    pages = sources()
    labels = {label for page in pages.values() for label in re.findall(r"^:label: (\S+)$", page, re.MULTILINE)}
    for name, page in pages.items():
        for target in re.findall(r"\]\(([^)]+)\)", page):
            if target.startswith("#"):
                assert target[1:] in labels, f"{name}: {target}"
            elif not re.match(r"https?:", target):
                assert (DOCS / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_labels_are_unique() -> None:
    labels = [label for page in sources().values() for label in re.findall(r"^:label: (\S+)$", page, re.MULTILINE)]
    assert sorted(labels) == sorted(set(labels))


def test_every_figure_and_formula_is_fit_for_both_forms() -> None:
    """Figures are drawn by figures.py, which describes them; formulas have a label, and Typst of their own where the
    PDF's writer would drop an environment without a word."""
    for name, page in sources().items():
        for source in re.findall(r"^:::\{figure\} (\S+)$", page, re.MULTILINE):
            assert re.match(r"#cell-|_build/figures/\w+\.svg$", source), f"{name}: {source}"
        for formula in re.findall(r"^```\{math\}\n.*?^```", page, re.DOTALL | re.MULTILINE):
            assert ":label: eq-" in formula, f"{name}: {formula}"
            assert ":typst: " in formula or r"\begin" not in formula, f"{name}: {formula}"


RESULTS = ("experiments.md", "comparison.md", "stocknet.md", "recovery.md", "strategy.md", "search_and_speed.md")


@pytest.mark.parametrize("name", RESULTS)
def test_no_result_is_typed_by_hand(name: str) -> None:
    page = re.sub(r"\]\([^)]*\)", "]", prose(sources()[name]))
    assert re.findall(r"\d+", page) == []


def test_decision_records_have_the_template_s_parts() -> None:
    parts = re.findall(r"^## (.+)$", (DOCS / "decisions" / "template.md").read_text(), re.MULTILINE)
    assert parts == ["Decision", "Context", "Alternatives", "Consequences"]
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        text = path.read_text()
        assert re.findall(r"^## (.+)$", text, re.MULTILINE)[:4] == parts, path.name
        assert re.search(r"^- \*\*Date\*\*: \d{4}-\d{2}-\d{2}$", text, re.MULTILINE), path.name
    numbers = [path.name[:4] for path in (DOCS / "decisions").glob("[0-9]*.md")]
    assert sorted(numbers) == sorted(set(numbers))


def test_the_stage_depends_on_every_source_of_the_book() -> None:
    stage = yaml.safe_load((DOCS / "dvc.yaml").read_text())["stages"]["book"]
    for path in [*chapters(), *DOCS.glob("*.py"), DOCS / "myst.yml", DOCS / "references.bib"]:
        name = str(path.relative_to(ROOT))
        assert any(name == dep or name.startswith(f"{dep}/") for dep in stage["deps"]), name


def test_theme_s_lock_names_no_host() -> None:
    lock = json.loads((DOCS / "theme" / "package-lock.json").read_text())
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


def test_numbers_are_written_as_readers_want_them() -> None:
    written = {1234567: "1,234,567", 0.1234567: "0.1235", -0.5: "-0.5", 1e-7: "1.00e-07", True: "yes", "a": "a"}
    assert {number: exhibits.text(number) for number in written} == written
    assert exhibits.text(None) == exhibits.NOTHING


def test_table_escapes_text_and_flushes_numbers_right() -> None:
    html = exhibits.Table([("a<b", 1.5), ("`x`", None)], ["name", "value"])._repr_html_()
    assert "a&lt;b" in html
    assert "<code>x</code>" in html
    assert '<td align="right">1.5</td>' in html
    assert "<td>a" in html


def test_strategies_come_in_a_reader_s_order(project: Path) -> None:
    assert [row[0] for row in exhibits.strategies().rows] == ["model", "buy and hold", "reversal", "oracle"]


def test_detections_come_with_their_intervals(project: Path) -> None:
    known = "0.250 [0.250, 0.250]"
    assert exhibits.detections().rows[0] == ["score and threshold", 10, known, known, "–"]
    assert "precision 0.250 [0.250, 0.250], recall" in exhibits.advantage()


def test_the_layers_and_the_model_s_card_count_what_the_stages_counted(project: Path) -> None:
    told = flow.layers().data
    assert "interim prices: 9 kept, 1 rejected" in told
    assert "15 bars: 5 train, 5 dev, 5 test" in told
    assert ["weights", "9,876"] in exhibits.card().rows


def test_sources_without_truth_say_so(project: Path) -> None:
    path = project / "metrics" / "evaluate.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in content.keys() - {"oracle", "contradiction"}}))
    assert "No planted truth" in exhibits.detections()._repr_html_()
    assert exhibits.advantage() == ""
    assert "No oracle" in exhibits.oracle()._repr_html_()


def test_drawn_figures_carry_their_description(tmp_path: Path) -> None:
    figures.draw_all(tmp_path)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [path.stem for path in drawn] == ["clock", "contradiction", "dag", "fusionnet"]
    for path in drawn:
        found = ElementTree.parse(path).getroot().find("{http://www.w3.org/2000/svg}desc")
        assert found is not None
        assert len(found.text or "") > 50
    again = tmp_path / "again"
    figures.draw_all(again)
    assert all((again / path.name).read_bytes() == path.read_bytes() for path in drawn)


def test_figure_of_the_stages_leaves_out_implied_arrows() -> None:
    edges = {"a": [], "b": ["a"], "c": ["a", "b"]}
    assert figures.reduced("c", edges["c"], edges) == ["b"]


def test_renderer_refuses_what_it_does_not_know() -> None:
    page = render.Page("x", {"mdast": {"type": "root", "children": [{"type": "hologram"}]}, "frontmatter": {}})
    with pytest.raises(render.UnknownNode, match="hologram"):
        page.body()


def test_renderer_refuses_a_failed_cell_and_an_image_without_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "public", lambda: tmp_path)
    (tmp_path / "a.svg").write_text("<svg></svg>")
    for node in (
        {"type": "output", "jupyter_data": {"output_type": "error", "ename": "ValueError"}},
        {"type": "image", "url": "/a.svg"},
    ):
        with pytest.raises(render.UnknownNode):
            render.Page("x", {"mdast": node, "frontmatter": {}}).body()


def test_search_finds_sections_by_their_words() -> None:
    html = (
        '<main><article>\n<h1>A &amp; B</h1>\n<p>First <em>word</em>s.</p><h2 id="two">Second <a class="mark" '
        'href="#two">#</a></h2><p>x<math>x</math></p><h4>Deep</h4><h3>Third</h3></article></main>'
    )
    assert render.sections("p", html) == [
        {"url": "p.html", "page": "A & B", "section": "A & B", "text": "First words."},
        {"url": "p.html#two", "page": "A & B", "section": "Second", "text": "x Deep"},
        {"url": "p.html", "page": "A & B", "section": "Third", "text": ""},
    ]


def test_search_knows_each_term_of_the_glossary() -> None:
    term = {"type": "definitionTerm", "children": [{"type": "text", "value": "Basis point (bp)"}]}
    text = {"type": "definitionDescription", "children": [{"type": "text", "value": "One hundredth."}]}
    tree = {"type": "definitionList", "children": [term, text]}
    html = render.Page("glossary", {"mdast": tree, "frontmatter": {}}).body()
    found = render.sections("glossary", f"<article><h1>Glossary</h1>{html}</article>")
    assert found[1] == {
        **{"url": "glossary.html#term-basis-point-bp", "page": "Glossary"},
        **{"section": "Basis point (bp)", "text": "One hundredth."},
    }
    assert "term-" not in render.Page("other", {"mdast": tree, "frontmatter": {}}).body()


def test_log_check_accepts_only_known_warnings() -> None:
    build.check_log(f"Built a.md\n⚠️  {build.ACCEPTED[0]}\n")
    for line in ("⚠️  a.md Cross reference target was not found", "⛔️ cell failed", "Error: Command failed: typst"):
        with pytest.raises(build.BookError, match=line[4:]):
            build.check_log(f"Built a.md\n{line}\n")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the book with its inputs and small results that belong to them."""
    root = tmp_path / "project"
    shutil.copytree(DOCS, root / "docs", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "schemas", root / "schemas")
    shutil.copytree(ROOT / "kernels", root / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    card = root / "models" / "sentiment_minilm" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("# Sentiment head\n\nStand-in.\n\n## Scores\n\n| set | accuracy |\n|---|--:|\n| a | 0.5 |\n")
    write_results(root)
    monkeypatch.setattr(results, "ROOT", root)
    monkeypatch.setattr(results, "METRICS", root / "metrics")
    monkeypatch.setattr(results, "DATABASE", root / "mlflow.db")
    return root


def write_results(root: Path) -> None:
    """Small results in the form that the stages write, and a lock that records them."""
    folder = root / "metrics"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    strategy = {"sharpe": 0.5, "sharpe_lo": -0.5, "sharpe_hi": 1.5, "total_return": 0.1, "max_drawdown": -0.2}
    strategy |= {"hit_rate": 0.51, "exposure": 0.9, "turnover": 0.3}
    measures = [f"{name}{end}" for name in ("precision", "recall", "f1", "auc") for end in ("", "_lo", "_hi")]
    flags = dict.fromkeys(measures, 0.25) | {"n_flagged": 10, "auc": None, "auc_lo": None, "auc_hi": None}
    rules = dict.fromkeys(("score", "score_less_naive", "learned", "naive", "unscaled"), flags)
    scores = ("accuracy", "accuracy_always_up", "balanced_accuracy", "share_predicted_up", "mcc", "mcc_lo", "mcc_hi")
    scores += ("auc", "bce", "brier", "ece", "ic", "ic_rank", "ic_daily", "ic_daily_t")
    contents: dict[str, Any] = {
        "evaluate": {
            **dict.fromkeys(scores, 0.12345),
            **{"simulated": True, "n": 4321, "n_sessions": 250},
            "oracle": {"ic_model": 0.0321, "ic_oracle": 0.131},
            "contradiction": rules,
            "strategies": {
                **dict.fromkeys(("oracle", "reversal", "model"), strategy),
                "buy_and_hold": strategy | {"hit_rate": None},
            },
        },
        "train": {
            **{"best_epoch": 2, "parameters": 9876, "thresholds": {"tau_over": 0.8, "tau_under": 0.7}},
            **{"train": {"loss": 1.0, "bce": 0.7, "nll": 0.6}, "dev": {"loss": 1.1, "bce": 0.7, "nll": 0.8, "ic": 0.1}},
        },
        "clean": {
            **{name: {"rows": 10, "kept": 9, "rejected": 1, "left_out": {}} for name in ("prices", "news")},
            "pii": {"before": {"handles": 3}, "after": {"handles": 0}},
            "rejected_by_rule": {"prices.close: a number": 1, "news.text: text": 1},
        },
        "process": {
            **{"tickers": 3, "bars": 15, "news_with_bar": 9},
            "split": {role: {"bars": 5, "labels": 4, "up": 2} for role in ("train", "dev", "test")},
        },
        "contradiction": {"bars": 15, "kind": {"none": 12, "overhype": 2, "underhype": 1}},
        "text": {"distinct_texts": 8, "dim": 384},
        "technical": {"features": 70},
        "predict": {"rows": 12, "split": {"test": {"rows": 4, "p_up": 0.5, "sd_ret": 0.02, "severity": 0.4}}},
    }
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    for name in {*stages, *contents}:
        content = contents.get(name, {"rows": 1234})
        (folder / f"{name}.json").write_text(json.dumps(content))
    header = ",".join(["epoch", *(f"{role}_{part}" for role in ("train", "dev") for part in ("loss", "bce", "nll"))])
    rows = [f"{epoch},1.0,0.7,0.6,1.1,0.7,0.8" for epoch in (1, 2, 3)]
    (folder / "curves.csv").write_text("\n".join([header, *rows, ""]))
    (folder / "equity.csv").write_text("session,model,buy_and_hold\n2019-01-02,1.0,1.0\n2019-01-03,1.01,0.99\n")
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="90pt" height="60pt"><circle cx="30" cy="30" r="9"/></svg>'
    for name in ("equity", "calibration", "contradiction"):
        (folder / "figures" / f"{name}.svg").write_text(drawing)
    locked = {
        name: {"cmd": stage["cmd"], "outs": [record(root, f"metrics/{name}.json")]} for name, stage in stages.items()
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))


def record(root: Path, path: str) -> dict[str, str]:
    return {"path": path, "md5": hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()}


def test_results_that_belong_together_pass(project: Path) -> None:
    before = results.check()
    assert results.check() == before
    (project / "metrics" / "curves.csv").write_text("epoch\n1\n")
    assert results.check() != before


def test_missing_and_stale_results_are_refused_with_the_remedy(project: Path) -> None:
    stage = next(iter(yaml.safe_load((project / "dvc.yaml").read_text())["stages"]))
    path = project / "metrics" / f"{stage}.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(results.ResultsError, match=rf"{stage}.*not what its last recorded run wrote"):
        results.check()
    path.unlink()
    with pytest.raises(results.ResultsError, match=rf"make repro.*\n.*{stage}.json is missing"):
        results.check()
    (project / "dvc.lock").unlink()
    with pytest.raises(results.ResultsError, match="make repro"):
        results.check()


def test_changed_parameter_is_refused(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    stage = next(iter(lock["stages"]))
    lock["stages"][stage]["params"] = {"params.yaml": {"train.seed": -1}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(results.ResultsError, match=r"train\.seed has changed"):
        results.check()


class Loads(HTMLParser):
    """What a browser would fetch for a page, and the page's own anchors and links."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.without_alt: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        else:
            self.fetched += [given[name] for name in ("src", "srcset", "href", "data", "poster") if name in given]
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "img" and not given.get("alt"):
            self.without_alt.append(given.get("src", ""))


def run_build(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "docs" / "build.py")]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)


def with_katex(project: Path) -> None:
    """Take KaTeX from an earlier build, so that the test needs no registry."""
    installed = DOCS / "_build" / "katex"
    if not (installed / "node_modules").exists():
        pytest.skip("KaTeX is not installed yet: run `make book` once")
    shutil.copytree(installed, project / "docs" / "_build" / "katex")


def record_a_run(project: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    source = yaml.safe_load((project / "params.yaml").read_text())["data"]["source"]
    run = client.create_run(client.create_experiment(source), run_name="a-recorded-run")
    client.log_metric(run.info.run_id, "test/mcc", 0.0625)
    client.set_terminated(run.info.run_id, "FINISHED")


@pytest.mark.slow
def test_build_makes_a_complete_site_and_pdf(project: Path) -> None:
    with_katex(project)
    record_a_run(project)
    done = run_build(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "docs" / "_build" / "pdf" / "nimbus-book.pdf").read_bytes().startswith(b"%PDF-")
    site = project / "docs" / "_build" / "html"
    pages = {}
    for path in site.glob("*.html"):
        pages[path.name] = Loads()
        pages[path.name].feed(path.read_text())
    assert len(pages) == len(chapters())
    for name, page in pages.items():
        assert page.without_alt == [], name
        for target in page.fetched:
            assert not re.match(r"(?:[a-z]+:)?//", target), f"{name} loads {target}"
            assert (site / target).exists(), f"{name} loads {target}"
        for link in page.links:
            file, _, fragment = link.partition("#")
            if not re.match(r"https?:|mailto:", file):
                assert not fragment or fragment in pages[file or name].anchors, f"{name}: {link}"
                assert not file or file in pages, f"{name}: {link}"
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", style.read_text()) == [], style.name
    index = json.loads((site / "search-index.js").read_text().removeprefix("window.bookIndex = ").rstrip(";\n"))
    for section in index:
        file, _, fragment = section["url"].partition("#")
        assert not fragment or fragment in pages[file].anchors, section["url"]
    assert {section["url"].partition("#")[0] for section in index} == set(pages)
    text = (site / "experiments.html").read_text()
    for expected in ("SIMULATED", "4,321", "a-recorded-run", "0.0625"):
        assert expected in text
    assert subprocess.run(["pgrep", "-f", f"jupyter_server.*{project}"], capture_output=True).stdout == b""


def shown(site: Path) -> set[str]:
    """Pictures of the chapter on experiments, by their content."""
    return set(re.findall(r'src="(files/[^"]+)"', (site / "experiments.html").read_text()))


@pytest.mark.slow
def test_changed_result_changes_the_book_and_a_failing_cell_stops_it(project: Path) -> None:
    with_katex(project)
    assert run_build(project).returncode == 0
    site, printed = project / "docs" / "_build" / "html", project / "docs" / "_build" / "pdf" / "nimbus-book.pdf"
    before, pages = shown(site), printed.read_bytes()
    path = project / "metrics" / "evaluate.json"
    path.write_text(path.read_text().replace("4321", "8765"))
    done = run_build(project)
    assert done.returncode == 1
    assert "not what its last recorded run wrote" in done.stderr
    drawing = project / "metrics" / "figures" / "equity.svg"
    drawing.write_text(drawing.read_text().replace('r="9"', 'r="7"'))
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    lock["stages"].get("evaluate", {"outs": [{}]})["outs"][0] |= record(project, "metrics/evaluate.json")
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert run_build(project).returncode == 0
    assert "8,765" in (site / "experiments.html").read_text()
    assert len(before - shown(site)) == len(shown(site) - before) == 1  # the one drawing that the run drew anew
    assert printed.read_bytes() != pages
    page = project / "docs" / "experiments.md"
    page.write_text(page.read_text().replace("exhibits.strategies()", "results.no_such_function()"))
    done = run_build(project)
    assert done.returncode == 1
    assert "no_such_function" in done.stderr
