"""Makes MLflow's user for jobs, who may write runs and models but no users: python3 cluster/mlflow/add_user.py

Reads MLFLOW_TRACKING_URI, MLFLOW_AUTH_ADMIN_PASSWORD, and MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD, whom
it makes; does nothing where there is such a user. Python alone is enough.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request


def main() -> str | None:
    """What is wrong, in one line; None where the user is there."""
    wanted = (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    )
    if missing := [name for name in wanted if not os.environ.get(name)]:
        return f"{', '.join(missing)}: set, and exported"
    server, admin, name, password = (os.environ[name] for name in wanted)
    request = urllib.request.Request(
        f"{server.rstrip('/')}/api/2.0/mlflow/users/create",
        json.dumps({"username": name, "password": password}).encode(),
        {"Content-Type": "application/json", "Authorization": _basic("admin", admin)},
    )
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        if "RESOURCE_ALREADY_EXISTS" not in said:
            return f"MLflow at {server} does not make the user '{name}' (status {error.code}): {said[:200]}"
        print(f"MLflow at {server} has the user '{name}' already")
    except OSError as error:
        return f"no MLflow server answers at {server} ({error})"
    else:
        print(f"MLflow at {server} has the user '{name}' now")
    return None


def _basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


if __name__ == "__main__":
    sys.exit(main())
