"""Who may import whom, that `--help` answers at once, and that nothing is loaded that could run code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOREIGN = ("ray", "mlflow", "yaml", "pydantic", "pipelines")
ROOMS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "rtnet").rglob("*.py")
)


def _loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_rtnet_runs_without_ray_mlflow_yaml_pydantic_and_pipelines() -> None:
    loaded = _loaded_after("\n".join(f"import {room}" for room in ROOMS))
    assert "rtnet" in loaded
    assert not loaded & set(FOREIGN)


def test_only_tracking_and_what_builds_on_it_load_mlflow() -> None:
    others = ("config", "dataset", "storage", "loader", "prepare", "run_folder", "validation", "predictor", "sweep")
    assert "mlflow" not in _loaded_after("\n".join(f"import pipelines.{module}" for module in others))


def test_who_scores_masks_needs_no_torch() -> None:
    """Each of Ray's workers would take seconds to import it."""
    assert "torch" not in _loaded_after("import pipelines.scoring")


@pytest.mark.parametrize(
    "verb",
    [[], ["prepare"], ["train"], ["tune"], ["report"], ["models"], ["segment"], ["submit"], ["jobs"], ["demo"]],
)
def test_help_needs_neither_torch_nor_ray_nor_mlflow(verb: list[str]) -> None:
    code = f"""
import sys
from pipelines.cli import main
try:
    main({[*verb, "--help"]!r})
except SystemExit as end:
    assert end.code == 0
"""
    assert not _loaded_after(code) & {"torch", "ray", "mlflow", "cv2", "numpy"}


def test_no_file_is_loaded_that_could_run_code() -> None:
    """ruff's S rules refuse pickle, marshal, eval and yaml.load; these are what it does not know."""
    found = []
    for path in (path for room in ("rtnet", "pipelines", "experiments") for path in (ROOT / room).rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            torch = name == "torch.load" and given.get("weights_only") != "True"
            numpy = name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
            if torch or numpy or name.endswith(("pickle.load", "pickle.loads", "joblib.load", "pyfunc.load_model")):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    # A failed trial's exception, which Tune has just written for this process; what the benchmark itself packed.
    driver = "experiments/benchmarks/capacity_measure_driver.py: pickle.loads"
    assert sorted(found) == [driver, driver, "pipelines/trial_reports.py: ray.cloudpickle.loads"]
