"""Creates the night's RayJob and waits for its end; the exit code is 0 if it succeeded. Standard library and PyYAML only.

The name holds the date, so that a second start of the same night finds the first one's RayJob and waits for that.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

POLL_S = 30.0
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def of_the_night(manifest: dict[str, Any], night: str) -> dict[str, Any]:
    """The RayJob with the night in its name and its command."""
    spec = {**manifest["spec"], "entrypoint": f"{manifest['spec']['entrypoint']} --date {night}"}
    return {**manifest, "metadata": {**manifest["metadata"], "name": f"nightcap-{night}"}, "spec": spec}


def outcome(status: dict[str, Any]) -> int | None:
    """The exit code by a RayJob's status; None while it goes on."""
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    return 1 if status.get("jobStatus") == "STOPPED" or status.get("jobDeploymentStatus") in ("Failed", "ValidationFailed") else None


def ask(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to the API server."""
    request = urllib.request.Request(
        f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}",
        json.dumps(body).encode() if body else None,
        {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30, context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def main() -> int:
    """Creates, or finds, and waits."""
    night = os.environ.get("NIGHT") or f"{datetime.now(UTC):%Y-%m-%d}"
    job = of_the_night(yaml.safe_load(Path(sys.argv[1]).read_text()), night)
    base = f"/apis/ray.io/v1/namespaces/{(ACCOUNT / 'namespace').read_text()}/rayjobs"
    try:
        ask("POST", base, job)
    except urllib.error.HTTPError as exc:
        if exc.code != 409:
            raise
    while True:
        try:
            code = outcome(ask("GET", f"{base}/{job['metadata']['name']}").get("status") or {})
        except OSError as exc:  # the API server may be away for a while; the RayJob's deadline bounds the night
            code = 1 if isinstance(exc, urllib.error.HTTPError) and exc.code == 404 else None
        if code is not None:
            return code
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
