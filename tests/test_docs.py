"""What the documents say is true: commands run, pages are generated, links lead somewhere, nothing is left out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from coatcheck.cli.reference import commands, pages
from coatcheck.config import Config
from coatcheck.config_columns import ColumnConfig
from coatcheck.config_file import write_default
from coatcheck.config_load import load
from coatcheck.demo.samples import sample_logins
from coatcheck.demo.servers import PostgresServer, SqsServer
from coatcheck.pipeline.message import REASONS, Reason

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]

AWSLOCAL = """#!{python}
import json, os, sys
import boto3
service, action, *options = sys.argv[1:]
assert (service, action) == ("sqs", "receive-message"), sys.argv
given = dict(zip(options[::2], options[1::2]))
client = boto3.client("sqs", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
answer = client.receive_message(
    QueueUrl=given["--queue-url"], VisibilityTimeout=int(given["--visibility-timeout"]))
print(json.dumps(answer["Messages"]))
"""


def console(section: str) -> list[str]:
    """The `$ ` lines of the console block that follows a heading."""
    block = README.split(section, 1)[1].split("```console\n", 1)[1].split("```", 1)[0]
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def without_figures(line: str) -> str:
    """What stays the same from run to run: no numbers, no tokens, no rulers, no padding."""
    line = re.sub(r"pt1_[a-z]+_k1_[0-9a-f]{40}", "TOKEN", line)
    line = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "DATE", line)
    return re.sub(r"[0-9]+(\.[0-9]+)? s\b|\([0-9,]+/s\)", "N", line).rstrip()


@pytest.fixture(scope="module")
def demo() -> str:
    done = subprocess.run([BIN / "coatcheck", "demo"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_shows_what_the_demo_prints(demo: str) -> None:
    printed = {without_figures(line) for line in demo.splitlines()}
    block = README.split("$ make demo\n", 1)[1].split("```", 1)[0]
    shown = [line for line in block.splitlines() if line and line != "..." and not line.startswith(" pt1_")]
    assert len(shown) > 10
    for line in shown:
        assert without_figures(line) in printed, line


def test_the_first_command_stands_on_the_first_screen() -> None:
    assert "$ make demo" in "\n".join(README.splitlines()[:12])


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[SqsServer, PostgresServer]]:
    with SqsServer() as sqs, PostgresServer() as postgres:
        yield sqs, postgres


def environment(folder: Path) -> dict[str, str]:
    """A clean environment whose PATH knows coatcheck, psql and a stand-in for awslocal."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "awslocal").write_text(AWSLOCAL.format(python=sys.executable))
    (programs / "awslocal").chmod(0o755)
    foreign = ("AWS_", "COATCHECK_", "PG", "DATABASE_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PATH": f"{programs}:{BIN}:{os.environ['PATH']}", "LC_ALL": "C"}


def test_the_exercise_step_by_step(servers: tuple[SqsServer, PostgresServer], tmp_path: Path) -> None:
    """Every command of the walk-through runs, against the embedded servers instead of the compose file's."""
    sqs, postgres = servers
    env = environment(tmp_path)
    psql = postgres.psql_command().split()[0].strip("'\"")
    (tmp_path / "bin" / "psql").symlink_to(psql)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = []
    for line in console("## The exercise, step by step"):
        if line.startswith("docker "):
            continue
        there = line.replace("http://localhost:4566", sqs.url)
        script.append(there.replace("postgresql://postgres:postgres@localhost:5432/postgres", postgres.dsn))
    assert len(script) >= 10
    done = subprocess.run(
        ["bash", "-euxc", "\n".join(script)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    samples = sample_logins()
    assert f"sent {len(samples.bodies)} messages" in done.stdout
    assert '"Body"' in done.stdout
    assert f"{samples.good} loaded" in done.stdout
    for reason in samples.rejected:
        assert reason in done.stdout


def test_the_commands_about_keys_run_in_their_order(servers: tuple[SqsServer, PostgresServer], tmp_path: Path) -> None:
    _, postgres = servers
    postgres.psql("-c", "CREATE DATABASE of_keys")
    dsn = urlunsplit(urlsplit(postgres.dsn)._replace(path="/of_keys"))
    env = environment(tmp_path) | {"DATABASE_URL": dsn}
    lines = [line.split("#")[0].strip() for line in console("## Keys")]
    script = [lines[0], "coatcheck migrate", *lines[1:]]
    assert len(script) >= 7
    done = subprocess.run(
        ["bash", "-euxc", "\n".join(script)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "k1 is retired" in done.stdout


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    match = re.search(r"`(from coatcheck import Tokenizer)`, then\n`(Tokenizer[^`]*)`", README)
    assert match is not None
    script = f"coatcheck init --keys && python -c '{match[1]}; print({match[2]})'"
    done = subprocess.run(
        ["bash", "-euxc", script], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert re.search(r"^pt1_ip_k1_[0-9a-f]{40}$", done.stdout, re.MULTILINE), done.stdout + done.stderr


def test_the_commands_of_the_readme_exist() -> None:
    known = {name for name, _ in commands()}
    for line in [*console("## Use it"), *console("## Keys")]:
        if line.startswith("coatcheck"):
            words = line.split("#")[0].split()
            name = " ".join(words[: 3 if words[1] in ("quarantine", "keys") else 2])
            assert name in known, line


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)`|^\s+make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert (target[0] or target[1]) in targets, (path.name, target)


def test_the_reference_pages_are_up_to_date() -> None:
    for name, text in pages().items():
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"


def test_every_command_and_option_is_documented_and_has_help() -> None:
    page = pages()["cli.md"]
    for name, command in commands():
        assert f"## {name}\n" in page
        assert command.help, name
        for parameter in command.params:
            record = parameter.to_info_dict()
            if record["param_type_name"] == "option" and not record["hidden"]:
                assert record["help"], f"{name} {parameter.name}"


def test_every_configuration_option_is_described() -> None:
    page = pages()["configuration.md"]
    for section, field in Config.model_fields.items():
        assert field.description, section
        inner = getattr(field.annotation, "model_fields", {})
        for name, option in inner.items():
            assert option.description, f"{section}.{name}"
            assert f"`COATCHECK_{section.upper()}__{name.upper()}`" in page
    for name, option in ColumnConfig.model_fields.items():
        assert option.description, f"columns: {name}"


def test_every_reject_reason_is_documented() -> None:
    assert set(REASONS) == set(Reason)
    page = pages()["reject-reasons.md"]
    for reason in Reason:
        assert f"| `{reason}` |" in page


def test_the_file_that_init_writes_is_the_built_in_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built_in = load().plan()
    write_default(tmp_path / "coatcheck.toml")
    assert load().plan() == built_in


def test_the_example_is_what_the_demo_sends() -> None:
    lines = (ROOT / "examples" / "logins.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == sample_logins().bodies


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
