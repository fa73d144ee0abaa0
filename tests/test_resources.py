"""Whether a cluster has room: by what lies together on its nodes, and in words that say what to change."""

import pytest

from pipelines.resources import check_actors, check_resources, fits
from pipelines.sections import Prediction, Scaling
from rtnet.errors import UserError


@pytest.mark.parametrize(
    ("bundles", "nodes", "room"),
    [
        ([{"CPU": 1.0}] * 4, [{"CPU": 4.0}], True),
        ([{"CPU": 1.0}] * 5, [{"CPU": 4.0}], False),
        ([{"CPU": 3.0}] * 2, [{"CPU": 4.0}, {"CPU": 2.0}], False),  # six cores, not three twice
        ([{"CPU": 0.1}] * 10, [{"CPU": 1.0}], True),
        ([{"CPU": 1.0, "GPU": 1.0}] * 4, [{"CPU": 8.0, "GPU": 4.0}], True),
        ([{"CPU": 1.0, "GPU": 1.0}] * 4, [{"CPU": 16.0}, {"CPU": 2.0, "GPU": 4.0}], False),
        ([{"CPU": 0.5}, {"GPU": 1.0, "CPU": 2.0}], [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 0.5}], True),
        ([{"GPU": 0.5}] * 4, [{"GPU": 1.0}, {"GPU": 1.0}], True),
        ([], [], True),
    ],
)
def test_a_bundle_lies_on_one_node(bundles: list[dict[str, float]], nodes: list[dict[str, float]], room: bool) -> None:
    assert fits(bundles, nodes) == room


@pytest.mark.ray
def test_what_is_not_there_is_refused_at_once_with_what_to_lower(local_ray: None) -> None:
    import ray

    cpus = ray.cluster_resources()["CPU"]
    check_resources(Scaling(num_workers=1, cpus_per_worker=cpus - 0.5))
    with pytest.raises(UserError, match=rf"for {cpus + 1.5:g} CPUs, and the cluster has {cpus:g}: lower scaling\.num"):
        check_resources(Scaling(num_workers=int(cpus) + 1))
    with pytest.raises(UserError, match=r"in 3 trials at once, .* lower at_once, or lower scaling.cpus_per_worker$"):
        check_resources(Scaling(num_workers=1, cpus_per_worker=cpus / 2), at_once=3)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    with pytest.raises(UserError, match=rf"{gpus + 1:g} GPUs, and the cluster has {gpus:g}: .*scaling.use_gpu=false"):
        check_resources(Scaling(num_workers=int(gpus) + 1, use_gpu=True, cpus_per_worker=0.01))
    check_actors(Prediction())
    with pytest.raises(UserError, match=r"prediction.actors=2 asks .* lower prediction.gpus_per_actor"):
        check_actors(Prediction(actors=2, gpus_per_actor=gpus + 1))
