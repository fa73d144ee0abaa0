"""The measures of salient object detection, as pysodmetrics computes them."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


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

    def means(self) -> Values:
        """(517,): what `saliency_results` wants, the means over the frames added.

        The means of parts, averaged by their numbers of frames, are those of the whole.
        """
        f, e = self._f.get_results()["fm"], self._e.get_results()["em"]
        mae, s = self._mae.get_results()["mae"], self._s.get_results()["sm"]
        weighted = self._weighted_f.get_results()["wfm"]
        means = np.concatenate(([mae, s, weighted, f["adp"], e["adp"]], f["curve"], e["curve"]))
        return np.asarray(means, np.float64)

    def results(self) -> dict[str, float]:
        """As `saliency_results` of the frames added."""
        return saliency_results(self.means())


def saliency_results(means: Values) -> dict[str, float]:
    """The measures by name, each in 0..1; "mae" is better when lower, the others when higher.

    The F- and E-measure come three times: at the adaptive threshold (twice the map's mean), and as the mean and
    the maximum over 256 thresholds.
    """
    mae, s, weighted, adaptive_f, adaptive_e = (float(value) for value in means[:5])
    results = {"mae": mae, "s_measure": s, "weighted_f": weighted}
    for name, adaptive, curve in (("f", adaptive_f, means[5:261]), ("e", adaptive_e, means[261:])):
        results |= {
            f"adaptive_{name}": adaptive,
            f"mean_{name}": float(curve.mean()),
            f"max_{name}": float(curve.max()),
        }
    return results


def _in_255(prediction: NDArray[Any]) -> NDArray[Any]:
    if prediction.dtype == np.uint8:
        return prediction
    if prediction.dtype != np.bool_ and not np.issubdtype(prediction.dtype, np.floating):
        raise ValueError(f"a map is float in 0..1, uint8 or boolean, not {prediction.dtype}")
    levels = prediction.astype(np.float64)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError("a float map must lie in 0..1")
    return levels * 255
