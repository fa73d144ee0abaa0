"""Whether this Python has what the code needs: a job carries its code, and runs with the cluster's Python and packages.

Imports nothing but the standard library, as it is to say what else is missing.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rtnet.errors import UserError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OLDEST_PYTHON = (3, 11)

_HERE = Path(__file__).resolve().parents[1]


def check_packages(folder: Path = _HERE) -> None:
    """UserError naming what is missing or of the wrong version; says which versions the code was not tested with.

    folder: of pyproject.toml and constraints.txt, as a checkout and a job's own folder have them. Where they are not
    there the code was installed, and with it what it needs.
    """
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise UserError(f"{sys.executable} is Python {sys.version.split()[0]}, and this code needs {oldest} or newer")
    if not (folder / "pyproject.toml").is_file():
        return
    try:
        needed, pinned = _needed(folder), _pinned(folder)
    except ImportError as error:
        raise UserError(_lacks([str(error)])) from error
    wrong, other = [], []
    for requirement in needed:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"no {requirement}")
            continue
        pin = pinned.get(requirement.name)
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} instead of {requirement.specifier}")
        elif pin is not None and not pin.specifier.contains(found, prereleases=True):
            other.append(f"{requirement.name} {found}, not {str(pin.specifier).lstrip('=')}")
    if wrong:
        raise UserError(_lacks(wrong))
    if other:
        print(f"note: not the versions that this code was tested with: {'; '.join(other)}", flush=True)


def _lacks(what: list[str]) -> str:
    return (
        f"{sys.executable} has not what this code needs ({'; '.join(what)}): give the cluster's nodes the image of "
        "cluster/, or install there what pyproject.toml asks for, in the versions of constraints.txt"
    )


def _needed(folder: Path) -> "list[Requirement]":
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def _pinned(folder: Path) -> "dict[str, Requirement]":
    from packaging.requirements import Requirement

    file = folder / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {pin.name: pin for pin in found if pin.marker is None or pin.marker.evaluate()}
