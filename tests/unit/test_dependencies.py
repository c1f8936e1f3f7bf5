"""The lock files, and what is said of an audit of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.dependency_audit import told

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def pins(name: str) -> dict[str, str]:
    """Return package -> its pin and hashes."""
    text = (REQUIREMENTS / name).read_text()
    return {re.split("==", one)[0]: one for one in re.split(r"\n(?=\S)", text.strip())}


def test_an_installation_holds_what_the_tests_have_seen() -> None:
    """Markers apart: the larger lock may want a package in more places."""
    runtime, image, dev = (
        {package: re.sub(r" ;[^\\\n]*", "", pin) for package, pin in pins(name).items()}
        for name in ("runtime.lock", "runtime-otel.lock", "dev.lock")
    )
    assert runtime.items() < image.items() <= dev.items()


@pytest.mark.parametrize("name", sorted(path.name for path in REQUIREMENTS.glob("*.lock")))
def test_every_pin_has_its_hashes(name: str) -> None:
    assert all("--hash=sha256:" in pin for pin in pins(name).values())


SOUND = {"name": "a", "version": "1", "vulns": []}
BROKEN = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "lines", "fine"),
    [
        ([SOUND], ["x: nothing known against 1 packages"], True),
        ([SOUND, UNKNOWN], ["x: nothing known against 1 packages, 1 could not be asked for"], True),
        ([UNKNOWN], ["x: skipped (the advisories cannot be reached from here)"], True),
        ([SOUND, BROKEN], ["x: b 2: CVE-1, mended in 3"], False),
    ],
)
def test_what_is_said(packages: list[dict[str, object]], lines: list[str], *, fine: bool) -> None:
    assert told({"dependencies": packages}, "x") == (lines, fine)
