"""A run's system metrics: MLflow's own, kept where the store does not take them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.tracking import Run, impatient


@contextmanager
def system_metrics(run: Run) -> Iterator[None]:
    """Processor, memory, disk, network and GPUs of this machine every ten seconds, as MLflow's own system metrics.

    What the store does not take is kept and offered again, at the end at last; then it is left out with a line.
    """
    monitor = _system_monitor(run)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _system_monitor(run: Run) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):  # type: ignore[misc]
        """MLflow's, but for where the values go: its own gives up when the store first fails."""

        def __init__(self) -> None:
            super().__init__(run.run_id, resume_logging=True, tracking_uri=run.uri)
            self.kept: list[tuple[str, float, int, int]] = []

        def monitor(self) -> None:
            while not self._shutdown_event.wait(self.sampling_interval):
                self.collect_metrics()
                now = time.time_ns() // 1_000_000
                values = self.aggregate_metrics().items()
                self.kept += [(f"system/{name}", value, self._logging_step, now) for name, value in values]
                self._logging_step += 1
                for each in self.monitors:
                    each.clear_metrics()
                self.offer()

        def offer(self) -> None:
            with suppress(Exception):  # of a store that may be back at the next time
                with impatient():
                    run.log_series(self.kept)
                self.kept = []

        def finish(self) -> None:
            self._shutdown_event.set()
            self._process.join()
            self.offer()

    return Monitor()
