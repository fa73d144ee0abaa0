"""No file in cluster/ holds a secret; what one machine needs is made once, and who makes users says what is wrong."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.manifests import CLUSTER, COMPOSE, ROOT, SERVICES, load


def test_no_file_holds_a_secret() -> None:
    looks = re.compile(
        r"(?i)(?:password|secret|token|access_key)\w*[\"']?\s*[:=]\s*[\"']?(?=[^\s\"']*\d)[a-z0-9+_-]{12,}|"
        r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|-----BEGIN"
    )
    for file in [*_tracked(CLUSTER), ROOT / ".dockerignore"]:
        assert not (found := looks.search(file.read_text())), f"{file}: {found[0] if found else ''}"


def test_the_secrets_of_one_machine_are_made_once_and_not_tracked(tmp_path: Path) -> None:
    script = Path(shutil.copy(CLUSTER / "local" / "set_up.py", tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, script], check=True, capture_output=True)
        made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data/s3/rtnet").is_dir()
    needed = {name.removeprefix("secrets/") for one in SERVICES.values() for name in one.get("env_file", [])}
    needed |= {one["file"].removeprefix("secrets/") for one in load(COMPOSE)["secrets"].values()}
    assert needed | {"client.env"} == made.keys()
    token = made["ray_token"]
    assert len(token) == 64 and not any(token in text for name, text in made.items() if name != "ray_token")
    for path in (".env", "secrets/ray_token", "secrets.part/x", "data/s3/rtnet/x"):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", CLUSTER / "local" / path], cwd=ROOT)
        assert ignored.returncode in (0, 128), path  # 128: no git here


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give a folder away")
def test_secrets_that_are_somebody_elses_are_told_in_one_line(tmp_path: Path) -> None:
    script = shutil.copy(CLUSTER / "local" / "set_up.py", tmp_path)
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    os.chown(tmp_path / "secrets", 65534, 65534)
    like_anybody = ["setpriv", "--bounding-set=-all"]  # root's own files, and no right to others'
    done = subprocess.run([*like_anybody, sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tmp_path}/secrets is another user's")


def _tracked(folder: Path) -> list[Path]:
    made = {"secrets", "data", ".env", "__pycache__"}
    return [file for file in folder.rglob("*") if file.is_file() and not made & set(file.relative_to(folder).parts)]


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_PASSWORD: set"),
        ("", "no MLflow server answers at http://127.0.0.1:9"),
    ],
)
def test_who_makes_mlflows_user_says_in_one_line_what_is_wrong(lacks: str, says: str) -> None:
    given = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    environment = {name: "x" * 12 for name in given if name != lacks} | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    script = [sys.executable, str(CLUSTER / "mlflow" / "add_user.py")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(says) and "xxxx" not in line
