"""How a worker counts: its own registry is ahead, and the file that the supervisor reads catches up when it is asked to."""

import time

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess, values

from gateway.telemetry.counting import count_in_memory


class Worker:
    """Metrics that count in memory, and what a supervisor reads of them."""

    def __init__(self, folder):
        self.folder = folder
        self.write = count_in_memory()
        self.registry = CollectorRegistry()

    def own(self, name, **labels):
        return self.registry.get_sample_value(name, labels)

    def in_file(self, name, **labels):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(self.folder))
        return registry.get_sample_value(name, labels)


@pytest.fixture
def worker(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    yield Worker(tmp_path)
    values.ValueClass.close_all_files()


def test_counts_add_up_in_memory_and_are_written_when_that_is_asked_for(worker):
    counter = Counter("asked", "", ["by"], registry=worker.registry)
    counter.labels("one").inc()
    counter.labels("one").inc(2)
    counter.labels("other")
    assert worker.own("asked_total", by="one") == 3
    assert worker.in_file("asked_total", by="one") == 0
    worker.write()
    assert worker.in_file("asked_total", by="one") == 3
    assert worker.in_file("asked_total", by="other") == 0
    counter.labels("one").inc()
    worker.write()
    worker.write()
    assert worker.in_file("asked_total", by="one") == worker.own("asked_total", by="one") == 4


def test_a_histogram_is_written_whole(worker):
    histogram = Histogram("took", "", buckets=(1, 2), registry=worker.registry)
    for seconds in (0.5, 1.5, 1.5, 9):
        histogram.observe(seconds)
    assert worker.in_file("took_count") == 0
    worker.write()
    for read in (worker.own, worker.in_file):
        assert [read("took_bucket", le=bound) for bound in ("1.0", "2.0", "+Inf")] == [1, 3, 4]
        assert (read("took_count"), read("took_sum")) == (4, 12.5)


def test_a_gauge_is_set_and_moved_in_any_order(worker):
    gauge = Gauge("open", "", multiprocess_mode="livesum", registry=worker.registry)
    gauge.inc()
    gauge.set(7)
    gauge.inc(3)
    gauge.dec()
    assert worker.own("open") == 9
    worker.write()
    assert worker.in_file("open") == 9
    gauge.dec(9)
    gauge.set(2)
    worker.write()
    assert worker.in_file("open") == worker.own("open") == 2


def test_the_most_recent_is_what_was_set_last_not_what_was_written_last(worker):
    gauge = Gauge("seen", "", multiprocess_mode="mostrecent", registry=worker.registry)
    another = values.MultiProcessValue(process_identifier=lambda: 1)
    seen_by_another = another("gauge", "seen", "seen", (), (), "", multiprocess_mode="mostrecent")
    gauge.set(1)
    seen_by_another.set(2, timestamp=time.time() + 0.001)
    worker.write()
    assert worker.in_file("seen") == 2
    time.sleep(0.002)
    gauge.set(3)
    assert worker.in_file("seen") == 2
    worker.write()
    assert worker.in_file("seen") == 3
    another.close_all_files()


def test_who_takes_over_the_number_of_a_process_that_died_counts_on(worker):
    Counter("asked", "", registry=worker.registry).inc(5)
    worker.write()
    values.ValueClass.close_all_files()
    successor = Worker(worker.folder)
    Counter("asked", "", registry=successor.registry).inc()
    successor.write()
    assert successor.in_file("asked_total") == 6
