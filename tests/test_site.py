"""The documents build as a site without a fault, and each kind of fault is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.site import build, filled, pages, turned
from tests.support.site_links import broken

ROOT = Path(__file__).parents[1]
CONFIG = """
[project]
site_name = "small"
nav = [{ "Start" = ["index.md"] }, { "More" = ["*.md", "deploy/*.md"] }]
theme = { font = false }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of two documents."""
    root = tmp_path / "small"
    (root / "docs").mkdir(parents=True)
    (root / "zensical.toml").write_text(CONFIG)
    (root / "README.md").write_text("# Small\n\nSee [more](docs/more.md#a-place), [code](code.py).\n")
    (root / "code.py").write_text("")
    (root / "docs" / "more.md").write_text("# More\n\n## A place\n\nBack to the [start](../README.md).\n")
    return root


def test_the_documents_build_without_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/coatcheck")
    monkeypatch.setenv("GITHUB_SHA", "0123456")
    site = tmp_path / "site"
    assert build(ROOT, site) == []
    assert {page for page in pages().values() if not (site / _html(page)).exists()} == set()
    alerts = 'href="https://github.com/somebody/coatcheck/blob/0123456/deploy/prometheus/alerts.yml"'
    assert alerts in (site / "index.html").read_text(encoding="utf-8")
    assert "fonts.g" not in "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))


def _html(page: str) -> str:
    folder = re.sub(r"(^|/)(index|README)$", "", page.removesuffix(".md"))
    return f"{folder}/index.html".removeprefix("/")


def test_a_small_one_builds_and_new_pages_fall_into_their_section(small: Path, tmp_path: Path) -> None:
    (small / "docs" / "deploy").mkdir()
    (small / "docs" / "deploy" / "containers.md").write_text("# Containers\n")
    assert build(small, tmp_path / "site") == []
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="./deploy/containers/"' in start
    assert start.index('href="./deploy/"') < start.index('href="./deploy/containers/"')
    assert 'href="more/#a-place"' in start
    assert f'href="{(small / "code.py").as_uri()}?"' in start


def test_zensical_finds_a_place_that_is_not_there(small: Path, tmp_path: Path) -> None:
    (small / "docs" / "more.md").write_text("# More\n\n[nowhere](../README.md#nowhere)\n")
    assert any("anchor does not exist" in line for line in build(small, tmp_path / "site"))


def test_a_link_that_leads_nowhere(small: Path, tmp_path: Path) -> None:
    (small / "docs" / "more.md").write_text("# More\n\n[gone](../gone.py)\n")
    assert build(small, tmp_path / "site") == ["docs/more.md: ../gone.py leads nowhere"]


def test_a_page_that_nobody_finds(small: Path, tmp_path: Path) -> None:
    (small / "docs" / "odd").mkdir()
    (small / "docs" / "odd" / "page.md").write_text("# Odd\n")
    (small / "zensical.toml").write_text(CONFIG.replace('"*.md"', '"more.md"'))
    found = build(small, tmp_path / "site")
    assert found == [f"odd/{name}.md: in no section of nav (zensical.toml)" for name in ("index", "page")]


def test_what_nav_names_is_there_and_there_once() -> None:
    with pytest.raises(ValueError, match=r"gone.md: in nav .*, but there is no such page\na.md: twice in nav"):
        filled([{"A": ["a.md"]}, {"B": ["a.md", "gone.md"]}], {"a.md"})


def test_links_in_code_are_left_alone() -> None:
    text = "```\n[x](docs/faults.md)\n```\n[x](docs/faults.md)"
    expected = "```\n[x](docs/faults.md)\n```\n[x](../faults.md)"
    assert turned(text, "SECURITY.md", pages()) == expected


def test_faults_of_what_was_built(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text('<h1 id="there">x</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="other/#there">fine</a><a href="other/#here">x</a><a href="gone/">x</a><img src="gone.svg">'
        '<a href="https://example.org/">fine</a><script src="https://example.org/a.js"></script><p>text\n* item</p>'
    )
    assert broken(tmp_path) == [
        "index.html: a list without a blank line before it: * item",
        "index.html: no such place: other/#here",
        "index.html: leads nowhere: gone/",
        "index.html: leads nowhere: gone.svg",
        "index.html: loads from elsewhere: https://example.org/a.js",
    ]
