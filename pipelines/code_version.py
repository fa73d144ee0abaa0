"""Which code and which libraries made something."""

import os
import platform
from importlib.metadata import PackageNotFoundError, distributions, version

import cv2

from pipelines.commit import commit_tags

_VERSIONS = ("torch", "torchvision", "ray", "mlflow", "numpy", "rtnet")


def code_tags() -> dict[str, str]:
    """The code's commit, where it is known, and the main libraries' versions, as a tracked run's tags."""
    versions = {f"version.{package}": _version(package) for package in _VERSIONS}
    return {**commit_tags(), **versions, "version.opencv": cv2.__version__}  # its packages have several names


def code_commit() -> str:
    """The commit of this code, `-changed` behind it where files differ from it; empty where it is not known."""
    found = commit_tags()
    changed = "-changed" if found.get("code.changed") == "true" else ""
    return found.get("mlflow.source.git.commit", "") + changed


def environment() -> str:
    """Python, platform and every installed package with its version, one a line."""
    packages = sorted({f"{each.metadata['Name']}=={each.version}" for each in distributions()}, key=str.lower)
    machine = f"{platform.platform()}, {os.cpu_count()} processors"
    return "\n".join([f"# Python {platform.python_version()}, {machine}", *packages, ""])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # such as ours, where a job carries the code
        return "not installed"
