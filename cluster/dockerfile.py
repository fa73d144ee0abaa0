"""As much of the Dockerfile's language as ours uses, for rehearse_image.py and the tests."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_KNOWN = ("FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD")


@dataclass(frozen=True)
class Step:
    """One instruction; `text` is all behind its word, its lines joined as a builder joins them."""

    line: int
    word: str
    text: str

    def pairs(self) -> list[tuple[str, str]]:
        """NAME=VALUE of an ENV or an ARG."""
        return [(name, value) for name, _, value in (part.partition("=") for part in shlex.split(self.text))]


def read_steps(file: Path) -> list[Step]:
    """The instructions in order. Raises ValueError for one that this module does not know."""
    steps, text, begun = [], "", 0
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begun = begun if text else number
        text += line.strip() + " " if not line.endswith("\\") else line[:-1].strip() + " "
        if line.endswith("\\"):
            continue
        word, _, rest = text.strip().partition(" ")
        if word not in _KNOWN:
            raise ValueError(f"{file}, line {begun}: {word} is not one of {', '.join(_KNOWN)}")
        steps.append(Step(begun, word, rest.strip()))
        text = ""
    return steps


def expanded(text: str, values: Mapping[str, str]) -> str:
    """With $NAME and ${NAME} replaced; a name without a value is empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)


def copy_into(root: Path, folder: str, text: str, context: Path) -> None:
    """COPY SOURCE ... TARGET: into a folder where the target ends with a slash, a folder's content else."""
    *sources, target = text.split()
    place = root / os.path.normpath(f"{folder}/{target}").lstrip("/")
    for source in sources:
        whole = context / source
        goal = place / source if target.endswith("/") else place
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            if file.is_file() and is_sent(str(file.relative_to(context)), context / ".dockerignore"):
                copy = goal / file.relative_to(whole) if whole.is_dir() else goal
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)


def is_sent(path: str, ignore: Path) -> bool:
    """Whether a builder gets to see a file of the context: the last line of .dockerignore that speaks of it decides."""
    sent = True
    for line in ignore.read_text().splitlines():
        if (pattern := line.strip()) and not pattern.startswith("#"):
            wanted = pattern.startswith("!")
            if any(re.fullmatch(_regex(pattern.lstrip("!")), part) for part in _prefixes(path)):
                sent = wanted
    return sent


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split("/")
    yield from ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _regex(pattern: str) -> str:
    parts = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return "".join(parts.get(word, re.escape(word)) for word in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern))
