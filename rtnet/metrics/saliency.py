"""The measures of salient object detection, as pysodmetrics computes them."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SaliencyMeasures:
    """Collects frames of one sequence or set, then gives the means over them.

    As the field has it, every map is first stretched by its own minimum and maximum to 0..1.
    """

    def __init__(self) -> None:
        # Late, as this pulls in scikit-learn, which takes seconds.
        import py_sod_metrics

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces a successor, whose values need not be the published ones
            self._f: Any = py_sod_metrics.Fmeasure()
        self._weighted_f: Any = py_sod_metrics.WeightedFmeasure()
        self._s: Any = py_sod_metrics.Smeasure()
        self._e: Any = py_sod_metrics.Emeasure()
        self._mae: Any = py_sod_metrics.MAE()

    def add(self, prediction: NDArray[Any], annotation: NDArray[np.bool_]) -> None:
        """Add one frame.

        prediction: (H, W), a map as float in 0..1 or as uint8 in 0..255, or a bool mask. annotation: bool (H, W).
        Raises ValueError where they differ in size, are of another type or leave their range.
        """
        if prediction.ndim != 2 or prediction.shape != annotation.shape:
            raise ValueError(f"map {prediction.shape} and annotation {annotation.shape} must be (H, W) of one size")
        if annotation.dtype != np.bool_:
            raise ValueError(f"the annotation must be boolean, not {annotation.dtype}")
        levels = _in_255(prediction)
        truth = annotation.astype(np.uint8) * np.uint8(255)
        for measure in (self._f, self._weighted_f, self._s, self._e, self._mae):
            measure.step(levels, truth)

    def results(self) -> dict[str, float]:
        """Means over the frames added, each in 0..1; "mae" is better when lower, the others when higher.

        The F- and E-measure come three times: at the adaptive threshold (twice the map's mean), and as the mean and
        the maximum over 256 thresholds.
        """
        f, e = self._f.get_results()["fm"], self._e.get_results()["em"]
        results = {
            "mae": self._mae.get_results()["mae"],
            "s_measure": self._s.get_results()["sm"],
            "weighted_f": self._weighted_f.get_results()["wfm"],
        }
        for name, measure in (("f", f), ("e", e)):
            curve = measure["curve"]
            results |= {f"adaptive_{name}": measure["adp"], f"mean_{name}": curve.mean(), f"max_{name}": curve.max()}
        return {name: float(value) for name, value in results.items()}


def _in_255(prediction: NDArray[Any]) -> NDArray[Any]:
    if prediction.dtype == np.uint8:
        return prediction
    if prediction.dtype != np.bool_ and not np.issubdtype(prediction.dtype, np.floating):
        raise ValueError(f"a map is float in 0..1, uint8 or boolean, not {prediction.dtype}")
    levels = prediction.astype(np.float64)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError("a float map must lie in 0..1")
    return levels * 255
