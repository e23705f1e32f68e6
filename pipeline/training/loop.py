"""The training loop of one worker: tables of the feed in, checkpoints and metrics out. No Ray here: whoever has an iterator can train.

    table ─> batch ─> augment ─> losses ─> step ─> marks ─┬─> checkpoint (at most every few minutes)
                                                          └─> validation (evenly over the run)

What steers is decided alike on all workers: one small sum a step carries the first worker's clock and wishes with the counts.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import torch

from pipeline.errors import StoppedError
from pipeline.model.memory import Memory
from pipeline.storage import Folder
from pipeline.training import precision
from pipeline.training.batches import Fed, collate, to_device
from pipeline.training.checkpoints import FOLDER, Checkpoints
from pipeline.training.corpus import read_rows
from pipeline.training.feed import decode_rows
from pipeline.training.kept import KeptGrids
from pipeline.training.metrics import MetricsLog
from pipeline.training.progress import Marker, Progress, count, rows_of
from pipeline.training.schedule import Spent, learning_rate_share, share_done
from pipeline.training.setup import Setup, Snapshot, Standing, make_optimiser, resume_optimiser, start_model
from pipeline.training.step import Stepped, Stepper
from pipeline.training.validate import Validator
from pipeline.training.world import World

LOG_EVERY_S = 5.0
TRIAL_ROWS = 16


@dataclass(slots=True)
class _Window:
    """What happened since the last line of metrics."""

    began_s: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0
    samples: int = 0
    steps: int = 0
    done: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    gradient: float = 0.0

    def add(self, stepped: Stepped, samples: int) -> None:
        self.steps += 1
        self.samples += samples
        self.gradient = max(self.gradient, stepped.gradient)
        for name, total in stepped.totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0.0) + stepped.counts[name]


class Training:
    """One worker's part of a run."""

    def __init__(
        self, setup: Setup, world: World, checkpoint: str | None, begin_again: Callable[[Progress], None] = lambda progress: None
    ) -> None:
        """`begin_again` is told, on the first worker, where the next iteration of the feed has to begin."""
        self._setup, self._world, self._begin_again = setup, world, begin_again
        self._store = Folder(setup.output)
        self._checkpoints = Checkpoints(self._store, setup.loop.keep)
        self._pad_id = setup.tokenizer.pad_id
        self.model = start_model(setup, checkpoint).to(world.device)
        optimiser = make_optimiser(self.model, setup.optimiser)
        self._optimiser = optimiser
        self.standing = Standing(Spent(), Progress())
        if checkpoint is not None:
            self.standing = Standing.from_json(self._checkpoints.state(checkpoint))
            resume_optimiser(optimiser, setup.output, checkpoint)
        # Dropout alone draws from here; everything else from the seeds of samples.
        torch.manual_seed(setup.loop.seed * 1_000_003 + self.standing.spent.steps * 1_009 + world.rank)
        loop = setup.loop
        kept = None
        if loop.keep_features:
            kept = KeptGrids(self.model, loop.keep_features, loop.keep_features_mib << 20, lambda: self.done, loop.keep_features_share)
        self._stepper = Stepper(self.model, optimiser, setup.optimiser, setup.mix, world, kept)
        self._marker = Marker(setup.corpus.names)
        self._validator: Validator | None = None
        self._log = MetricsLog(self._store, setup.run_id, tensorboard=setup.loop.tensorboard) if world.first else None
        self._rows = sum(count(ranges) for ranges in setup.universe.values())
        self._spent_before_s = self.standing.spent.seconds
        self._from, self._from_steps = checkpoint, self.standing.spent.steps
        self._tried, self._validated_at = False, -1
        self._start_clock()

    @property
    def done(self) -> float:
        """Share of the run that is done."""
        return share_done(self.standing.spent, self._setup.schedule, self._rows)

    def run(self, tables: Callable[[], Iterator[pa.Table]]) -> Standing:
        """Trains to the end. Each call of `tables` iterates what is left, in tables of one micro-batch; StoppedError where it cannot."""
        try:
            return self._run(tables)
        finally:
            self._checkpoints.wait()  # whatever stopped the training, the checkpoint in flight is worth its steps

    def _run(self, tables: Callable[[], Iterator[pa.Table]]) -> Standing:
        self._start_clock()
        while not self._over():
            for feds in self._groups(tables()):
                self._step(feds)
                if self._over():
                    break
            self._collect()
            if self._over():
                break
            left = self._left()
            if left < self._world.size:
                self._remainder()
                break
            if self._world.first:
                self._begin_again(self.standing.progress)
            self._world.barrier()
        return self._finish()

    def _start_clock(self) -> None:
        self._began_s = self._saved_s = self._logged_s = time.perf_counter()
        self._window = _Window(done=self.done)

    def _over(self) -> bool:
        return self.done >= 1 or self.standing.ended

    def _groups(self, tables: Iterator[pa.Table]) -> Iterator[list[Fed]]:
        """Micro-batches of one step at a time. Time spent on waiting for them is counted."""
        while True:
            feds: list[Fed] = []
            began = time.perf_counter()
            while len(feds) < self._setup.loop.accumulate:
                table = next(tables, None)
                if table is None:
                    break
                if not self._tried:
                    self._try_precision(table)
                    began = time.perf_counter()
                feds.append(collate(table, px=self._setup.spec.px, pad_id=self._pad_id))
            self._window.waited_s += time.perf_counter() - began
            if not feds:
                return
            yield feds

    def _try_precision(self, table: pa.Table) -> None:
        """Chooses the numbers to compute with by a few passes over the first rows. The clock starts after it: neither it nor the
        start of the feed is training time."""
        self._tried = True
        setup = self._setup
        fed = collate(table.slice(0, TRIAL_ROWS), px=setup.spec.px, pad_id=self._pad_id)
        chosen = precision.choose(self.model, setup.loop.precision, self._world, self._trials(fed))
        self.model.precision = chosen.precision
        if self._log is not None:
            numbers = {"encoder": self.model.precision.encoder, "text": self.model.precision.text}
            told = {"precision": numbers, "trial_s": chosen.seconds, "origins": list(self.model.origins)}
            self._log.write({"kind": "start", "step": self.standing.spent.steps, **told})
        self._start_clock()

    def _trials(self, fed: Fed) -> dict[precision.Part, Callable[[], None]]:
        """Passes over a batch: of the encoder alone, and of all that comes after it."""
        batch, mix, model = to_device(fed.batch, self._world.device), self._setup.mix, self.model

        @functools.cache
        def seen() -> Memory:
            with torch.no_grad():
                found: Memory = model.encode(batch, train=True)
            return found

        def encoder() -> None:
            model.encode(batch, train=True).states_bmd.float().sum().backward()

        def text() -> None:
            memory = dataclasses.replace(seen(), states_bmd=seen().states_bmd.clone().requires_grad_())
            sum(loss.total for loss in model(batch, mix, train=True, memory=memory).values()).backward()

        return {"encoder": encoder, "text": text}

    def _step(self, feds: list[Fed]) -> None:
        spent, loop, now = self.standing.spent, self._setup.loop, time.perf_counter()
        own = self._stepper.counts(feds)
        first = self._world.first
        wishes = [
            (self._spent_before_s + now - self._began_s) * first,
            float(first and now - self._saved_s > 60 * loop.checkpoint_minutes),
            float(first and now - self._logged_s > LOG_EVERY_S),
            float(first and self._checkpoints.failed),
        ]
        seconds, save, log, failed, samples, *counts = self._world.sum([*wishes, sum(fed.size for fed in feds), *own.values()])
        self._stop_if(bool(failed))
        before = self.done
        share = learning_rate_share(before, self._setup.schedule)
        try:
            stepped = self._stepper.step(feds, dict(zip(own, counts, strict=True)), share, self._setup.augmentation)
        except StoppedError as exc:
            if self._from is None or spent.steps > self._from_steps:
                raise
            fault = f"Or it was at fault, as this was the first step after it: delete {FOLDER}/{self._from}, and the one before is used"
            raise StoppedError(f"{exc}. {fault}") from exc
        for fed in feds:
            self._marker.mark(fed.epoch_b, fed.file_b, fed.row_b)
        self._window.add(stepped, int(samples))
        spent.steps, spent.samples, spent.seconds = spent.steps + 1, spent.samples + int(samples), seconds
        if log:
            self._write_metrics(share)
        if self._validation_due(before):
            self._validate()
        elif (save or (loop.checkpoint_steps and spent.steps % loop.checkpoint_steps == 0)) and not self._over():  # the last: `_finish`
            self._save(export=self.standing.best is None)

    def _validation_due(self, before: float) -> bool:
        """A mark was passed; the one at the end belongs to `_finish`."""
        many = self._setup.loop.validations
        return bool(many) and bool(self._setup.held_out) and int(before * many) < int(self.done * many) < many

    def _write_metrics(self, share: float) -> None:
        """One line over all workers; every worker calls it."""
        window, spent = self._window, self.standing.spent
        totals = self._world.sum([*window.totals.values(), window.waited_s])
        now = time.perf_counter()
        elapsed = max(now - window.began_s, 1e-9)
        speed = (self.done - window.done) / elapsed
        if self._log is not None:
            epoch = spent.samples / max(1, self._rows)
            losses = {name: total / max(window.counts[name], 1.0) for name, total in zip(window.totals, totals, strict=False)}
            rates = {"samples_per_s": window.samples / elapsed, "steps_per_s": window.steps / elapsed}
            waiting = totals[-1] / elapsed / self._world.size
            left = (1 - self.done) / speed if speed > 0 else None
            where = {"step": spent.steps, "samples": spent.samples, "epoch": epoch, "done": self.done, "seconds": spent.seconds}
            rate = share * self._setup.optimiser.learning_rate
            record = {"kind": "step", **where, "loss": losses, "learning_rate": rate, "gradient": window.gradient, **rates}
            self._log.write({**record, "waiting": waiting, "eta_s": left})
        self._window = _Window(done=self.done)
        self._logged_s = now

    def _validate(self) -> None:
        """Measures the model and keeps a checkpoint, exported if it is the best so far."""
        setup, standing = self._setup, self.standing
        if self._validator is None:
            size = max(setup.loop.batch_size, 2)
            self._validator = Validator(setup.validation, setup.held_out, setup.spec, setup.tokenizer, self._world, size)
        began, self._validated_at = time.perf_counter(), standing.spent.steps
        found = self._validator.run(self.model, setup.mix)
        better = standing.best_score is None or found.score < standing.best_score
        standing.worse = 0 if better else standing.worse + 1
        standing.ended = bool(setup.loop.patience) and standing.worse >= setup.loop.patience
        if better:
            standing.best_score = found.score
        if self._log is not None:
            record = {"kind": "validation", "step": standing.spent.steps, "done": self.done, "samples": self._validator.samples}
            measured = {"loss": found.losses, "perplexity": found.perplexity, "best": better, "captions": list(found.captions)}
            self._log.write({**record, **measured, "seconds": time.perf_counter() - began})
        self._save(export=better, best=better)

    def _collect(self) -> None:
        """Adds what all workers have stepped on to the progress; every worker calls it."""
        for marks in self._world.gather(self._marker.take()):
            self.standing.progress.add(marks)
        self.standing.progress.settle(self._setup.universe)

    def _save(self, *, export: bool, best: bool = False) -> None:
        """A checkpoint of this moment, written beside the training; every worker calls it. StoppedError for weights that are not finite:
        the one before is worth more."""
        lost = any(bool((~torch.isfinite(value)).any()) for value in self.model.state_dict().values() if value.is_floating_point())
        if self._world.sum([float(lost)])[0]:
            raise StoppedError(
                f"the weights are not finite after step {self.standing.spent.steps:,}; the last checkpoint is kept. "
                "Lower --learning-rate and run the same command again"
            )
        self._collect()
        self._saved_s = time.perf_counter()
        self._written()
        if not self._world.first:
            return
        snapshot = Snapshot(self.model, self._optimiser, self._setup.tokenizer)
        name = self._checkpoints.new_name(self.standing.spent.steps)
        if best:
            self.standing.best = name
        self._checkpoints.save(name, snapshot.write, self.standing.to_json(), export=export, best=self.standing.best)

    def _written(self) -> None:
        """Until the checkpoint in flight is written; every worker calls it and stops where that failed."""
        failed = self._world.first and not self._checkpoints.wait()
        self._stop_if(bool(self._world.sum([float(failed)])[0]))

    def _stop_if(self, failed: bool) -> None:
        if failed:
            self._checkpoints.check()
            raise StoppedError("the first worker could not write a checkpoint")

    def _left(self) -> int:
        """Samples left of all epochs, counted up to the number of workers."""
        total = 0
        for epoch in range(self.standing.progress.finished, self._setup.epochs):
            total += sum(count(ranges) for ranges in self.standing.progress.left(epoch, self._setup.universe).values())
            if total >= self._world.size:
                break
        return total

    def _remainder(self) -> None:
        """The last samples, fewer than there are workers, which no equal split can give: one padded batch."""
        setup, world = self._setup, self._world
        tables = []
        for epoch in range(self.standing.progress.finished, setup.epochs):
            left = self.standing.progress.left(epoch, setup.universe)
            for number, file in enumerate(setup.corpus.files):
                if file.name in left:
                    rows = rows_of(left[file.name])
                    files = rows * 0 + number
                    table = read_rows(file, left[file.name])
                    tables.append(decode_rows(table, setup.spec, seed=setup.loop.seed, epoch=epoch, files=files, rows=rows))
        if not tables:
            return
        whole = pa.concat_tables(tables)
        mine = whole.slice(world.rank, 1)
        fed = collate(mine if mine.num_rows else whole.slice(0, 1), px=setup.spec.px, pad_id=self._pad_id, real=mine.num_rows)
        self._step([fed])
        self._collect()

    def _finish(self) -> Standing:
        """The last metrics, validation and checkpoint, and `OUT/model`."""
        if self._window.steps:
            self._write_metrics(learning_rate_share(self.done, self._setup.schedule))
        if not (self._setup.loop.validations and self._setup.held_out):
            self._save(export=True)
        elif self._validated_at != self.standing.spent.steps:
            self._validate()
        self._written()
        if self._log is not None:
            self._log.close()
        return self.standing
