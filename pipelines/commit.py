"""Which commit this code is of, also where a job carries it without its repository."""

import json
import subprocess
from pathlib import Path

CARRIED = "commit.json"


def commit_tags() -> dict[str, str]:
    """MLflow's tags of the commit and of whether files were changed since; empty where the code is under no git.

    Asks the work tree that has this file among its own, so not another's in which the package is installed.
    """
    here = Path(__file__).resolve()
    carried = here.parents[1] / CARRIED
    if carried.is_file():
        return dict(json.loads(carried.read_bytes()))

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "code.changed": str(bool(changed)).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {}
