"""Makes what compose.yaml needs and git does not track: python3 cluster/local/set_up.py

.env (who owns the data), secrets/ (which you alone can enter) and data/ with the bucket `rtnet`. What is there already
stays as it is. Python alone is enough.
"""

import argparse
import os
import secrets
import shlex
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_IMAGE_USER = 1000  # for whoever is root: nothing in the containers is


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        _set_up()
    except PermissionError as error:
        sys.exit(f"{error.filename} is another user's: set up as that user, or remove what they made")


def _set_up() -> None:
    owner = (os.getuid(), os.getgid()) if os.getuid() else (_IMAGE_USER, _IMAGE_USER)
    folder = HERE / "secrets"
    if not folder.exists():
        _write_secrets(folder)
    elif lacking := sorted(_files().keys() - {file.name for file in folder.iterdir()}):
        sys.exit(f"{folder} lacks {', '.join(lacking)}: restore it, or remove the folder and data/ to begin anew")
    if not (HERE / ".env").exists():
        (HERE / ".env").write_text(f"OWNER={owner[0]}:{owner[1]}\n")
    for kept in ("data", "data/postgres", "data/s3", "data/s3/rtnet", "data/sources"):  # a folder in s3 is a bucket
        (HERE / kept).mkdir(mode=0o755 if kept in ("data", "data/sources") else 0o700, exist_ok=True)
        os.chown(HERE / kept, *owner)
    print(
        f"{folder} is ready; for commands on this machine: set -a; . {shlex.quote(str(folder / 'client.env'))}; set +a"
    )


def _files() -> dict[str, str]:
    """Each service's secrets alone, by the names that it reads."""
    key, secret, postgres, job, admin = (secrets.token_hex(size) for size in (10, 20, 20, 20, 20))
    bucket = f"AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\nAWS_DEFAULT_REGION=us-east-1\n"
    user = f"MLFLOW_TRACKING_USERNAME=rtnet\nMLFLOW_TRACKING_PASSWORD={job}\n"
    return {
        "ray_token": secrets.token_hex(32),
        "postgres_password": postgres,
        "bucket.env": bucket,
        "bucket-root.env": f"ROOT_ACCESS_KEY_ID={key}\nROOT_SECRET_ACCESS_KEY={secret}\n",
        "mlflow-user.env": user,
        "mlflow-server.env": f"PGPASSWORD={postgres}\nMLFLOW_AUTH_ADMIN_PASSWORD={admin}\n"
        f"MLFLOW_FLASK_SERVER_SECRET_KEY={secrets.token_hex(32)}\n",
        "client.env": f"{user}{bucket}AWS_ENDPOINT_URL=http://127.0.0.1:7070\n"
        "MLFLOW_TRACKING_URI=http://127.0.0.1:5000\nRAY_API_SERVER_ADDRESS=http://127.0.0.1:8265\n"
        f"RAY_AUTH_MODE=token\nRAY_AUTH_TOKEN_PATH={shlex.quote(str(HERE / 'secrets' / 'ray_token'))}\n",
    }


def _write_secrets(folder: Path) -> None:
    """All or none: they belong together."""
    aside = folder.with_name("secrets.part")
    shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
    aside.mkdir(mode=0o700)
    for name, content in _files().items():
        (aside / name).write_text(content)
        # Others can't enter the folder; a container's user is another than you, and has to read the file.
        (aside / name).chmod(0o644)
    aside.rename(folder)


if __name__ == "__main__":
    main()
