"""What `rtnet submit` refuses before it asks a cluster, what a job carries, and answers that are no cluster's."""

import argparse
import http.server
import json
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from pipelines.cli import main
from pipelines.commit import commit_tags
from pipelines.config import load_experiment
from pipelines.job_client import check_cluster, open_client, warn_of_plain_http
from pipelines.packages import check_packages
from pipelines.places import places_of
from pipelines.session import no_cluster, ray_session
from pipelines.storage import open_storage
from pipelines.submit import _carry, _load, _refuse_lost_places, _relative
from rtnet.errors import UserError

ROOT = Path(__file__).parents[1]
RECIPE = """
name: job
data: {sources: {clip: {layout: davis16, path: clip}}, dataset: data}
training: {phases: [{last_epoch: 1, rate: 1e-3}]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nobody listens, and no variable of this machine's user."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_relative_places_are_named_all_at_once(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused(capsys, "submit", "train", str(recipe), "tracking.uri=sqlite:///mlflow.db")
    assert "storage=runs, data.dataset=data, tracking.uri=sqlite:///mlflow.db: a job's own folder" in said


def test_sources_are_asked_for_where_they_are_read(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["storage=/shared/runs", "data.dataset=s3://bucket/data"]
    for verb in ("prepare", "evaluate"):
        assert "data.sources.clip.path=clip: " in _refused(capsys, "submit", verb, str(recipe), *places)
    assert "nobody answers at http://127.0.0.1:9" in _refused(capsys, "submit", "train", str(recipe), *places)


@pytest.mark.parametrize("place", ["s3://", "s3:///runs"])
def test_a_place_without_a_bucket_is_named(recipe: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    said = _refused(capsys, "submit", "train", str(recipe), "data.dataset=/data", f"storage={place}")
    assert f"storage={place} names no bucket" in said
    with pytest.raises(UserError, match="names no bucket"):
        open_storage(place)


@pytest.mark.parametrize("token", ["two words", "one\nother", "\u00fc"])
def test_a_token_that_can_be_none_is_refused_and_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    (tmp_path / "token").write_text(token)
    for name, value in (("RAY_AUTH_TOKEN", token), ("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))):
        with monkeypatch.context() as patched:
            patched.setenv("RAY_AUTH_MODE", "token")
            patched.setenv(name, value)
            said = _refused(capsys, "jobs", "--address", "http://127.0.0.1:9", "list")
            assert "holds no token" in said and token not in said
            assert (name if name == "RAY_AUTH_TOKEN" else value) in said


def test_a_stages_relative_place_is_found(recipe: Path) -> None:
    values = yaml.safe_load(RECIPE) | {"stages": {"first": {"data.dataset": "elsewhere"}}}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"data\.dataset=elsewhere"):
        _refuse_lost_places(load_experiment(recipe, ["storage=/runs", "data.dataset=/data"]), "train")


@pytest.mark.parametrize(
    ("place", "relative"),
    [
        ("runs", True),
        ("./runs", True),
        ("/shared/runs", False),
        ("~/runs", False),
        ("s3://bucket/runs", False),
        ("sqlite:///runs/mlflow.db", True),
        ("sqlite:////runs/mlflow.db", False),
        ("http://mlflow:5000", False),
    ],
)
def test_what_depends_on_the_working_folder(place: str, relative: bool) -> None:
    assert _relative(place) == relative


@pytest.mark.parametrize("verb", ["prepare", "train", "tune", "predict", "evaluate"])
def test_every_place_is_a_field(recipe: Path, verb: str) -> None:
    overrides = ["tracking.uri=sqlite:///x.db", "model.encoder_weights=x.pth", "model.start_from=y.pth"]
    overrides += ["prediction.input=sources", "prediction.model=z.pt", "evaluation.output=scores"]
    for place in places_of(load_experiment(recipe, overrides), verb):
        assert load_experiment(recipe, [f"{place.field}=/x"])


def test_a_bad_recipe_is_refused_before_anything_is_sent(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused(capsys, "submit", "train", str(recipe), "storage=/runs", "training.momentum=2")
    assert "training.momentum" in said
    assert "none.yaml" in _refused(capsys, "submit", "train", str(recipe.parent / "none.yaml"))


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "auto"])
def test_an_address_is_a_url(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--address {address}: give the URL" in _refused(capsys, "jobs", "--address", address)


def test_an_address_before_the_action_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert "http://127.0.0.1:7" in _refused(capsys, "jobs", "--address", "http://127.0.0.1:7", "list")


def test_a_job_carries_code_commit_and_recipe_and_nothing_else(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "carried"
    folder.mkdir()
    assert _carry(folder, [recipe]) == "recipes/job.yaml"
    assert {path.name for path in folder.iterdir()} == {
        "rtnet",
        "pipelines",
        "pyproject.toml",
        "constraints.txt",
        "commit.json",
        "recipes",
    }
    assert (folder / "recipes" / "job.yaml").read_text() == RECIPE
    files = [path for path in folder.rglob("*") if path.is_file()]
    code = {".py", ".typed", ".html", ".css", ".js"}
    assert {path.suffix for path in files} <= code | {".toml", ".txt", ".json", ".yaml"}
    assert sum(path.stat().st_size for path in files) < 2**20
    asked = "import json, pipelines.commit as c; print(json.dumps([c.__file__, c.commit_tags()]))"
    said = subprocess.run([sys.executable, "-c", asked], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [str(folder / "pipelines" / "commit.py"), commit_tags()]


def test_a_sweep_travels_with_its_recipe(recipe: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweeps" / "rates.yaml"
    sweep.parent.mkdir()
    sweep.write_text("{name: rates, recipe: ../job.yaml, space: {training.phases.0.rate: {grid: [0.1, 0.01]}}}")
    experiment, files, _ = _load("tune", sweep, ["storage=/runs"])
    assert (experiment.name, experiment.storage) == ("rates", "/runs")
    folder = tmp_path / "carried"
    folder.mkdir()
    assert _carry(folder, files) == "recipes/sweeps/rates.yaml"
    assert (folder / "recipes" / "job.yaml").read_text() == RECIPE


def test_a_cluster_of_another_release_is_refused() -> None:
    with _answering({"version": "4", "ray_version": "2.44.1"}) as address, pytest.raises(UserError) as refused:
        open_client(argparse.Namespace(address=address))
    assert f"the cluster at {address} runs Ray 2.44.1, and this is Ray 2." in str(refused.value)


def test_what_is_no_cluster_is_refused() -> None:
    with _answering(["hello"]) as address, pytest.raises(UserError, match="no Ray dashboard"):
        open_client(argparse.Namespace(address=address))


def test_a_cluster_of_an_old_python_is_refused_and_of_another_one_said(capsys: pytest.CaptureFixture[str]) -> None:
    def ask(python: str, mode: str = "token") -> None:
        answer = {"version": "4", "ray_version": version("ray"), "authentication_mode": mode}
        with _answering(answer | {"data": {"pythonVersion": python}}) as address:
            check_cluster(open_client(argparse.Namespace(address=address)))

    with pytest.raises(UserError, match=r"runs Python 3\.10\.4, and this code needs 3\.11 or newer"):
        ask("3.10.4")
    ask(platform.python_version())
    assert not capsys.readouterr().out
    ask("3.99.1")
    assert capsys.readouterr().out == f"note: the cluster runs Python 3.99.1, here it is {platform.python_version()}\n"
    ask(platform.python_version(), "disabled")
    assert "asks for no token: who reaches it may run anything there" in capsys.readouterr().err


def test_the_same_recipe_has_the_same_digest_whatever_its_comments(recipe: Path) -> None:
    digest = _load("train", recipe, [])[2]
    recipe.write_text(f"# {RECIPE}".replace("\n", "\n# ") + RECIPE)
    assert _load("train", recipe, ["seed=0"])[2] == digest
    assert _load("train", recipe, ["seed=1"])[2] != digest


def test_a_job_whose_python_lacks_what_the_code_needs_says_so_in_one_line(tmp_path: Path) -> None:
    bare = [sys.executable, "-S", "-m", "pipelines.cli", "train", "recipe.yaml"]  # without site-packages
    environment = {"PATH": "", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has not what this code needs (No module named 'packaging')" in done.stderr


def test_packages_that_are_missing_or_of_other_versions_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_packages(ROOT)
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=2", "ray[data]>=99", "no-such>=1"]')
    with pytest.raises(UserError, match=rf"ray {version('ray')} instead of >=99; no no-such>=1\)"):
        check_packages(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=2"]')
    (tmp_path / "constraints.txt").write_text("numpy==1.9 ; python_version < '3'\nnumpy==2.0.99\n")
    capsys.readouterr()
    check_packages(tmp_path)
    assert f"numpy {version('numpy')}, not 2.0.99" in capsys.readouterr().out


@pytest.mark.parametrize("host", ["mlflow.example", "10.0.0.7"])
def test_a_token_over_plain_http_to_another_host_is_warned_of(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    warn_of_plain_http(f"http://{host}:8265")
    assert f"go to {host} unencrypted" in capsys.readouterr().err
    for address in (f"https://{host}:8265", "http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265"):
        warn_of_plain_http(address)
    assert not capsys.readouterr().err


def test_a_cluster_of_another_ray_or_python_is_one_line_with_both_versions() -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.44.1", "python_version": "3.12.9"}, "node 10.0.0.7")
    said = no_cluster("10.0.0.1:6379", str(raised.value))
    ours = rf"Ray {version('ray')} with Python {platform.python_version()}"
    assert f"10.0.0.1:6379 runs Ray 2.44.1 with Python 3.12.9, and this is {ours}" in said and "\n" not in said


def test_the_address_of_a_dashboard_is_no_address_of_a_cluster(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match="rtnet submit"), ray_session():
        pass


@contextmanager
def _answering(content: object) -> Iterator[str]:
    """The address of a server that gives this to whatever is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
