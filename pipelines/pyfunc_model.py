"""What MLflow runs where a registered model is loaded by `mlflow.pyfunc.load_model`; a copy lies in every such model.

The weights come from safetensors, which cannot hold code. Needs rtnet to be installed, and no more of this project.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ClipModel(PythonModel):  # type: ignore[misc]
    """predict: the frames of one clip, uint8 (T, H, W, 3) RGB -> their maps, float32 (T, H, W) in 0..1."""

    def load_context(self, context: Any) -> None:
        import rtnet

        path = Path(context.artifacts["model"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != context.model_config["sha256"]:
            raise ValueError(f"{path.name} has SHA-256 {digest[:12]}..., not the one registered: the file was changed")
        self._segmenter = rtnet.load(path)

    # MLflow warns of any type written here: its own are for tables.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return np.stack(list(self._segmenter.segment(iter(model_input))))


set_model(ClipModel())
