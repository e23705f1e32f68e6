"""A training on Ray: the trainer, its workers and their shares, its data, and how its failures are told."""

from typing import Any

from jobs.cluster import gpus
from pipeline import storage
from pipeline.errors import RequestError, StoppedError
from pipeline.training.setup import Setup
from pipeline.training.world import cores

AHEAD_BYTES = 128 << 20
"""Decoded rows ahead of one worker. Without a bound reading runs until Ray's store is full, on the cores that the trainer needs."""


def launch(setup: Setup, store: storage.Folder, *, workers: int, max_failures: int, verbose: bool) -> None:
    """The executed training; a Ray session stands. StoppedError where it could not end, RequestError for too many workers."""
    from ray.data import ExecutionOptions, ExecutionResources
    from ray.train import DataConfig, FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipeline.training.source import FeedPlan, training_data
    from pipeline.training.worker import read_stop, work

    scaling = _scaling(workers)
    feed = FeedPlan(
        output=setup.output,
        run_id=setup.run_id,
        corpus=setup.corpus,
        universe=setup.universe,
        spec=setup.spec,
        seed=setup.loop.seed,
        epochs=setup.epochs,
        polite=not scaling.use_gpu,
    )
    ahead = ExecutionResources(object_store_memory=AHEAD_BYTES * scaling.num_workers)
    filesystem, path = storage.resolve(f"{setup.output}/runs/{setup.run_id}/ray")
    trainer = TorchTrainer(
        work,
        train_loop_config={"setup": setup},
        scaling_config=scaling,
        run_config=RunConfig(
            name="train", storage_path=path, storage_filesystem=filesystem, failure_config=FailureConfig(max_failures=max_failures)
        ),
        dataset_config=DataConfig(execution_options=ExecutionOptions(resource_limits=ahead)),
        datasets={"train": training_data(feed, setup.loop.keep, None if scaling.use_gpu else max(1, cores() // 2))},
    )
    failure: BaseException | None = None
    try:
        trainer.fit()
    except TrainingFailedError as exc:
        failure = exc
    stopped = read_stop(store, setup.run_id)
    if stopped is not None:
        raise StoppedError(stopped)
    if failure is not None:
        if verbose:
            raise failure
        lines = [line for line in str(failure).strip().splitlines() if line.strip()]
        raise StoppedError(f"training failed: {lines[-1].strip()}; run the same command again to continue") from failure


def _scaling(wanted: int) -> Any:
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 1))
    return shares(wanted, devices=gpus(), cpus=cpus, most=cores() if len(ray.nodes()) == 1 else cpus)


def shares(wanted: int, *, devices: int, cpus: int, most: int) -> Any:
    """Workers and what each reserves: on CPUs at most half of the logical ones, so that reading always gets its share.

    `most` CPUs are there, Ray counts `cpus`. RequestError for more workers than GPUs, or without any than CPUs.
    """
    from ray.train import ScalingConfig

    workers = wanted or max(1, devices)
    if devices:
        if workers > devices:
            raise RequestError(f"--workers {workers}: there are {devices} GPUs; give at most that many")
        return ScalingConfig(num_workers=workers, use_gpu=True)
    if workers > most:
        raise RequestError(f"--workers {workers}: there are {most} CPUs; give at most that many")
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": min(1.0, cpus / 2 / workers)})
