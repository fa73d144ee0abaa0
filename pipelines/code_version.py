"""Which code and which libraries made something."""

import os
import platform
import subprocess
from importlib.metadata import distributions, version
from pathlib import Path

_VERSIONS = ("torch", "torchvision", "ray", "mlflow", "numpy", "opencv-python-headless", "rtnet")


def code_tags() -> dict[str, str]:
    """The code's commit, where it is known, and the main libraries' versions, as a tracked run's tags."""
    return {**_commit(), **{f"version.{package}": version(package) for package in _VERSIONS}}


def code_commit() -> str:
    """The commit of this code, `-changed` behind it where files differ from it; empty where it is not known."""
    found = _commit()
    changed = "-changed" if found.get("code.changed") == "true" else ""
    return found.get("mlflow.source.git.commit", "") + changed


def environment() -> str:
    """Python, platform and every installed package with its version, one a line."""
    packages = sorted({f"{each.metadata['Name']}=={each.version}" for each in distributions()}, key=str.lower)
    machine = f"{platform.platform()}, {os.cpu_count()} processors"
    return "\n".join([f"# Python {platform.python_version()}, {machine}", *packages, ""])


def _commit() -> dict[str, str]:
    """The commit of this code, where it lies in a git work tree of its own and not installed within another's."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "code.changed": str(bool(changed)).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {}
