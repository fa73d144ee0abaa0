"""Whether a cluster has room for what a recipe asks: refused at once where it has not, waited for where it grows.

Ray itself would wait for ever for what isn't there. A cluster grows where Ray's autoscaler (its version 2) may start
nodes; what it can't start it says within seconds.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.loader import READ_CPUS
from pipelines.sections import Prediction, Scaling
from rtnet.errors import UserError

Bundle = Mapping[str, float]
"""What one process reserves, all on one node: {"CPU": 1.0, "GPU": 1.0}."""

_BEGINS = 30.0  # seconds in which an autoscaler says something for the first time
_LIMIT = 1800.0  # seconds for a cluster to grow, or a lost host to come back: a machine and its image take minutes
_LINES = 60.0  # seconds from one line that says so to the next
_LOOKS = 5.0  # seconds from one look to the next; the autoscaler decides about as often


def check_resources(scaling: Scaling, at_once: int = 1) -> None:
    """Returns when there is room for so many trainings; UserError where there is not, nor will be."""
    lower = [f"lower {field}" for field, count in (("at_once", at_once), ("scaling.num_workers", scaling.num_workers))
             if count > 1]  # fmt: skip
    _require(
        _bundles(scaling) * at_once,
        f"scaling.num_workers={scaling.num_workers} asks, with the tasks that read"
        + (f", in {at_once} trials at once," if at_once > 1 else ","),
        lower,
        {"CPU": "lower scaling.cpus_per_worker", "GPU": "set scaling.use_gpu=false"},
    )


def await_room(scaling: Scaling) -> None:
    """Returns when there is room for a training again that has lost some; UserError where that takes too long."""
    if why_not := _wait(_bundles(scaling)):
        raise UserError(
            f"the cluster has no room any more for scaling.num_workers={scaling.num_workers}, and {why_not}: bring the "
            "lost nodes back, or others; the same command continues"
        )


def check_actors(options: Prediction) -> None:
    """Likewise for the GPUs of the actors of `predict`, or for a core of each of them."""
    if options.gpus_per_actor:
        _require(
            [{"GPU": options.gpus_per_actor}] * options.actors,
            f"prediction.actors={options.actors} asks",
            ["lower prediction.actors"] if options.actors > 1 else [],
            {"GPU": "lower prediction.gpus_per_actor (0 predicts on CPUs)"},
        )
    elif options.actors > (cores := _total(_nodes(), "CPU")):
        raise UserError(
            f"prediction.actors={options.actors} and the cluster has {cores:g} CPUs: give each at least one of its own"
        )


def resources_needed(scaling: Scaling) -> dict[str, float]:
    """What a training takes of a cluster, its reading tasks included."""
    needed = {"CPU": scaling.num_workers * scaling.cpus_per_worker + READ_CPUS}
    return needed | ({"GPU": float(scaling.num_workers)} if scaling.use_gpu else {})


def gpus_there() -> float:
    """The cluster's GPUs; where it has none and grows, after one has come, if one can."""
    found = _total(_nodes(), "GPU")
    if not found and grows():
        _wait([{"GPU": 1.0}])
        found = _total(_nodes(), "GPU")
    return found


def grows() -> bool:
    """Whether an autoscaler looks after the cluster, also one that has just begun; it may have nothing to add."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    deadline = time.monotonic() + _BEGINS
    while _autoscaling() is None:
        if not is_autoscaler_v2(fetch_from_server=True, gcs_client=_gcs()) or time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _bundles(scaling: Scaling) -> list[dict[str, float]]:
    """Of a training: each worker, and a task that reads."""
    worker = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})
    return [worker] * scaling.num_workers + [{"CPU": READ_CPUS}]


def fits(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> bool:
    """Whether all have room at the same time, the largest first, each on the first node that has it."""
    free = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda bundle: -sum(bundle.values())):
        for node in free:
            if all(node.get(kind, 0.0) + 1e-6 >= amount for kind, amount in bundle.items()):
                node.update({kind: node[kind] - amount for kind, amount in bundle.items()})
                break
        else:
            return False
    return True


def _require(bundles: Sequence[Bundle], asks: str, mends: Sequence[str], mends_of: Mapping[str, str]) -> None:
    """mends: what the user can do; mends_of: where that is short."""
    nodes = _nodes()
    if fits(bundles, nodes):
        return
    needed = {kind: _total(bundles, kind) for kind in mends_of}
    short = {kind: _total(nodes, kind) for kind, amount in needed.items() if _total(nodes, kind) < amount}
    if short:
        asked = " and ".join(f"{needed[kind]:g} {kind}s" for kind in short)
        there = f"the cluster has {' and '.join(f'{amount:g}' for amount in short.values())}"
    else:  # enough, but not on the same nodes
        short = dict(bundles[0])
        asked = f"{len(bundles)} times up to {_in_words(bundles[0])} on one node"
        have = [_in_words({kind: node.get(kind, 0.0) for kind in short}) for node in nodes]
        there = f"the nodes have {'; '.join(have)}"
    problem = f"{asks} for {asked}, and {there}"
    if grows():
        print(f"{problem}: waiting for it to grow", flush=True)
        why_not = _wait(bundles)
        if not why_not:
            return
        problem += f" and {why_not}"
    raise UserError(f"{problem}: {', or '.join([*mends, *(mend for kind, mend in mends_of.items() if kind in short)])}")


def _wait(bundles: Sequence[Bundle]) -> str:
    """Empty when the cluster has grown to hold all bundles, else why it does not.

    A placement group asks for them, which ends with this process whatever happens to it.
    """
    from ray.util import placement_group, remove_placement_group

    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    begun = said = time.monotonic()
    refused = 0
    try:
        while not group.wait(_LOOKS):
            state, now = _autoscaling(), time.monotonic()
            # Twice, as it may speak of what was before this was asked.
            refused = refused + 1 if state is not None and _is_refused(state, group.id.hex()) else 0
            if refused > 1:
                return "can't grow to that, as it is set up or as it is taken by others"
            if now - begun > _LIMIT:
                return f"did not grow to that within {_LIMIT / 60:.0f} minutes"
            if now - said > _LINES:
                said = now
                print(f"waiting for {(now - begun) / 60:.0f} minutes{_in_hand(state)}", flush=True)
    finally:
        remove_placement_group(group)
    return ""


def _autoscaling() -> Any:
    """What the autoscaler last said; None where there is none."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(_gcs().get_cluster_status(timeout_s=10))
    return reply.autoscaling_state if reply.HasField("autoscaling_state") else None


def _gcs() -> Any:
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=ray.get_runtime_context().gcs_address)


def _is_refused(state: Any, group: str) -> bool:
    """Whether the autoscaler knows of no way to have these bundles."""
    return any(request.details.startswith(group) for request in state.infeasible_gang_resource_requests)


def _in_hand(state: Any) -> str:
    """How far it is, and what went wrong on the way."""
    if state is None:
        return ""
    coming = sum(request.count for request in state.pending_instance_requests) + len(state.pending_instances)
    failed = [request.reason for request in state.failed_instance_requests]
    return f"; nodes on their way: {coming}" + (f"; one failed: {failed[-1][:200]}" if failed else "")


def _nodes() -> list[Bundle]:
    """What each node has, taken or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _total(nodes: Sequence[Bundle], kind: str) -> float:
    return float(sum(node.get(kind, 0.0) for node in nodes))


def _in_words(bundle: Bundle) -> str:
    return " and ".join(f"{amount:g} {kind}s" for kind, amount in bundle.items())
