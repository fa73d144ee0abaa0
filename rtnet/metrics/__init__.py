"""How well masks and maps agree with annotations: per frame, then per sequence, then per set."""

from rtnet.metrics.contour import contour_accuracy
from rtnet.metrics.region import region_similarity
from rtnet.metrics.saliency import SaliencyMeasures, saliency_results
from rtnet.metrics.statistics import Statistics, dataset_statistics, scored, sequence_statistics

__all__ = [
    "SaliencyMeasures",
    "Statistics",
    "contour_accuracy",
    "dataset_statistics",
    "region_similarity",
    "saliency_results",
    "scored",
    "sequence_statistics",
]
