"""Checks of what is installed: versions that are known to break each other, and what optional parts need."""

from __future__ import annotations

import re
import shutil
import sys
from importlib import metadata

from packaging.requirements import Requirement

from clipcap.doctor.finding import Check, Finding

PACKAGE = "clipcap-pipeline"
_REINSTALL = "install the project again into a new virtual environment (README)"


def python() -> Finding:
    """img2dataset imports imghdr, which Python 3.13 has no more."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", version)
    return Finding("python", "broken", f"{version}; 3.11 or 3.12 is needed", "make the environment with Python 3.12")


def versions() -> Finding:
    """Every requirement of the project, extras aside, against what is installed."""
    wrong, names = [], []
    for text in metadata.requires(PACKAGE) or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "nothing"
        if version == "nothing" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (needs {requirement.specifier or 'any'})")
            names.append(f"'{requirement.name}{requirement.specifier}'")
    if not wrong:
        return Finding("versions", "ok", "all in their ranges")
    return Finding("versions", "broken", "; ".join(wrong), f"pip install {' '.join(names)}")


def dataclasses_backport() -> Finding:
    """img2dataset asks for it; Prefect's own server imports it instead of the standard library, and dies."""
    try:
        version = metadata.version("dataclasses")
    except metadata.PackageNotFoundError:
        return Finding("dataclasses", "ok", "the backport is not installed")
    return Finding(
        "dataclasses", "broken", f"the obsolete backport {version} is installed: Prefect's server cannot start",
        "pip uninstall -y dataclasses",
    )  # fmt: skip


def torch_and_torchvision() -> Finding:
    """torchvision beside a torch of another build has no compiled operators; open_clip must load all the same."""
    import clipcap  # noqa: F401  its initialiser mends what can be mended

    try:
        import open_clip
        import torch
        import torchvision
    except Exception as error:
        text = str(error).partition("\n")[0]
        return Finding("torchvision", "broken", f"open_clip cannot be imported: {text}", _REINSTALL)
    shown = f"torch {torch.__version__}, torchvision {torchvision.__version__}, open_clip {open_clip.__version__}"
    return Finding("torchvision", "ok", shown)


def java() -> Finding:
    """METEOR and SPICE alone need it."""
    from clipcap.metrics import java as java_metrics

    mend = "only for METEOR and SPICE: install a Java runtime and pip install 'clipcap-pipeline[java-metrics]'"
    try:
        java_metrics.check_java_metrics(java_metrics.JAVA_METRICS)
    except Exception as error:
        return Finding("java", "warning", str(error), mend)
    return Finding("java", "ok", shutil.which("java") or "in JAVA_HOME")


def extras() -> Finding:
    """Optional packages by the extra that brings them; one that is half there is said."""
    found: dict[str, list[bool]] = {}
    for text in metadata.requires(PACKAGE) or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        name = Requirement(text).name
        if extra and name != PACKAGE and not extra[1].startswith("test"):
            found.setdefault(extra[1], []).append(_is_installed(name))
    half = sorted(name for name, there in found.items() if any(there) and not all(there))
    whole = ", ".join(sorted(name for name, there in found.items() if all(there))) or "none"
    if half:
        mend = f"pip install '{PACKAGE}[{','.join(half)}]'"
        return Finding("extras", "warning", f"complete: {whole}; incomplete: {', '.join(half)}", mend)
    return Finding("extras", "ok", whole)


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


INSTALLATION: list[tuple[str, Check]] = [
    ("python", python), ("versions", versions), ("dataclasses", dataclasses_backport),
    ("torchvision", torch_and_torchvision), ("java", java), ("extras", extras),
]  # fmt: skip
