"""An S3 store is opened by what the environment says, shows whole files alone, and what it refuses is one line."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from pipelines.cli import main
from pipelines.run_folder import RunFolder
from pipelines.storage import open_storage, read_bytes, refuse_existing, write_whole
from rtnet.errors import UserError
from tests.conftest import S3_PORT
from tests.relay import Relay

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]

MANY = b"x" * (64 << 20)  # more than one request of an upload


def test_files_are_written_replaced_listed_and_read(bucket: str) -> None:
    system, root = open_storage(f"{bucket}/some place/ü%20")
    for data in (b"first", b"", MANY):
        write_whole(system, f"{root}/deep/er.bin", data)
        assert read_bytes(system, f"{root}/deep/er.bin") == data
    found = system.get_file_info(fs.FileSelector(root, recursive=True))
    assert {info.path: info.size for info in found if info.is_file} == {f"{root}/deep/er.bin": len(MANY)}


def test_the_store_is_the_environments_and_a_uris_query_comes_before(bucket: str) -> None:
    system, root = open_storage(f"{bucket}/x")
    assert root == "bucket/x" and system.region == "us-east-1"
    assert pickle.loads(pickle.dumps(system)) == system
    assert open_storage(f"{bucket}/y")[0] is system
    other, _ = open_storage("s3://bucket/x?region=eu-west-1&scheme=https&endpoint_override=host%3A1")
    assert other.region == "eu-west-1" and other != system
    with pytest.raises(UserError, match="'regoin' is none of"):
        open_storage("s3://bucket/x?regoin=eu")


@pytest.mark.parametrize("cut_after", [200, 40 << 20])
def test_an_upload_that_breaks_is_one_line_and_never_looks_whole(
    bucket: str, cut_after: int, monkeypatch: Patch
) -> None:
    system, root = open_storage(f"{bucket}/broken-{cut_after}")
    with Relay(S3_PORT, cut_after) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        weak, _ = open_storage(f"{bucket}/broken", tries=1)
        with pytest.raises(UserError, match="can't be written") as refused:
            write_whole(weak, f"{root}/checkpoint.pt", MANY)
    assert "\n" not in str(refused.value) and "AWS_ENDPOINT_URL" in str(refused.value)
    assert system.get_file_info(f"{root}/checkpoint.pt").type == fs.FileType.NotFound


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_writer_that_is_ended_leaves_whole_files_alone(bucket: str, end: signal.Signals) -> None:
    """Each file is all of one letter; Ctrl-C comes between any two statements."""
    code = f"""
import signal, sys
from pipelines.storage import open_storage, write_whole
signal.signal(signal.SIGTERM, signal.default_int_handler)
system, root = open_storage("{bucket}/ended-{end.name}")
print("begun", flush=True)
for number in range(10_000):
    write_whole(system, root + "/steps/000.pt", bytes([97 + number % 26]) * (12 << 20))
