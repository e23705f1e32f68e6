"""What representations know: retrieval, a linear probe, zero-shot classification. On arrays, whatever model made them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RequestError
from pipeline.evaluation.medium import check_log_probabilities

ONE_THREAD = 1 << 22
"""Numbers in the features below which a probe is fitted by one thread."""
BLOCK = 1024
"""Queries compared at a time: memory is BLOCK x targets float32."""


def ranks(queries: np.ndarray, targets: np.ndarray, query_labels: np.ndarray, target_labels: np.ndarray) -> np.ndarray:
    """Rank of the best right target of each query by dot product, from 1; equals ahead count half of themselves, rounded up.

    Embeddings are (n, width), rows of unit length for cosines. Targets with the query's label are right: captions that are
    equal must not count against each other. RequestError for a query without a right target, and for NaN.
    """
    if not (np.isfinite(queries).all() and np.isfinite(targets).all()):
        raise RequestError("embeddings hold NaN or infinity: the model's weights are damaged or diverged; evaluate an earlier checkpoint")
    out = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        similar = queries[start : start + BLOCK].astype(np.float32) @ targets.T.astype(np.float32)
        right = query_labels[start : start + BLOCK, None] == target_labels[None, :]
        if not right.any(axis=1).all():
            missing = start + int(np.flatnonzero(~right.any(axis=1))[0])
            raise RequestError(f"query {missing} has no target of its own among {len(targets):,}: media and texts are of different samples")
        best = np.where(right, similar, -np.inf).max(axis=1, keepdims=True)
        ahead, equal = ((similar > best) & ~right).sum(axis=1), ((similar == best) & ~right).sum(axis=1)
        out[start : start + BLOCK] = 1 + ahead + (equal + 1) // 2
    return out


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier over frozen features."""

    weights: np.ndarray
    """(width + 1, classes); the last row is the bias."""
    mean: np.ndarray
    scale: np.ndarray
    classes: tuple[str, ...]

    def predict(self, features: np.ndarray) -> list[str]:
        """The class of each row."""
        scaled = (features - self.mean) / self.scale
        return [self.classes[at] for at in np.argmax(scaled @ self.weights[:-1] + self.weights[-1], axis=1)]


def fit_probe(features: np.ndarray, labels: Sequence[str], *, decay: float = 1e-3, steps: int = 200) -> Probe:
    """Multinomial logistic regression by L-BFGS from zero: the same features give the same probe. RequestError for one class."""
    import torch

    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise RequestError(
            f"a probe needs two classes or more; all {len(labels):,} samples are {classes[0] if classes else 'without one'!r}"
        )
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    known = {name: at for at, name in enumerate(classes)}
    inputs = torch.from_numpy(((features - mean) / scale).astype(np.float32))
    wanted = torch.tensor([known[label] for label in labels])
    weights = torch.zeros(features.shape[1] + 1, len(classes), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights[:-1] + weights[-1], wanted) + decay * weights[:-1].square().sum()
        value.backward()
        return value

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if features.size < ONE_THREAD else threads)  # on small matrices threads cost more than they do
    try:
        optimiser.step(loss)
    finally:
        torch.set_num_threads(threads)
    return Probe(weights.detach().numpy(), mean, scale, classes)


def cross_validated(features: np.ndarray, labels: Sequence[str], *, folds: int = 5, seed: int = 0) -> list[str]:
    """The class of each row by a probe that was fitted on the other folds; every class is spread over the folds evenly, by a seed."""
    names = np.array(labels, object)
    order = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), np.int64)
    for name in sorted(set(labels)):
        members = order[names[order] == name]
        fold[members] = np.arange(len(members)) % folds
    out = np.empty(len(names), object)
    for number in range(min(folds, int(fold.max()) + 1)):
        mine = fold == number
        out[mine] = fit_probe(features[~mine], names[~mine].tolist()).predict(features[mine])
    predicted: list[str] = out.tolist()
    return predicted


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Class numbers by three readings of the same log-probabilities."""

    raw: np.ndarray
    """The largest log P(y | x): favours short names."""
    normalised: np.ndarray
    """Divided by the name's tokens."""
    calibrated: np.ndarray
    """log P(y | x) - log P(y | no medium): what the medium adds."""


def zero_shot(given: np.ndarray, without: np.ndarray, tokens: np.ndarray) -> ZeroShot:
    """(samples, classes) log-probabilities of class names, (classes,) without a medium, (classes,) tokens."""
    check_log_probabilities(given)
    check_log_probabilities(without)
    return ZeroShot(given.argmax(axis=1), (given / tokens).argmax(axis=1), (given - without).argmax(axis=1))
