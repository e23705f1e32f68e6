"""The pause in Ray's scheduling loop:

- Ray Data calls it at each turn of an execution (its hook is there, under the name that is used);
- it is set once, however often a session begins.
"""

import inspect

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
