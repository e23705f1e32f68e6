"""`endpoint.py [SLOTS] [LATENCY_MS]`: how full a server's slots are kept by a whole `caption` run: bound 0.95.

The server answers after a fixed time and refuses with 429 what is above its slots. It runs in a process of its own. Counted from the
first request's begin to the begin of the last SLOTS requests: the end, where fewer are left than slots, is outside.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from corpus import write_pictures

SHARDS, SAMPLES = 4, 600


def serve(slots: int, latency_s: float, channel: Any) -> None:
    """Runs the server until told to stop; gives the spans of its requests."""
    import asyncio
    import time

    from aiohttp import web

    inside = refused = 0
    spans: list[tuple[float, float]] = []
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
    answer["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a noisy square"}}]

    async def complete(request: web.Request) -> web.Response:
        nonlocal inside, refused
        await request.read()
        if inside >= slots:
            refused += 1
            return web.json_response({"error": {"message": "busy"}}, status=429, headers={"retry-after": "0.1"})
        inside += 1
        began = time.monotonic()
        await asyncio.sleep(latency_s)
        inside -= 1
        spans.append((began, time.monotonic()))
        return web.json_response(answer)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]})

    async def main() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", complete)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        channel.send(runner.addresses[0][1])
        while not channel.poll():
            await asyncio.sleep(0.1)
        channel.send((spans, refused))

    asyncio.run(main())


def main() -> None:
    """One run of `nightcap caption`."""
    slots = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    latency_s = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.2
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(slots, latency_s, theirs))
    server.start()
    port = ours.recv()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "shards", SHARDS, SAMPLES)
        command = ["nightcap", "caption", str(folder / "shards"), "-o", str(folder / "out"), "--engine", "endpoint", "--model", "m"]
        command += ["--endpoint", f"http://127.0.0.1:{port}/v1"]
        subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
        record = json.loads(next(folder.glob("out/runs/*/run.json")).read_text())
    ours.send("stop")
    spans, refused = ours.recv()
    server.join()
    spans.sort()
    end = spans[-slots][0]
    used = sum(min(b, end) - a for a, b in spans if a < end)
    share = used / (slots * (end - spans[0][0]))
    print(
        f"{slots} slots, {latency_s * 1000:.0f} ms: {share:.3f} of the slots busy over {end - spans[0][0]:.1f} s, {len(spans):,} served, {refused} refused"
    )
    print(f"the run says: busy {record['efficiency']['busy']}")


if __name__ == "__main__":
    main()
