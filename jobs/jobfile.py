"""A job as a YAML file: the same names as the flags. What is wrong in it is told with its line, and the nearest name.

The names come from the job's configuration class, so that there is one declaration an option.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import yaml

from pipeline.errors import RequestError

Names = dict[str, "Names | None"]
"""Keys that are known, and those below each; None where anything or nothing may stand below."""
Lines = dict[str, int]
"""Line of every key, 1-based, by its path: `drift.rejects`."""


def names_of(config: type[Any]) -> Names:
    """The keys of a configuration class; fields of flattened classes stand beside the others."""
    found: Names = {}
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        inner = _dataclass_in(hints[field.name])
        if inner is None:
            found[field.name] = None
        elif _is_flat(inner):
            found.update(names_of(inner))
        else:
            found[field.name] = names_of(inner)
    return found


def _dataclass_in(hint: Any) -> type[Any] | None:
    origin = get_origin(hint)
    if origin is Annotated:
        return _dataclass_in(get_args(hint)[0])
    if origin in (Union, UnionType):
        return next((found for one in get_args(hint) if (found := _dataclass_in(one)) is not None), None)
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _is_flat(config: type[Any]) -> bool:
    declared = getattr(config, "__cyclopts__", None)
    return any("*" in (parameter.name or ()) for parameter in getattr(declared, "parameters", ()))


def read(file: str, names: Names | None = None) -> Lines:
    """The lines of a file's keys. RequestError for a file that is missing, no YAML mapping, or has an unknown or repeated key."""
    try:
        root = yaml.compose(Path(file).read_text(), Loader=yaml.SafeLoader)
    except OSError as exc:
        raise RequestError(f"--config {file}: {exc.strerror}") from exc
    except yaml.MarkedYAMLError as exc:
        line = f", line {exc.problem_mark.line + 1}" if exc.problem_mark is not None else ""
        raise RequestError(f"--config {file}{line} is no YAML: {' '.join(str(exc.problem or exc.context).split())}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise RequestError(f"--config {file} is no YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(root, yaml.MappingNode):
        raise RequestError(f"--config {file} holds no mapping; write lines such as 'output: captions'")
    lines: Lines = {}
    _walk(file, root, names, "", lines)
    return lines


def _walk(file: str, node: yaml.MappingNode, names: Names | None, prefix: str, lines: Lines) -> None:
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = str(key.value).replace("-", "_")
        path = prefix + name
        if path in lines:
            raise RequestError(f"{file}, line {line}: {key.value} is given twice, first in line {lines[path]}; keep one")
        lines[path] = line
        if names is not None and name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(names))}"
            raise RequestError(f"{file}, line {line}: unknown key {prefix}{key.value}; {hint}")
        below = names.get(name) if names is not None else None
        if isinstance(value, yaml.MappingNode):
            _walk(file, value, below, f"{path}.", lines)
        elif below is not None and value.tag != "tag:yaml.org,2002:null":  # the options' library would pass over it without a word
            raise RequestError(f"{file}, line {line}: {prefix}{key.value} takes keys below it: {', '.join(sorted(below))}")


def placed(message: str, files: dict[str, Lines]) -> str:
    """A complaint about a flag, with the place in the file that gave its value, if one did."""
    match = re.match(r"--([\w.-]+)", message) or re.search(r"((?:\[[\w.-]+\])+) from|(?<= )--([\w.-]+)", message)
    if match is None:
        return message
    path = next(name for name in match.groups() if name).strip("[]").replace("][", ".").replace("-", "_")
    places = [f"{file}, line {lines[path]}" for file, lines in files.items() if path in lines]
    return f"{places[-1]}: {message}" if places else message


def job_file(tokens: Sequence[str]) -> str:
    """The JOB.yaml of `nightcap nightly JOB.yaml ...`. RequestError where there is none."""
    if len(tokens) < 2 or tokens[1].startswith("-"):
        raise RequestError(f"nightcap {tokens[0]} needs a job file: nightcap {tokens[0]} job.yaml")
    if Path(tokens[1]).suffix.lower() not in (".yaml", ".yml"):
        raise RequestError(f"{tokens[1]} is no job file; write the options of nightcap caption into a .yaml file")
    return tokens[1]
