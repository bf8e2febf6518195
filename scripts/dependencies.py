"""What is installed, exactly: a lock with hashes, an audit, the licences. ``make lock audit sbom licences`` call it.

The lock holds every package of the default run, the tests and buckets, for ``pip install --no-deps --require-hashes``:
without resolving, because one wish must not be granted. img2dataset asks for the backport ``dataclasses``, which
shadows the standard library's module.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, LICENCES = ROOT / "requirements.lock", ROOT / "docs" / "licences.md"
LEFT_OUT = {"dataclasses", "clipcap-pipeline"}  # the latter asks for extras of its own
HEADER = """\
# Every package with the hashes of its files, made by `make lock` from pyproject.toml and constraints.txt.
#
#   pip install --no-deps --require-hashes -r requirements.lock && pip install --no-deps .
#
# torch and torchvision are those for CPUs. Where pip's index has them for GPUs only, name one that has the others
# (PIP_EXTRA_INDEX_URL); a machine with a GPU installs with constraints.txt instead.
"""


def lock(tools: Path) -> int:
    """Writes requirements.lock with pip-compile."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "requirements.txt"
        quiet = ("header", "annotate", "emit-index-url", "emit-trusted-host", "emit-find-links", "emit-options")
        subprocess.run(
            [tools / "pip-compile", "--quiet", "--generate-hashes", "--allow-unsafe", "--strip-extras",
             *(f"--no-{name}" for name in quiet), "--extra", "test", "--extra", "s3",
             "--constraint", "constraints.txt", "--output-file", raw, "pyproject.toml"],
            cwd=ROOT, check=True,
        )  # fmt: skip
        LOCK.write_text(HEADER + "\n" + cleaned(raw.read_text()))
    print(f"{LOCK.name}: {len(re.findall('^[A-Za-z0-9]', LOCK.read_text(), re.MULTILINE))} packages")
    return 0


def cleaned(text: str) -> str:
    """Without what is left out, comments, and the mark of a local build in a version ("2.13.0+cpu")."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    kept = [b.strip("\n") for b in blocks if re.split(r"[=\[ ]", b.strip())[0] not in {*LEFT_OUT, ""}]
    return "\n".join(re.sub(r"^([^=\s]+==[^+\s]+)\+\w+", r"\1", block) for block in kept) + "\n"


def audit(tools: Path) -> int:
    """Asks for known vulnerabilities of what the lock names.

    Returns:
        0 where none is known, 1 where some are, 2 where nobody could be asked about all of them.
    """
    if not LOCK.exists():
        print("audit: there is no requirements.lock; `make lock` writes it", file=sys.stderr)
        return 2
    command = [tools / "pip-audit", "--requirement", LOCK, "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    found = subprocess.run([*command, "--format", "json", "--timeout", "15"], capture_output=True, text=True)
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (found.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        print(f"audit: the vulnerability service cannot be reached from here, NOTHING was checked ({reason}); "
              "run `make audit` on a machine that reaches it", file=sys.stderr)  # fmt: skip
        return 2
    # A service that knows none of the packages answers, too, and pip-audit calls that clean.
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    known = [(package, flaw) for package in packages for flaw in package.get("vulns", [])]
    for package, flaw in known:
        mended = ", ".join(flaw.get("fix_versions", [])) or "no version"
        print(f"{package['name']} {package['version']}: {flaw['id']}, mended in {mended}")
    checked = len(packages) - len(skipped)
    print(f"audit: {checked} of {len(packages)} packages were checked, {len(known)} known vulnerabilities")
    if skipped:
        print(f"audit: NOT checked, because the service does not know them: {', '.join(skipped)}", file=sys.stderr)
    return 1 if known else 2 if skipped else 0


def licences(tools: Path) -> int:
    """Writes docs/licences.md: direct dependencies and what their own metadata says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    rows = ["| package | licence, by its own metadata | for |", "| --- | --- | --- |"]
    for extra, wishes in groups.items():
        for name in sorted((re.split(r"[^A-Za-z0-9_.-]", wish)[0] for wish in wishes), key=str.lower):
            if name != project["name"]:
                rows.append(f"| {name} | {licence(name)} | {extra or 'every run'} |")
    LICENCES.write_text(
        "# Licences\n\nDirect dependencies, written by `make licences`; `make sbom` lists every package that is "
        "installed.\nclipcap itself is MIT, see LICENSE and NOTICE.\n\n" + "\n".join(rows) + "\n"
    )
    print(f"{LICENCES.relative_to(ROOT)}: {len(rows) - 2} packages")
    return 0


def licence(name: str) -> str:
    """Expression, else classifiers, else the first line of the free text."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    classifiers = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith("License :: ")]
    text = (told.get("License") or "").strip().splitlines()
    free = text[0][:60] if text and text[0] != "UNKNOWN" else "its metadata do not say"
    return told.get("License-Expression") or ", ".join(classifiers) or free


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["lock", "audit", "licences"])
    parser.add_argument("--tools", type=Path, default=Path(sys.executable).parent, help="folder of pip-compile …")
    asked = parser.parse_args(given)
    return {"lock": lock, "audit": audit, "licences": licences}[asked.what](asked.tools)


if __name__ == "__main__":
    sys.exit(main())
