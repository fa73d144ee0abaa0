"""What makes a folder with a model file an MLflow model, which `mlflow.pyfunc.load_model` loads."""

import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np

_CODE = Path(__file__).with_name("pyfunc_model.py")
_PACKAGES = ("mlflow", "torch", "torchvision", "safetensors", "opencv-python-headless", "numpy", "pillow")


def describe_model(model_file: Path, digest: str) -> None:
    """Writes MLmodel, the code that reads the file, and requirements.txt beside it. digest: the file's SHA-256.

    MLflow's own save_model writes the same, but copies the weights twice and runs the code.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import Schema, TensorSpec

    folder = model_file.parent
    shutil.copyfile(_CODE, folder / _CODE.name)
    model = Model(
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1))]),
        )
    )
    add_to_model(
        model,
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path=_CODE.name,
        model_config={"sha256": digest, "height": 384},
        artifacts={"model": {"path": model_file.name, "uri": model_file.name}},
    )
    model.save(str(folder / "MLmodel"))
    lines = [f"{package}=={version(package)}" for package in _PACKAGES]
    (folder / "requirements.txt").write_text("\n".join(["# and this project's own rtnet, from its source", *lines, ""]))
