"""`nightcap report`: the page of a run, from its files."""

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from jobs.display import console
from pipeline.errors import StoppedError
from pipeline.storage import Folder


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Options of `nightcap report`."""

    run: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """Output folder of a job, for its latest run, or the folder runs/ID in it."""


def run(config: ReportConfig) -> int:
    """Writes the page beside run.json."""
    from pipeline.reports.facts import locate
    from pipeline.reports.page import write_page

    store, record = locate(config.run)
    path = write_page(store, record)
    console.print(f"report   {store.url}/{path}", soft_wrap=True)
    return 0


def page_of(store: Folder, record: str) -> str:
    """The page of a run that has just ended; where it cannot be made, one line says why, for the run itself is done."""
    try:
        from pipeline.reports.page import write_page

        return f"{store.url}/{write_page(store, record)}"
    except StoppedError:  # a full disk, which the run that it stopped tells in a line of its own
        return f"not written, storage takes no more; nightcap report {store.url} makes it later"
    except Exception as exc:
        return f"could not be made ({type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}); nightcap report {store.url} tries again"
