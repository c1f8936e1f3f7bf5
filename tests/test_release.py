"""A release is refused without its version and a section of the changelog; locks are offered as one request."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support import postgres_packages, wheel
from tests.support.offer_locks import offer
from tests.support.release import main, notes, section

ROOT = Path(__file__).parents[1]
CHANGELOG = """# Changelog

## [Unreleased]

- Not yet.

## [0.2.0] - 2026-12-01

### Added

- [Alerts](deploy/prometheus/alerts.yml), as [agreed](https://example.org/a).

## [0.1.0] - 2026-10-01

## [0.0.1]

- First.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose version is 0.2.0."""
    (tmp_path / "src" / "coatcheck").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "src" / "coatcheck" / "version.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_the_notes_are_the_section_with_links_that_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/coatcheck")
    monkeypatch.setenv("GITHUB_SHA", "0123456")
    alerts = "https://github.com/somebody/coatcheck/blob/0123456/deploy/prometheus/alerts.yml"
    assert notes("v0.2.0", root) == f"### Added\n\n- [Alerts]({alerts}), as [agreed](https://example.org/a).\n"


@pytest.mark.parametrize("tag", ["v0.2.1", "0.2.0", "v0.2.0rc1"])
def test_another_tag_than_the_version_is_refused(root: Path, tag: str) -> None:
    with pytest.raises(ValueError, match=f"^the tag is {tag}, but pyproject.toml has 0.2.0$"):
        notes(tag, root)


def test_a_package_of_another_version_and_a_missing_section_are_told_at_once(root: Path) -> None:
    (root / "src" / "coatcheck" / "version.py").write_text('__version__ = "0.1.0"\n')
    (root / "CHANGELOG.md").write_text(CHANGELOG.replace("[0.2.0]", "[0.2]"))
    with pytest.raises(ValueError, match="has another version") as caught:
        notes("v0.2.0", root)
    assert str(caught.value).splitlines()[1:] == ["CHANGELOG.md: there is no section [0.2.0]"]


@pytest.mark.parametrize(
    ("version", "why"),
    [("0.3.0", "there is no section"), ("0.1.0", "says nothing"), ("0.0.1", "has no date"), ("0.2", "no section")],
)
def test_sections_that_will_not_do(version: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        section(CHANGELOG, version)


def test_the_command_refuses_this_version_before_it_is_released(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["v0.0.0", "--notes", str(tmp_path / "notes.md")]) == 1
    assert "the tag is v0.0.0, but pyproject.toml has" in capsys.readouterr().err
    assert not (tmp_path / "notes.md").exists()


GH = """#!/bin/sh
echo "$@" >> "$GH_SAID"
case "$1 $2" in "pr list") cat "$GH_OPEN";; esac
"""


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one lock and another file; beside it a gh that writes down what it is asked."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    (tmp_path / "open").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("GH_SAID", str(tmp_path / "said"))
    monkeypatch.setenv("GH_OPEN", str(tmp_path / "open"))
    git(tmp_path, "init", "--quiet", "--bare", "origin")
    git(tmp_path, "clone", "--quiet", "origin", "clone")
    folder = tmp_path / "clone"
    for name in ("dev.lock", "README.md"):
        (folder / name).write_text("old\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    git(folder, "push", "--quiet", "origin", "HEAD:main")
    return folder


def test_nothing_is_offered_where_no_lock_has_changed(clone: Path) -> None:
    (clone / "README.md").write_text("new\n")
    assert offer(clone) == "nothing newer"
    assert not (clone.parent / "said").exists()


def test_changed_locks_are_pushed_offered_and_checked(clone: Path) -> None:
    for name in ("dev.lock", "README.md"):
        (clone / name).write_text("new\n")
    assert offer(clone) == "offered dev.lock"
    assert git(clone.parent / "origin", "show", "--format=%an", "--name-only", "locks").split() == [
        "github-actions[bot]",
        "dev.lock",
    ]
    said = (clone.parent / "said").read_text().splitlines()
    assert [line.split(" --")[0] for line in said] == ["auth setup-git", "pr list", "pr create", "workflow run ci.yml"]


def test_an_open_request_is_renewed(clone: Path) -> None:
    (clone / "dev.lock").write_text("new\n")
    offer(clone)
    git(clone, "switch", "--quiet", "main")
    (clone / "dev.lock").write_text("newer\n")
    (clone.parent / "open").write_text("https://example.org/1\n")
    (clone.parent / "said").unlink()
    offer(clone)
    assert git(clone.parent / "origin", "show", "locks:dev.lock") == "newer"
    assert "pr create" not in (clone.parent / "said").read_text()


@pytest.mark.parametrize("offered", [True, False], ids=["offered", "not offered"])
def test_a_postgresql_that_the_distribution_lacks_comes_from_the_project(tmp_path: Path, *, offered: bool) -> None:
    done: list[str] = []

    def do(command: object) -> bool:
        words = [str(word) for word in command] if isinstance(command, list) else []
        done.append(words[-1] if words[0] == "apt-get" else words[0])
        return words[0] != "apt-cache" or offered

    clusters = tmp_path / "createcluster.conf"
    clusters.write_text("#create_main_cluster = true\n")
    assert postgres_packages.install("16", do=do, clusters=clusters)
    assert clusters.read_text() == "create_main_cluster = false\n"
    added = [] if offered else [postgres_packages.ADD_PROJECT]
    assert done == ["update", "ca-certificates", "apt-cache", *added, "postgresql-16"]


def test_a_postgresql_that_cannot_be_had_fails() -> None:
    assert not postgres_packages.install("16", do=lambda _: False)


def test_the_wheel_is_what_is_tested(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would be tested, which is not the wheel's"):
        wheel.told(ROOT / ".venv" / "bin" / "python", dict(os.environ))
    with pytest.raises(FileNotFoundError, match="make setup-postgres POSTGRES=99"):
        wheel.programs("99")
    with pytest.raises(subprocess.CalledProcessError):
        wheel.install(str(shutil.which("false")), tmp_path / "none.whl", tmp_path / "place")
