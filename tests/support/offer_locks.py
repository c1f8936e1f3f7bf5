"""Offers lock files that `make lock UPGRADE=--upgrade` has changed as a pull request (`.github/workflows/locks.yml`).

The branch `locks` is made anew each time, so there is one open request at most. A request made by a workflow starts no
other workflow by itself, so the checks are asked for. Standard library only; needs git and gh.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BRANCH = "locks"
TITLE = "Newer versions in the locks"
BODY = "`make lock UPGRADE=--upgrade`, versions that are a week old at least."
AUTHOR = ("-c", "user.name=github-actions[bot]", "-c", "user.email=github-actions[bot]@users.noreply.github.com")


def said(root: Path, *command: str) -> str:
    """Return what a command says; raises CalledProcessError if it fails."""
    return subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def offer(root: Path) -> str:
    """Commit, push and ask; return how it went. Raises CalledProcessError."""
    changed = [path for path in said(root, "git", "diff", "--name-only").splitlines() if path.endswith(".lock")]
    if not changed:
        return "nothing newer"
    said(root, "gh", "auth", "setup-git")
    said(root, "git", "switch", "--quiet", "--force-create", BRANCH)
    said(root, "git", *AUTHOR, "commit", "--quiet", "--message", TITLE, "--", *changed)
    said(root, "git", "push", "--quiet", "--force", "origin", BRANCH)
    if not said(root, "gh", "pr", "list", "--head", BRANCH, "--state", "open", "--json", "url", "--jq", ".[].url"):
        said(root, "gh", "pr", "create", "--head", BRANCH, "--title", TITLE, "--body", BODY)
    said(root, "gh", "workflow", "run", "ci.yml", "--ref", BRANCH)
    return f"offered {', '.join(changed)}"


if __name__ == "__main__":
    print(f"locks: {offer(Path.cwd())}")  # noqa: T201 - its one result
    sys.exit(0)
