"""Build the book: a static site in build/site, which opens without a network.

    python docs/make_book.py                 runs every code block, the microscope's notebook and the commands whose
                                             screens docs/command-line.md shows, compares models' pages and diagrams
                                             with the plans, then makes the site and checks its links, addresses and
                                             spelling
    python docs/make_book.py --pages-only    the site and its checks alone, while a page is written (half a minute)

The pages are gathered in build/pages with what Markdown readers differ in made equal: links that leave docs/ lead to
the page that the site has in their place, formulas become MathML, lists and tables get the empty line before them.
Then Zensical builds them in its strict mode, in which a warning is an error. Needs the extra `docs`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
PAGES = BUILD / "pages"
SITE = BUILD / "site"
# Pages from outside of docs/, by their place in the site.
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/RESULTS-GPU.md": "results-gpu.md",
}
PICTURES = {".png", ".svg", ".gif"}
# Words that are right here, and look to codespell like others that are wrong.
NOT_MISSPELT = "teh,ans,fo,nd,te,ba,mor,ot,ser,hist,als,lamda,doesnt"
FENCE = re.compile(r"^(```+).*?^\1$", re.M | re.S)
# What a reader should never see: bullets, rows of tables, fences, formulas' dollars, links' brackets, half of a merge.
LEFT_OVER = re.compile(r"^(?:[-*] |>>> |\||```|~~~)|\$\$|\]\(|^(?:<{7}|={7}|>{7})", re.M)
UNREAD = {"code", "pre", "script", "style", "svg", "title"}
# The tests that run what the pages show.
SHOWN = ["tests/house/test_docs.py", "tests/house/test_readme.py", "tests/house/test_model_pages.py"]
BUNDLE = re.compile(r'(<script src="[^"]*assets/javascripts/bundle\.[^"]*"></script>)')
FROM_DISK = """if (location.protocol === "file:") {
  const started = window.Worker, text = %s;
  const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  window.Worker = function () { return new started(address); };
}
"""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def gather() -> None:
    """Write all pages, pictures and the site's settings below build/."""
    shutil.rmtree(BUILD / "pages", ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    homes = {path: path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))}
    homes |= {ROOT / path: Path(home) for path, home in OUTSIDE.items()}
    pictures = {path: path.relative_to(DOCS) for path in sorted(DOCS.rglob("*")) if path.suffix in PICTURES}
    known = homes | pictures
    for path, home in homes.items():
        target = PAGES / home
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(portable(path.read_text(), path, home, known))
    for path, home in pictures.items():
        (PAGES / home).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, PAGES / home)
    shutil.copyfile(DOCS / "book.css", PAGES / "book.css")
    shutil.copyfile(DOCS / "zensical.toml", BUILD / "zensical.toml")


def portable(text: str, path: Path, home: Path, known: dict[Path, Path]) -> str:
    """A page as Python-Markdown reads it.

    Args:
        text: the page, in the Markdown of GitHub.
        path: where it stands.
        home: its place in the site.
        known: places in the site of all pages and pictures, by where they stand.

    Returns:
        The same page for the site.
    """
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.S).replace("<details>", '<details markdown="1">')
    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [_prose(text[end : fence.start()], path, home, known), fence[0]]
        end = fence.end()
    pieces.append(_prose(text[end:], path, home, known))
    return "".join(pieces)


def _prose(text: str, path: Path, home: Path, known: dict[Path, Path]) -> str:
    """What stands between fences: formulas, links, lists and tables."""
    text = re.sub(r"^\$\$\n?(.*?)\n?\$\$$", _displayed, text, flags=re.M | re.S)
    parts = re.split(r"(`[^`\n]*`)", text)  # code spans keep their dollars and brackets
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<![\w$\\])\$([^$\n]*[^$\s])\$(?!\w)", lambda m: _mathml(m[1], "inline"), parts[i])
    return _with_room(LINK.sub(lambda m: _linked(m, path, home, known), "".join(parts)))


def _displayed(match: re.Match) -> str:
    """A formula between lines of text."""
    return f'<div class="formula" tabindex="0">{_mathml(match[1], "block")}</div>'


def _mathml(latex: str, display: str) -> str:
    """A formula as MathML, which browsers draw by themselves, on one line and without Markdown's marks in it."""
    from latex2mathml.converter import convert

    latex = re.sub(r"(\\log|\\exp|\\max)\s+(?![(\[])", r"\1\\,", latex).replace(r"\sim", r"\;\sim\;")
    made = convert(latex, display=display).replace("\n", "")
    made = re.sub(r"[*_`\[\]\\]", lambda m: f"&#{ord(m[0])};", made)
    return made if display == "block" else f"&#8288;{made}"  # a line that begins with a tag would be a block


def _linked(match: re.Match, path: Path, home: Path, known: dict[Path, Path]) -> str:
    """A link with its target's place in the site, or its title; its words alone where the site has no such page."""
    mark, words, target = match.groups()
    if urlsplit(target).scheme or target.startswith("#"):
        return match[0]
    where, _, anchor = target.partition("#")
    found = (path.parent / where).resolve()
    if found.is_dir():
        inside = [page for page in known if page.parent == found and page.suffix == ".md"]
        found = min(inside, default=found)
    if found not in known:
        if not found.exists():
            raise SystemExit(f"{path.relative_to(ROOT)} leads to {target}, which is not there")
        return words
    there = os.path.relpath(known[found], home.parent)
    if mark and found.parent.name == "terminal":  # wide: a click shows it by itself
        return f"[![{words}]({there})]({there})"
    if words.endswith(".md"):  # the name of a file in the repository, a title in the site
        words = next(line[2:] for line in found.read_text().splitlines() if line.startswith("# "))
    return f"{mark}[{words}]({there}{'#' + anchor if anchor else ''})"


