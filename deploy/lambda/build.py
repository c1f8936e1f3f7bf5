"""Builds the zip file of the Lambda function: coatcheck and what `requirements/runtime.lock` pins (`make lambda`).

    python deploy/lambda/build.py --python 3.13 --arch arm64 --output dist/coatcheck-lambda.zip

The same source gives the same bytes. Lambda takes up to 250 MB unpacked, and 50 MB of zip without going through S3
(AWS Lambda developer guide, "Lambda quotas"); coatcheck has 107 and 46.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "runtime.lock"
PLATFORMS = {"x86_64": "x86_64-manylinux2014", "arm64": "aarch64-manylinux2014"}
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


def fill(folder: Path, *, python: str, arch: str) -> None:
    """Install coatcheck and its dependencies into `folder`. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", name]
        subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        install: list[str | Path] = [
            Path(sys.executable).with_name("uv"),
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder,
        ]
        wanted = ["--only-binary", ":all:", "--python-version", python, "--python-platform", PLATFORMS[arch]]
        subprocess.run([*install, *wanted, "--require-hashes", "-r", LOCK], check=True)
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            wheel.extractall(folder)  # not installed: that would note where the wheel was


def compiled(folder: Path, python: str) -> bool:
    """Compile everything for a Python, so that no cold start has to; return whether that Python is here.

    By hash and unchecked (PEP 552): in a zip file the times of sources mean nothing.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    program = sys.executable if python == ours else shutil.which(f"python{python}")
    if program is None or subprocess.run([program, "-c", "0"], check=False, capture_output=True).returncode:
        return False
    command: list[str | Path] = [
        program,
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        folder,
    ]
    return subprocess.run([*command, folder], check=False).returncode == 0


def pack(folder: Path, target: Path) -> None:
    """Write what is in `folder` as a zip file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            if name.parts[0] == "bin" or name.name in {".lock", "uv_cache.json"}:
                continue
            entry = zipfile.ZipInfo(name.as_posix(), _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, _MODE
            archive.writestr(entry, path.read_bytes())


def main() -> int:
    """Build, and say where it is."""
    parser = argparse.ArgumentParser(description="the zip file of the Lambda function")
    parser.add_argument("--python", default="3.13", help="the function's runtime")
    parser.add_argument("--arch", default="x86_64", choices=sorted(PLATFORMS), help="the function's architecture")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "coatcheck-lambda.zip")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), python=options.python, arch=options.arch)
        ready = compiled(Path(name), options.python)
        pack(Path(name), options.output)
    left = "" if ready else f"; not compiled: no python{options.python} here, a cold start takes longer"
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.0f} MB{left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
