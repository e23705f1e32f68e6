"""Which tests share a process when the suite runs in several; object stores for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import stores


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray run one after the other, and first: each takes every core. The others stay with their file, for its fixtures."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


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
