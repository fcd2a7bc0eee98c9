"""audiomask.runtime.files.batch: many jobs at once, bad ones reported, in order where asked."""

import threading
import time

import pytest

from audiomask.audio import AudioError
from audiomask.runtime.files import batch
from audiomask.runtime.files.batch import Job, Report


def jobs(count):
    return [Job(n) for n in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_job_has_a_report_and_a_bad_one_its_error(workers):
    def work(job, tick):
        tick(1, 1)
        if job.source == 1:
            raise AudioError("bad")
        return Report(job, seconds=job.source)

    seen = []
    reports = list(
        batch.run(jobs(7), work, workers=workers, progress=lambda job, *times: seen.append(job.source))
    )
    assert sorted(report.job.source for report in reports) == list(range(7)) == sorted(seen)
    assert [str(report.error) for report in reports if report.error] == ["bad"]


def test_reports_come_in_order_and_stop():
    second, begun, todo = threading.Event(), [], jobs(50)

    def work(job, tick):
        begun.append(job.source)
        if job.source == 0:
            assert second.wait(10)  # the first ends last
        if job.source == 1:
            second.set()
        while job.source > 2:  # until it is told to end
            tick(0, 0)
            time.sleep(0.001)
        return Report(job)

    reports = batch.in_order(todo, batch.run(todo, work, workers=2))
    assert [next(reports).job.source for _ in range(3)] == [0, 1, 2]
    reports.close()
    assert set(begun) <= set(range(5))  # two at a time, and no more once it is closed
