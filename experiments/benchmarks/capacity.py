"""What a recipe takes on a cluster: hours, dollars, bytes, the bottleneck; and what of today's design breaks first.

    python -m experiments.benchmarks.capacity RECIPE --dataset NAME --cluster NAME [section.field=value ...]
    python -m experiments.benchmarks.capacity experiments/sweeps/backbones.yaml --dataset davis16 --cluster aws-l4
    python -m experiments.benchmarks.capacity --measure --data path/to/DAVIS > experiments/benchmarks/costs.yaml

Stages, epochs, sizes, flow, actors are the recipe's; `cluster.FIELD` and `dataset.FIELD` replace what capacity.yaml has
of the two. Processor time comes from costs.yaml, measured on two cores (--measure: about three minutes). Nothing was
measured on a GPU: what rests on one is counted operations over a share of the published peak, and says "GPU estimated"
with a range.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.benchmarks.capacity_demand import Row
from experiments.benchmarks.capacity_inputs import Case, Plan, load_plan
from pipelines.config import read_yaml
from rtnet.errors import UserError

_SHOWN = 0.01  # of a row's time that a resource is in use
_CASES: tuple[Case, ...] = ("best", "likely", "worst")


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 2 with one line for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="a recipe or a sweep (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    parser.add_argument("--dataset", default="davis16", help="of capacity.yaml (default: %(default)s)")
    parser.add_argument("--cluster", default="aws-l4", help="of capacity.yaml (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help="prints costs.yaml anew instead")
    parser.add_argument("--data", type=Path, help="for --measure: DAVIS 2016's layout; default: generated clips")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.measure:
            from experiments.benchmarks.capacity_measure import measured

            print(measured(options.data), end="")
        elif options.recipe is None:
            raise UserError("give a recipe, such as experiments/davis16_resnet34.yaml")
        else:
            show(options.recipe, options.dataset, options.cluster, options.overrides)
    except UserError as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 2
    return 0


def show(recipe: str, dataset: str, cluster: str, overrides: list[str]) -> None:
    """Prints everything of one question."""
    from experiments.benchmarks.capacity_limits import limits

    if "space" in read_yaml(recipe, "recipe"):
        plan, rows_of = _sweep(recipe, dataset, cluster, overrides)
    else:
        plan, rows_of = load_plan(recipe, dataset, cluster, overrides), verbs
    by_case = {case: rows_of(replace(plan, case=case)) for case in _CASES}
    print(_headline(plan), end="\n\n")
    print(_table(plan, by_case), end="\n\n")
    print(_uses(by_case["likely"]), end="\n\n")
    print(_breaks(limits(plan)))


def verbs(plan: Plan) -> list[Row]:
    """The verbs that make sense of the recipe and the data: predict from sources needs nothing prepared."""
    from experiments.benchmarks.capacity_train import train
    from experiments.benchmarks.capacity_verbs import evaluate, predict, prepare

    experiment, parts = plan.experiment, plan.dataset.parts
    _check_predictors(plan)
    rows = []
    if experiment.prediction.input == "dataset":
        rows += [prepare(plan)]
        if any(part.annotated for part in parts if part.split == experiment.training.split):
            rows += train(plan)
    if any(part.split == experiment.prediction.split for part in parts):
        rows += [predict(plan)]
    if any(part.annotated for part in parts if part.split == experiment.evaluation.split):
        rows += [evaluate(plan)]
    if not rows:
        splits = ", ".join(dict.fromkeys(part.split for part in parts))
        raise UserError(f"data set {plan.dataset_name} has the splits {splits}, and the recipe reads none of them")
    return rows


def _sweep(path: str, dataset: str, cluster: str, overrides: list[str]) -> tuple[Plan, Callable[[Plan], list[Row]]]:
    from experiments.benchmarks.capacity_train import tune
    from pipelines.sweep import candidates, load_sweep, points, trial_experiment

    mine = [o for o in overrides if o.partition(".")[0] in ("cluster", "dataset")]
    sweep, base = load_sweep(path, [o for o in overrides if o not in mine])
    drawn = points(sweep) or candidates(sweep)[:1] * sweep.search.trials
    trials = [trial_experiment(base, "trial", overrides) for overrides in drawn]
    plan = load_plan(str(Path(path).parent / sweep.recipe), dataset, cluster, mine)
    return replace(plan, recipe=path, experiment=base), lambda plan: [tune(plan, trials, sweep.at_once)]


def _check_predictors(plan: Plan) -> None:
    options = plan.experiment.prediction
    wanted = options.actors * options.gpus_per_actor
    if wanted > plan.cluster.all_gpus:
        remedy = "lower prediction.actors or prediction.gpus_per_actor, or set cluster.nodes"
        if plan.cluster.all_gpus == 0:
            remedy = "set prediction.gpus_per_actor=0, or choose another --cluster"
        raise UserError(
            f"prediction asks for {wanted:g} GPUs, and cluster {plan.cluster_name} "
            f"has {plan.cluster.all_gpus}: {remedy}"
        )


def _headline(plan: Plan) -> str:
    cluster, parts = plan.cluster, plan.dataset.parts
    frames, hours = sum(part.frames for part in parts), sum(part.hours for part in parts)
    gpus = f"{cluster.all_gpus} {cluster.gpu}, " if cluster.all_gpus else ""
    return (
        f"{plan.recipe} for {plan.dataset_name} ({plan.dataset.videos:,} videos, {frames:,} frames, {_number(hours)} h)"
        f" on {plan.cluster_name} ({cluster.nodes} x {cluster.type}: {gpus}{cluster.all_cores} cores, "
        f"{cluster.network_gbit:g} Gbit/s a node, {cluster.price * cluster.nodes:.2f} $/h)\n"
        f"processor time as measured on {plan.costs.machine}"
    )


def _table(plan: Plan, by_case: dict[Case, list[Row]]) -> str:
    lines = [
        "| verb | hours | node-hours | $ | read | written | kept | bottleneck |",
        "|---|---|---|---|---|---|---|---|",
    ]
    total = [0.0, 0.0, 0.0]
    for rows in zip(*(by_case[case] for case in _CASES), strict=True):
        best, likely, worst = (row.seconds / 3600 for row in rows)
        row, nodes = rows[1], plan.cluster.nodes
        money = [hours * nodes * plan.cluster.price + row.request_price for hours in (best, likely, worst)]
        total = [sum(pair) for pair in zip(total, money, strict=True)]
        rests = row.bottleneck in row.estimated or (best, worst) != (likely, likely)
        name = f"{row.name} (GPU estimated)" if rests else row.name
        lines.append(
            f"| {name} | {_between((best, likely, worst), rests)} | {_number(likely * nodes)} | "
            f"{_between(money, rests)} | {_bytes(row.read)} | {_bytes(row.written)} | {_bytes(row.kept)} | "
            f"{row.bottleneck} |"
        )
    kept = sum(row.kept for row in by_case["likely"])
    month = kept / 1e9 * plan.known.store.gb_month_price
    estimated = " (GPU estimated)" if total[0] != total[2] else ""
    lines.append(
        f"\nall together{estimated}: {_between(total, bool(estimated))} $; keeping {_bytes(kept)} in the store takes "
        f"{_number(month)} $ a month"
    )
    return "\n".join(lines)


def _uses(rows: list[Row]) -> str:
    lines = ["| verb | hours before | resource | hours alone | in use |", "|---|---|---|---|---|"]
    for row in rows:
        for resource, seconds in sorted(row.loads.items(), key=lambda load: -load[1]):
            if row.used(resource) < _SHOWN:
                continue
            rests = " (GPU estimated)" if row.estimated else ""
            lines.append(
                f"| {row.name}{rests} | {_number(row.start_s / 3600)} | {resource} | {_number(seconds / 3600)} | "
                f"{100 * row.used(resource):.0f} % |"
            )
    return "\n".join(lines)


def _breaks(found: list) -> str:  # type: ignore[type-arg]
    lines = ["| breaks at | | verb | where | what | here | bound |", "|---|---|---|---|---|---|---|"]
    for limit in found:
        state = "**broken**" if limit.broken else "holds"
        here, bound = (f"{_bytes(x)}" if limit.unit == "bytes" else f"{_number(x)} {limit.unit}" for x in
                       (limit.value, limit.bound))  # fmt: skip
        lines.append(
            f"| {_number(limit.breaks_at)} {limit.of} | {state} | {limit.verb} | `{limit.where}` | {limit.what} | "
            f"{here} | {bound} |"
        )
    return "\n".join(lines)


def _between(case: Sequence[float], rests: bool) -> str:
    best, likely, worst = case
    return f"{_number(likely)} ({_number(best)} to {_number(worst)})" if rests else _number(likely)


def _number(value: float) -> str:
    """Two digits that mean something: these are no measurements."""
    if value >= 10:
        digits = 10 ** (len(str(int(value))) - 2)
        return f"{round(value / digits) * digits:,.0f}"
    return f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{_number(value)} {unit}"
        value /= 1000
    return f"{_number(value)} PB"


if __name__ == "__main__":
    sys.exit(main())
