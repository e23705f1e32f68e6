"""`caption` with an engine that sleeps: bound 0.90 of the engine alone, aim 0.97; 50 ms beside 50 ms in under 60 ms."""

import steady
from corpus import interleaved, show, write_pictures

from pipeline.captions.engine import EngineConfig

SHARDS, SAMPLES, ROUNDS = 5, 640, 2


def main() -> None:
    """Two comparisons in one Ray session."""
    total = SHARDS * SAMPLES
    with steady.bench() as folder:
        write_pictures(folder / "shards", SHARDS, SAMPLES)
        starts: list[float] = []

        def caption(config: EngineConfig) -> float:
            spent, start = steady.through(folder, config)
            starts.append(start)
            return spent

        device = EngineConfig(engine="engines:Sleeping", model="0,50")
        groups = steady.batches(folder, device)
        figures = interleaved(
            {
                "caption, samples/s": lambda: total / caption(device),
                "engine alone, samples/s": lambda: total / steady.alone(groups, device),
            },
            ROUNDS,
        )
        show(figures, "")
        pairs = [a / b for a, b in zip(*figures.values(), strict=True)]
        show({"share of the engine alone": pairs}, "")
        both = EngineConfig(engine="engines:Sleeping", model="50,50")
        show(interleaved({"50 ms beside 50 ms": lambda: 1000 * caption(both) / len(groups)}, ROUNDS), "ms a batch")
        show({"before the first call, apart": starts}, "s")


if __name__ == "__main__":
    main()
