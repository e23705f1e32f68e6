"""Which tests share a process when the suite runs in several; object stores for tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests import stores

ROOT = Path(__file__).parents[1]


class _RayInOneProcess(LoadScopeScheduling):  # type: ignore[misc]
    """Files with tests that start Ray share one process, for each takes every core; any other file is a unit, for its fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "ray" if _starts_ray(ROOT / file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Not xdist's own grouping by mark: it needs node ids that pytest 9 no longer lets it change."""
    return _RayInOneProcess(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's tests come first: they take longest."""
    items.sort(key=lambda item: not _starts_ray(item.path))


@cache
def _starts_ray(file: Path) -> bool:
    return "mark.ray" in file.read_text("utf-8")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server for the whole session."""
    with stores.s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def s3(s3_endpoint: str) -> Iterator[stores.Proxy]:
    """S3 behind a proxy that can break things; `s3://bucket` is there. URLs work by the environment, as for a user."""
    import boto3

    from pipeline import storage

    with stores.proxy_to(s3_endpoint) as proxy:
        settings = {**stores.KEYS, "AWS_ENDPOINT_URL": proxy.url, "NIGHTCAP_STALL_S": "1"}
        with stores.environment(**settings):
            storage._filesystem.cache_clear()
            boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="bucket")
            yield proxy
        storage._filesystem.cache_clear()
