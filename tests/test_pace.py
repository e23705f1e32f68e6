"""The pause in Ray's scheduling loop:

- Ray Data calls it at each turn of an execution (its hook is there, under the name that is used);
- it is set once, however often a session begins;
- an execution begins once Ray knows its CPUs, and not later than ANSWER_S; what it asks for that is still there.
"""

import inspect
import time
from types import SimpleNamespace

import pytest

from pipeline import pace
from pipeline.pace import AheadPace, Pace, set_pace


def test_it_is_set_once_and_has_every_method_of_rays_hook() -> None:
    from ray.data import DataContext
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    context = DataContext()
    set_pace(context)
    set_pace(context)
    assert context.custom_execution_callback_classes.count(Pace) == 1
    context.custom_execution_callback_classes.append(dict)
    set_pace(context, AheadPace)
    assert context.custom_execution_callback_classes[-2:] == [dict, AheadPace], "one pause at a time, and nobody else's hook is lost"
    wanted = {name: inspect.signature(method) for name, method in vars(ExecutionCallback).items() if not name.startswith("_")}
    assert wanted
    for name, signature in wanted.items():
        assert list(inspect.signature(getattr(Pace, name)).parameters) == list(signature.parameters)


def test_an_execution_begins_once_ray_knows_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    monkeypatch.setattr(pace, "ANSWER_S", 0.1)
    answers = [0.0, 0.0, 4.0]
    autoscaler = SimpleNamespace(get_total_resources=lambda: SimpleNamespace(cpu=answers.pop(0) if answers else 0.0))
    Pace().before_execution_starts(SimpleNamespace(_cluster_autoscaler=autoscaler))
    assert answers == []
    began = time.monotonic()
    Pace().before_execution_starts(SimpleNamespace(_cluster_autoscaler=autoscaler))
    assert 0.1 <= time.monotonic() - began < 2
    Pace().before_execution_starts(SimpleNamespace())
    assert hasattr(ClusterAutoscaler, "get_total_resources") and "_cluster_autoscaler" in inspect.getsource(StreamingExecutor.execute)
