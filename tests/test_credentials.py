"""Passwords and keys in recipes and options are refused, by the field's name and without repeating them."""

from pathlib import Path

import pytest
import yaml

from pipelines.cli import main
from pipelines.config import apply_overrides, parse_override
from pipelines.credentials import redacted, refuse_credentials
from rtnet.errors import UserError

RECIPE = """
name: secret
data: {sources: {clip: {layout: davis16, path: clip}}, dataset: data}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "secret.yaml"
    path.write_text(RECIPE)
    return path


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "hunter2" not in said.out + said.err, said
    return said.err


@pytest.mark.parametrize(
    ("field", "uri", "variable"),
    [
        ("storage", "s3://AKIA:hunter2@bucket/runs", "AWS_SECRET_ACCESS_KEY"),
        ("storage", "s3://hunter2@bucket/runs", "AWS_SECRET_ACCESS_KEY"),
        ("data.dataset", "s3://AKIA:with/hunter2@bucket/data", "AWS_SECRET_ACCESS_KEY"),
        ("tracking.uri", "http://user:hunter2@mlflow:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("tracking.uri", "postgresql+psycopg2://user:hunter2@db:5432/mlflow", "PGPASSWORD"),
        ("flow.weights", "https://host/raft.pth?X-Amz-Signature=hunter2", "environment"),
        ("data.sources.clip.path", "abfs://box/clip?sas_token=hunter2", "environment"),
        ("model.start_from", "[a.pth, https://u:hunter2@host/b.pth]", "environment"),
    ],
)
def test_a_recipes_field_is_named_with_the_variable_that_takes_its_place(
    field: str, uri: str, variable: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("train", "submit train"):
        said = _refused(capsys, *verb.split(), str(recipe), f"{field}={uri}")
        assert f"{field}: " in said and variable in said
    values = yaml.safe_load(RECIPE)
    apply_overrides(values, dict([parse_override(f"{field}={uri}")]))
    recipe.write_text(yaml.safe_dump(values))
    assert f"recipe {recipe}: {field}: " in _refused(capsys, "prepare", str(recipe))


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "list", "--address", "http://u:hunter2@head:8265"),
        ("models", "list", "--tracking", "postgresql://u:hunter2@db/mlflow"),
        ("show", "s3://AKIA:hunter2@bucket/data"),
        ("report", "runs/a", "s3://AKIA:hunter2@bucket/scores"),
        ("segment", "clip.mp4", "--model", "https://u:hunter2@host/x.pt", "--output", "x.mp4"),
    ],
)
def test_an_option_is_named(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "option " in _refused(capsys, *arguments)


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_a_clusters_address_in_the_environment_is_none_for_them_either(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setenv(variable, "http://u:hunter2@head:8265")
    assert f"{variable}: " in _refused(capsys, "jobs")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a:b/c",
        "s3://bucket/x?endpoint_override=127.0.0.1%3A9000&scheme=http",
        "http://mlflow:5000/a@b",
        "postgresql://user@db/mlflow",
        "abfs://box@account.dfs.core.windows.net/x",
        "models:/rtnet@best",
        "sqlite:////shared/mlflow.db",
        "https://host/design?kind=tokens",
    ],
)
def test_what_holds_none_is_let_through(text: str) -> None:
    refuse_credentials({"field": [text]}, "")
    assert redacted(text) == text


def test_whatever_an_error_repeats_is_made_unreadable(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("s3://AKIA:hunter2@bucket", "http://a?token=hunter2 and postgres://u:hunter2@h/d"):
        assert "hunter2" not in redacted(f"cannot open {text}: no")
    _refused(capsys, "train", str(recipe), "storage:s3://AKIA:hunter2@bucket")
    with pytest.raises(UserError):
        refuse_credentials({"a": {"b": ["x", "http://u:p@h"]}}, "")
