#!/usr/bin/env bash
# What the image must be, tried in it, as its user and without network:
#   docker run --rm --init --network none --volume "$PWD/cluster/check_image.sh:/check.sh:ro" rtnet bash /check.sh
# cluster/rehearse_image.py runs it too. Ends with status 0 where all of it holds.
set -euo pipefail
fail() { echo "not so: $*" >&2; exit 1; }

echo "== an ordinary user, whose code is not its own to change"
id
[ "$(id -u)" = 1000 ] || fail "the user is 1000"
for folder in /opt/rtnet /opt/rtnet/pipelines /opt/venv; do [ ! -w "$folder" ] || fail "$folder is read-only"; done

echo "== the command, and the packages with their bytecode"
rtnet --help | head -n 3
python - <<'PYTHON'
import importlib
from pathlib import Path

for name in "av boto3 cv2 mlflow numpy onnxruntime pipelines.train psycopg pyarrow.fs ray rtnet torch torchvision".split():
    module = importlib.import_module(name)
    compiled = Path(str(module.__cached__))
    assert compiled.is_file(), f"{compiled} is missing: every process would compile {name} anew"
import mlflow, ray, torch

print(f"Ray {ray.__version__}, MLflow {mlflow.__version__}, PyTorch {torch.__version__}")
PYTHON

echo "== a compiler for torch.compile"
python -c 'import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(2)))'

echo "== no Ray without a token"
! timeout 120 ray start --head > /tmp/refused 2>&1 || fail "ray start wants a token"
grep -i -m 1 "no authentication token" /tmp/refused

echo "== Ray with a token, and nobody without"
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
trap 'ray stop > /dev/null 2>&1' EXIT
ray start --head --dashboard-host=127.0.0.1 --num-cpus=1 --object-store-memory=100000000 > /tmp/started
ray job submit --address http://127.0.0.1:8265 -- rtnet --help | grep succeeded
python - <<'PYTHON'
import urllib.error
import urllib.request

try:
    urllib.request.urlopen("http://127.0.0.1:8265/api/jobs/")
    raise SystemExit("not so: the dashboard answers without a token")
except urllib.error.HTTPError as error:
    assert error.code == 401, error
    print("without a token:", error)
PYTHON
echo "== all of it holds"
