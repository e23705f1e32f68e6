"""Workers of a training and what each reserves:

- one a GPU, or one without any; more than there are is refused, and both numbers are said;
- on CPUs they leave half of Ray's for reading, so that a training never waits for its own data.
"""

import pytest

from jobs.launch import shares
from pipeline.errors import RequestError


@pytest.mark.parametrize(("wanted", "devices", "workers"), [(0, 0, 1), (2, 0, 2), (0, 4, 4), (3, 4, 3)])
def test_workers_are_those_asked_for_or_one_a_device(wanted: int, devices: int, workers: int) -> None:
    found = shares(wanted, devices=devices, cpus=8, most=4)
    assert (found.num_workers, found.use_gpu) == (workers, devices > 0)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_on_cpus_half_is_left_for_reading(workers: int) -> None:
    found = shares(workers, devices=0, cpus=4, most=4)
    assert found.num_workers * found.resources_per_worker["CPU"] <= 2


@pytest.mark.parametrize(("devices", "said"), [(0, "--workers 9: there are 4 CPUs"), (2, "--workers 9: there are 2 GPUs")])
def test_more_workers_than_there_are_devices_are_refused(devices: int, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        shares(9, devices=devices, cpus=8, most=4)
