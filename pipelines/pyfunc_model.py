"""What MLflow runs where a registered model is loaded by `mlflow.pyfunc.load_model`; a copy lies in every such model.

The weights come from safetensors, which cannot hold code. Needs rtnet to be installed, and no more of this project.
`load_model(uri, model_config={"height": 256})` is for a network that was trained at other sizes than the published.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray


class ClipMaps:
    """predict: the frames of one clip, uint8 (T, H, W, 3) RGB -> their maps, float32 (T, H, W) in 0..1."""

    def load_context(self, context: Any) -> None:
        import rtnet

        path = Path(context.artifacts["model"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != context.model_config["sha256"]:
            raise ValueError(f"{path.name} has SHA-256 {digest[:12]}..., not the one registered: the file was changed")
        self._segmenter = rtnet.load(path, height=context.model_config["height"])

    def predict(self, context: Any, model_input: NDArray[np.uint8], params: Any = None) -> NDArray[np.float32]:
        return np.stack(list(self._segmenter.segment(iter(model_input))))


class ClipModel(ClipMaps, PythonModel):  # type: ignore[misc]
    """For MLflow. It warns of every `predict` of such a class itself whose types are not its own."""


set_model(ClipModel())