def _with_room(text: str) -> str:
    """Empty lines before lists and tables that follow a line of text."""
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        item = re.match(r"([-*]|\d+\.) ", line)
        in_list = before.startswith("  ") or re.match(r"([-*]|\d+\.) ", before)
        starts_table = line.startswith("|") and not before.startswith("|")
        if before.strip() and ((item and not in_list) or starts_table):
            lines.append("")
        lines.append(line)
    first = next((line for line in lines if line), "")
    if first in lines[:2] and re.match(r"([-*]|\d+\.) |\|", first):  # right behind a fence
        lines.insert(0, "")
    return "\n".join(lines)


def build() -> None:
    """Run Zensical on what was gathered.

    Raises:
        SystemExit: if it warns of anything.
    """
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", "zensical.toml"]
    done = subprocess.run(command, cwd=BUILD, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    if done.returncode or "arning" in said or "griffe:" in said:  # which reads the docstrings
        raise SystemExit(f"zensical:\n{said}")


def search_from_disk() -> None:
    """Let the search work in a site that is opened from the disk, where a browser fetches nothing and starts no worker.

    The theme looks for the index in `search.js` there; the worker is started from its text.
    """
    (worker,) = (SITE / "assets" / "javascripts" / "workers").glob("search.*.js")
    (SITE / "search.js").write_text(f"var __index = {(SITE / 'search.json').read_text()};\n")
    (SITE / "from_disk.js").write_text(FROM_DISK % json.dumps(worker.read_text()))
    for page in SITE.rglob("*.html"):
        there = os.path.relpath(SITE / "from_disk.js", page.parent)
        text, count = BUNDLE.subn(rf'<script src="{there}"></script>\1', page.read_text())
        if count != 1:
            raise SystemExit(f"{page} has {count} scripts of the theme; expected one")
        page.write_text(text)


# What axe finds in the theme: a landmark beside every block of code, and wide tables that keys cannot scroll.
MENDED = {
    'C("nav",{class:"md-code__nav"})': 'C("div",{class:"md-code__nav"})',
    '{class:"md-typeset__scrollwrap"}': '{class:"md-typeset__scrollwrap",tabindex:0}',
}


def accessible() -> None:
    """Mend the theme, and take away its page for missing addresses, which wants a server.

    Raises:
        SystemExit: if the theme is another than it was.
    """
    (SITE / "404.html").unlink()
    (bundle,) = (SITE / "assets" / "javascripts").glob("bundle.*.js")
    text = bundle.read_text()
    for old, new in MENDED.items():
        if text.count(old) != 1:
            raise SystemExit(f"{bundle.name} has {old} {text.count(old)} times; expected once")
        text = text.replace(old, new)
    bundle.write_text(text)


class Page(HTMLParser):
    """What a built page refers to, what can be referred to in it, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.prose: list[str] = []
        self._in_code = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag's addresses."""
        self._in_code += tag in UNREAD
        if tag == "blockquote":  # what Markdown makes of an example's prompt
            self.prose.append(">>> ")
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        for name in ("src", "data", "poster"):
            if name in found:
                self.loads.append(found[name])
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(found["href"])

    def handle_endtag(self, tag: str) -> None:
        """Leave code, where that ends."""
        self._in_code -= tag in UNREAD

    def handle_data(self, data: str) -> None:
        """Keep what is read as prose."""
        if not self._in_code:
            self.prose.append(data)


def faults(site: Path) -> Iterator[str]:
    """Links of a built site that lead nowhere, addresses elsewhere that a page would load, and marks left in prose.

    Args:
        site: the site's folder.

    Yields:
        A line for each fault.
    """
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for mark in (mark for words in page.prose for mark in LEFT_OVER.findall(words)):
            yield f"{name} shows {mark.strip()!r}, which Markdown did not understand"
        for address in page.loads:
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                yield f"{name} loads {address}"
        for address in [*page.links, *page.loads]:
            parts = urlsplit(address)
            if parts.scheme or address.startswith(("//", "/")):
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = found / "index.html" if found.is_dir() else found
            if not found.is_file():
                yield f"{name} leads to {address}, which is not there"
            elif parts.fragment and found in pages and unquote(parts.fragment) not in pages[found].anchors:
                yield f"{name} leads to {address}, an anchor that is not there"
    for path in site.rglob("*.css"):
        for address in re.findall(r"url\([\"']?(https?:[^)\"']*)", path.read_text()):
            yield f"{path.relative_to(site).as_posix()} loads {address}"


def misspelt() -> str:
    """What codespell finds in the pages, one a line."""
    pages = [str(path) for path in [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]]
    command = [sys.executable, "-m", "codespell_lib", "-L", NOT_MISSPELT, *pages]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def run_blocks() -> None:
    """Run all that the pages show: code blocks and the notebook, plans and diagrams, commands.

    Raises:
        SystemExit: if one fails.
    """
    blocks = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow or not slow", *SHOWN]
    for words in (blocks, [sys.executable, str(DOCS / "make_screens.py")]):
        done = subprocess.run(words, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{' '.join(words[1:])}: what a page shows does not run")


def main() -> None:
    """Build the book and check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages-only", action="store_true", help="run none of what the pages show")
    if not parser.parse_args().pages_only:
        run_blocks()
    gather()
    build()
    search_from_disk()
    accessible()
    wrong = [*faults(SITE), *misspelt().splitlines()]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(list(SITE.rglob('*.html')))} pages: open {(SITE / 'index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
