"""What runs on GitHub: workflows, Dependabot, pre-commit. Linters find nothing, and what is named there exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.fix_versions import OLDEST
from tests.support.tool_environment import environment

ROOT = Path(__file__).parents[1]
FORGE = ROOT / ".github"
WORKFLOWS = sorted((FORGE / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = [path.name for path in WORKFLOWS]


def run(*command: str | Path, cwd: Path = ROOT) -> tuple[int, str]:
    """Run a program of the environment `forge`; return its exit code and all that it says."""
    program, *arguments = command
    done = subprocess.run(
        [environment("forge") / program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def text(name: str) -> str:
    return (FORGE / "workflows" / name).read_text(encoding="utf-8")


def lint(*arguments: str | Path) -> tuple[int, str]:
    return run("jactionlint", "--strict-exit", f"--shellcheck={environment('forge') / 'shellcheck'}", *arguments)


def audit(*arguments: str | Path) -> tuple[int, str]:
    return run("zizmor", "--offline", "--no-progress", "--persona=pedantic", *arguments)


LINTERS: dict[str, Callable[[], tuple[int, str]]] = {
    "jactionlint": lint,
    "zizmor": lambda: audit("."),
    "workflow schema": lambda: run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS),
    "dependabot schema": lambda: run(
        "check-jsonschema", "--builtin-schema", "vendor.dependabot", FORGE / "dependabot.yml"
    ),
    "forms schema": lambda: run(
        "check-jsonschema",
        "--builtin-schema",
        "vendor.github-issue-forms",
        *(form for form in (FORGE / "ISSUE_TEMPLATE").glob("*.yml") if form.stem != "config"),
    ),
    "pre-commit": lambda: run("pre-commit", "validate-config"),
}


@pytest.mark.parametrize("name", LINTERS)
def test_linters_find_nothing(name: str) -> None:
    code, said = LINTERS[name]()
    assert code == 0, said


FAULTS = {
    "an unknown key": ("    runs-on:", "    runs_on:", lint, "runs_on"),
    "a job that is not there": ("    needs: build", "    needs: built", lint, "built"),
    "an output that is not there": ("steps.publish.outputs", "steps.published.outputs", lint, "published"),
    "a shell fault": ("- run: make site", "- run: cd $HOME && make site", lint, "SC2086"),
    "a tag instead of a commit": (r"@[0-9a-f]{40} # v", "@v", audit, "unpinned-uses"),
    "credentials that stay": (r" +with:\n +persist-credentials: false\n", "", audit, "artipacked"),
    "what others write in a script": ("run: make site", 'run: echo "${{ github.head_ref }}"', audit, "injection"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_linters_find_faults(name: str, tmp_path: Path) -> None:
    wrong, instead, linter, said = FAULTS[name]
    broken = tmp_path / "pages.yml"
    changed, times = re.subn(wrong, instead.replace("\\", r"\\"), text("pages.yml"))
    assert times
    broken.write_text(changed)
    code, output = linter(broken)
    assert code
    assert said in output


def used() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"\s*(?:- )?uses: (.*)", line):
                yield path.name, match[1]


def test_every_action_is_a_commit_with_its_version_beside_it() -> None:
    pins: dict[str, set[str]] = {}
    for name, use in used():
        if not use.startswith("./"):
            match = re.fullmatch(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", use)
            assert match, (name, use)
            pins.setdefault(match[1], set()).add(match[2])
    assert len(pins) >= 10
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_allowed_that_no_job_asks_for(name: str) -> None:
    assert "\npermissions: {}\n" in text(name)
    jobs = re.split(r"(?m)^  (?=[a-z]+:$)", text(name).split("\njobs:\n")[1])[1:]
    assert jobs
    for job in jobs:
        assert "    permissions:\n" in job, job
        assert "    timeout-minutes: " in job or "    uses: ./" in job, job


def paths(workflow: str) -> Iterator[str]:
    """Every path of ours that a workflow names: in a filter, a step, or a script."""
    ours = r"(\.github|benchmarks|deploy|docs|requirements|src|tests)(/.*)?|Dockerfile|pyproject\.toml|zensical\.toml"
    for word in re.findall(r"[\w.*/-]+", re.sub(r"#.*|uses: [^.].*", "", workflow)):
        if re.fullmatch(ours, word):
            yield word


@pytest.mark.parametrize("name", NAMES)
def test_what_a_workflow_names_is_there(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for words in re.findall(r"(?:run: |^ {10,}|&& )make ([a-z -]+)", text(name), re.MULTILINE):
        assert set(words.split()) <= targets, words
    for module in re.findall(r"python3 -m ([\w.]+)", text(name)):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for path in paths(text(name)):
        assert list(ROOT.glob(path.rstrip("*/"))), path


def test_the_wheel_is_tested_on_the_versions_that_are_promised() -> None:
    diagonal = re.findall(r'\{ python: "([\d.]+)", postgres: "(\d+)" \}', text("ci.yml"))
    promised = [found.removeprefix("Programming Language :: Python :: ") for found in PROJECT["classifiers"]]
    assert [python for python, _ in diagonal] == [version for version in promised if re.fullmatch(r"\d\.\d+", version)]
    embedded = next(
        re.findall(r"==(\d+)", line)[0] for line in PROJECT["optional-dependencies"]["demo"] if "postgres" in line
    )
    assert [int(postgres) for _, postgres in (diagonal[0], diagonal[-1])] == [OLDEST, int(embedded)]
    assert PROJECT["requires-python"] == f">={diagonal[0][0]}"


def test_hooks_run_what_the_locks_have() -> None:
    for entry in re.findall(r"entry: (\S+)", HOOKS):
        folder, program = Path(entry).parent, Path(entry).name
        assert str(folder) in (".venv/bin", ".venvs/forge/bin"), entry
        there = environment("forge") if "forge" in entry else ROOT / ".venv" / "bin"
        assert (there / program).exists(), entry
    for module in re.findall(r"entry: \S+/python -m (\S+)", HOOKS):
        assert module in MAKEFILE, f"{module}: make check does not ask for it"


@pytest.mark.parametrize(
    ("ecosystem", "file"),
    [("github-actions", ".github/workflows/ci.yml"), ("docker", "Dockerfile"), ("docker-compose", "compose.yaml")],
)
def test_dependabot_looks_where_something_is(ecosystem: str, file: str) -> None:
    assert f"package-ecosystem: {ecosystem}\n    directory: /\n" in (FORGE / "dependabot.yml").read_text(
        encoding="utf-8"
    )
    assert (ROOT / file).exists(), file