"""
    system, root = open_storage(f"{bucket}/ended-{end.name}")
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
    while system.get_file_info(f"{root}/steps/000.pt").type == fs.FileType.NotFound:
        time.sleep(0.02)
    time.sleep(0.1)
    writer.send_signal(end)
    writer.wait(60)
    data = read_bytes(system, f"{root}/steps/000.pt")
    assert len(data) == 12 << 20 and len(set(data)) == 1


def test_a_run_folder_is_as_on_a_disk(bucket: str, tmp_path: Path) -> None:
    state: dict[str, Any] = {"config": {}, "model": {}}
    for uri in (f"{bucket}/runs/some", str(tmp_path / "some")):
        folder = RunFolder(uri)
        assert folder.epochs() == [] and folder.read("recipe.json") is None
        folder.write_epoch(0, state | {"epoch": 0})
        folder.write_step(3, state | {"epoch": 0, "losses": [1]})
        folder.write_step(5, state | {"epoch": 0, "losses": [1, 2]})
        assert folder.epochs() == [0] and folder.steps() == [5]
        assert folder.newest(steps_per_epoch=9) == state | {"epoch": 0, "losses": [1, 2]}
        folder.write_measured(1, {"values": {"a": 1.0}}, {"x.jpg": b"jpg"})
        assert folder.pictures(1) == {"x.jpg": b"jpg"} and folder.untracked() == []
        folder.write_epoch(1, state | {"epoch": 1})
        assert folder.epochs() == [0, 1] and not folder.steps() and folder.untracked() == [1]
        folder.mark_tracked(1)
        assert folder.untracked() == [] and folder.measured(1) == {"values": {"a": 1.0}}
        folder.remove_torn()


@pytest.fixture
def guarded(bucket: str) -> Iterator[dict[str, str]]:
    """The keys of somebody who may read the bucket and not write to it, on a server that now asks."""
    import boto3

    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}]}  # fmt: skip
    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    _ask_for_keys("0")
    yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    _ask_for_keys("inf")
    iam.delete_access_key(UserName="reader", AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName="reader", PolicyName="reads")
    iam.delete_user(UserName="reader")


def _ask_for_keys(after: str) -> None:
    """From so many requests on."""
    url, kind = f"http://127.0.0.1:{S3_PORT}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, after.encode(), kind)).close()


RECIPE = """
name: refused
data: {{sources: {{clip: {{layout: davis16, path: {root}/clip}}}}, dataset: {dataset}}}
tracking: {{uri: "sqlite:///{root}/mlflow.db"}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    from rtnet.data.clip import write_clip

    write_clip(tmp_path / "clip", {"train": ["a"], "val": ["b"]}, frames=2, height=32, width=56)

    def write(dataset: str) -> str:
        path = tmp_path / "refused.yaml"
        path.write_text(RECIPE.format(root=tmp_path, dataset=dataset))
        return str(path)

    return write


def _refused(capsys: Capture, *arguments: str) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_bucket_that_may_not_be_written_is_one_line(
    bucket: str,
    guarded: dict[str, str],
    recipe: Any,
    monkeypatch: Patch,
    capsys: Capture,
) -> None:
    for name, value in guarded.items():
        monkeypatch.setenv(name, value)
    said = _refused(capsys, "prepare", recipe(f"{bucket}/data"))
    assert "s3://bucket/data/" in said and "can't be written" in said and "ACCESS_DENIED" in said
    assert guarded["AWS_SECRET_ACCESS_KEY"] not in said


def test_a_key_that_the_store_does_not_know_is_one_line_that_names_the_field(
    bucket: str,
    guarded: dict[str, str],
    recipe: Any,
    monkeypatch: Patch,
    capsys: Capture,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    path = recipe(f"{bucket}/data")
    for verb, field in (("prepare", "data.dataset"), ("train", "data.dataset"), ("predict", "prediction.output")):
        said = _refused(capsys, verb, path, f"prediction.output={bucket}/out")
        assert f"{field}={bucket}/" in said and "AWS_ACCESS_KEY_ID" in said


def test_a_bucket_and_a_server_that_are_not_there_are_one_line(
    bucket: str, recipe: Any, monkeypatch: Patch, capsys: Capture
) -> None:
    said = _refused(capsys, "prepare", recipe("s3://no-such-bucket/data"))
    assert "s3://no-such-bucket/data" in said and "NO_SUCH_BUCKET" in said.upper().replace(" ", "_")
    assert "is not a finished dataset" in _refused(capsys, "train", recipe(f"{bucket}/nothing"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = _refused(capsys, "prepare", recipe(f"{bucket}/data"))
    assert "data.dataset=s3://bucket/data can't be read" in said and "AWS_ENDPOINT_URL" in said


def test_a_store_that_does_not_say_whether_a_place_is_free_is_one_line(bucket: str, monkeypatch: Patch) -> None:
    refuse_existing(f"{bucket}/free")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"^{bucket}/free can't be looked at .*AWS_ENDPOINT_URL") as refused:
        refuse_existing(f"{bucket}/free")
    assert "\n" not in str(refused.value)


def test_no_credentials_at_all_are_one_line(
    bucket: str,
    guarded: dict[str, str],
    recipe: Any,
    monkeypatch: Patch,
    capsys: Capture,
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "AWS_ACCESS_KEY_ID" in _refused(capsys, "prepare", recipe(f"{bucket}/data"))
