"""What a verb asks of each resource, in seconds that it would take alone.

What works beside one another takes as long as the slowest: that one is the bottleneck.
"""

from dataclasses import dataclass

from experiments.benchmarks.capacity_inputs import Plan
from experiments.benchmarks.capacity_operations import Operations


@dataclass(frozen=True)
class Row:
    """A verb, or a part of one."""

    name: str
    start_s: float
    """Before and after the work, when nothing runs beside anything."""
    loads: dict[str, float]
    """{resource: seconds}, each alone."""
    estimated: frozenset[str]
    """Those of the resources whose seconds rest on an estimate of the GPU."""
    read: float  # bytes
    written: float
    kept: float
    request_price: float  # dollars

    @property
    def bottleneck(self) -> str:
        return max(self.loads, key=lambda resource: self.loads[resource], default="start")

    @property
    def work_s(self) -> float:
        return max(self.loads.values(), default=0.0)

    @property
    def seconds(self) -> float:
        return self.start_s + self.work_s

    def used(self, resource: str) -> float:
        """Share of the row's time in which the resource works."""
        return self.loads.get(resource, 0.0) / self.seconds if self.seconds else 0.0


class Demand:
    """Adds up a row."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan, self._name = plan, name
        self._loads: dict[str, float] = {}
        self._estimated: set[str] = set()
        self._start = self._read = self._written = self._kept = self._price = 0.0

    def add(self, resource: str, seconds: float, estimated: bool = False) -> None:
        if seconds > 0:
            self._loads[resource] = self._loads.get(resource, 0.0) + seconds
            if estimated:
                self._estimated.add(resource)

    def start(self, seconds: float) -> None:
        self._start += seconds

    def cores(self, seconds: float) -> None:
        """Processor time, shared by all cores."""
        self.add("CPU", seconds / self._plan.cluster.all_cores)

    def store(self, uri: str, read: float = 0.0, written: float = 0.0, kept: float = 0.0) -> None:
        """Bytes between the nodes and where `uri` lies."""
        self._read, self._written, self._kept = self._read + read, self._written + written, self._kept + kept
        self.add("store bandwidth", (read + written) / self._plan.cluster.bytes_per_s)

    def requests(self, uri: str, puts: float = 0.0, gets: float = 0.0) -> None:
        """At an object store, which counts and charges them; its rate is that of one prefix."""
        store = self._plan.known.store
        if self._plan.is_remote(uri):
            self._price += (puts * store.put_price + gets * store.get_price) / 1000
            self.add("store requests", puts / store.puts_per_s + gets / store.gets_per_s)

    def row(self) -> Row:
        return Row(
            self._name, self._start, dict(self._loads), frozenset(self._estimated), self._read, self._written,
            self._kept, self._price,
        )  # fmt: skip


@dataclass(frozen=True)
class Device:
    """What computes the network."""

    is_gpu: bool
    flop_per_s: float
    """Sustained: of a GPU a share of its peak, which is an estimate; of one core measured."""
    launch_s: float = 0.0
    """Of one operator on a GPU, however little it computes."""

    def seconds(self, work: Operations) -> float:
        """Of one GPU, or of one core."""
        return max(work.flop / self.flop_per_s, work.operators * self.launch_s)


def device_of(plan: Plan, on_gpu: bool, precision: str, work: str) -> Device:
    """work: "prediction" or "training", of which a core does differently much."""
    if not on_gpu:
        return Device(False, plan.costs[f"core_gflops_{work}"] * 1e9)
    assert plan.gpu is not None
    share = getattr(plan.known.shares[precision], plan.case)  # type: ignore[index]
    launch = getattr(plan.known.launch_us, plan.case) * 1e-6
    return Device(True, getattr(plan.gpu, precision) * 1e12 * share, launch)


def latency(plan: Plan, uri: str, requests: float) -> float:
    """Seconds that somebody waits who makes these requests one after the other."""
    return requests * plan.known.store.latency_ms / 1000 if plan.is_remote(uri) else 0.0
