"""The house is as described:

- the README's tree names exactly the modules on disk;
- imports point one way: jobs -> stages -> model -> samples -> schema, errors, storage;
- decoders, engines' protocol and the commit's machine import no Ray.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RAY_MAY_BE_NAMED = {"pipeline/samples/source.py", "pipeline/training/source.py", "pipeline/training/worker.py"}


def modules() -> list[Path]:
    return [path for folder in ("pipeline", "jobs") for path in sorted((ROOT / folder).rglob("*.py")) if path.name != "__init__.py"]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer(name: str) -> int:
    parts = name.split(".")
    if parts[0] == "jobs":
        return 4
    if parts[0] != "pipeline" or len(parts) < 2:
        return -1
    return {
        "model": 2,
        "samples": 1,
        "schema": 0,
        "errors": 0,
        "storage": 0,
        "remote": 0,
        "gcs": 0,
        "draft": 0,
        "attempts": 0,
        "pace": 0,
    }.get(parts[1], 3)


def test_the_readme_names_exactly_the_modules_on_disk() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("## The house") : text.index("## Working on it")]
    assert sorted(re.findall(r"\b(\w+\.py)\b", tree)) == sorted(path.name for path in modules())


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in imports_of(path):
            sibling = layer(name) == layer(own) == 3 and name.split(".")[1] != own.split(".")[1]
            if layer(name) > layer(own) or sibling:
                wrong.append(f"{own} imports {name}")
    assert wrong == []


def test_ray_is_named_only_where_it_has_to_be() -> None:
    named = {path.relative_to(ROOT).as_posix() for path in modules() if any(name.split(".")[0] == "ray" for name in imports_of(path))}
    assert {name for name in named if name.startswith("pipeline/")} == RAY_MAY_BE_NAMED


def test_no_module_is_a_giant() -> None:
    assert [path.name for path in modules() if len(path.read_text().splitlines()) > 400] == []
