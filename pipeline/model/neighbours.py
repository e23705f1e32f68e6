"""A memory beside the weights: captions also weigh what the remembered pictures are called that look most alike.

    key(x)      = unit(W (grid(x) - mean)),  W: the first principal directions of the remembered grids, each by its spread ** -0.5
    score(text) = log P(text | x) + weight * likeness(text, x) - familiarity [text is remembered]
    likeness: cosine to the most alike picture of that text

Asked are the model's own text and those of the nearest pictures. A text of the model's own that none of these bears counts as
`novelty` less alike than the nearest. With `familiarity` its beams are asked as well: a model has seen only texts that are
remembered, and hardly says another. Whole texts are weighed; kNN-LM (Khandelwal et al., 2020) mixes them word by word.

    n  remembered pictures     b  asked     f  numbers of a flattened feature grid     k  numbers of a key     t  tokens
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cyclopts import Parameter

from pipeline.errors import RequestError
from pipeline.model.batch import Batch, Pictures
from pipeline.model.generate import Generated, GenerationConfig, generate, several
from pipeline.model.memory import Memory
from pipeline.model.model import MultimodalLM, text_names

FILE = "neighbours.safetensors"
DIRECTIONS, LEARNED_FROM = 1_024, 2_048
"""Numbers of a key; grids that directions are learned from: a decomposition of 2,048 x 4,032 takes 3 s."""
POWER = 0.5
"""0 leaves the spread of directions as it is, 1 makes all alike; the middle found most on the emoji's validation half."""
BEAMS = 6
"""Whose texts are asked with `familiarity`: 12 gave the same on both validation halves of the emoji, with three models, in twice the time."""
_TENSORS = ("mean_f", "directions_fk", "keys_nk", "token_ids_nt")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Weighing:
    """How much is given for likeness."""

    weight: float = 30.0
    """What a likeness of 1 is worth, in units of log-probability: 0 ranks by the model alone, 100 copies the nearest."""
    novelty: float = 0.2
    """By how much a text that no neighbour bears counts as less alike than the nearest: larger copies more, 0 trusts the model."""
    neighbours: int = 8
    """Pictures whose texts are asked."""
    familiarity: float = 0.0
    """What a remembered text pays, in units of log-probability: larger says more texts that were never trained, right and wrong ones. Above
    0 the model's texts of 6 beams are asked. 1 with a weight of 0 is the model alone, open to what it was not trained on."""

    def __post_init__(self) -> None:
        """Raises RequestError for values out of range."""
        if min(self.weight, self.novelty, self.familiarity) < 0 or self.neighbours < 1:
            raise RequestError("weight, novelty and familiarity must be 0 or more, neighbours 1 or more")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Remembered pictures and their texts."""

    mean_f: torch.Tensor
    directions_fk: torch.Tensor
    keys_nk: torch.Tensor
    """Each of length 1."""
    token_ids_nt: torch.Tensor
    """int64: [CLS] words [SEP], padded."""
    weighing: Weighing

    def keys(self, grids_bf: torch.Tensor) -> torch.Tensor:
        """b x k, of length 1."""
        return torch.nn.functional.normalize((grids_bf - self.mean_f) @ self.directions_fk, dim=1)


def remember(grids_nf: torch.Tensor, token_ids_nt: torch.Tensor, weighing: Weighing) -> Neighbours:
    """Learns the directions and makes the keys. At least two grids."""
    sample = grids_nf[torch.linspace(0, len(grids_nf) - 1, min(len(grids_nf), LEARNED_FROM)).round().long()]
    mean_f = sample.mean(dim=0)
    _, spread, across = torch.linalg.svd(sample - mean_f, full_matrices=False)
    kept = int((spread > 1e-5 * spread[0]).sum().clamp(max=DIRECTIONS))
    directions_fk = across[:kept].T * spread[:kept] ** -POWER
    found = Neighbours(mean_f, directions_fk.contiguous(), torch.empty(0), token_ids_nt, weighing)
    return Neighbours(mean_f, found.directions_fk, found.keys(grids_nf), token_ids_nt, weighing)


def grids_of(model: MultimodalLM, pictures: Pictures) -> torch.Tensor:
    """n x f, float32: the backbone's grid of each picture."""
    with torch.inference_mode():
        return model.grids(pictures).float().flatten(1)


def recall(model: MultimodalLM, batch: Batch, neighbours: Neighbours, config: GenerationConfig) -> list[Generated]:
    """One text a picture: the model's own or a neighbour's, whichever scores best. Every row of the batch must be a picture.

    Log-probabilities are the model's. Searches that draw at random or begin with a prompt have no use for neighbours: ValueError.
    """
    if batch.pictures is None or len(batch.pictures.rows_n) != len(batch.weight_b) or config.temperature or config.prompt:
        raise ValueError("neighbours want pictures, no temperature and no prompt")
    weighing = neighbours.weighing
    with torch.inference_mode():
        memory = model.encode(batch)
        if weighing.familiarity:
            own = several(model, memory, dataclasses.replace(config, beams=max(config.beams, BEAMS)))
        else:
            own = [[one] for one in generate(model, memory, config)]
        known = _known(model, neighbours, own) if weighing.familiarity else [[False] * len(mine) for mine in own]
        if weighing.familiarity and not weighing.weight:  # what they bear is likely, and then among the beams, or it is nothing
            return [_best(mine, told, [], [], weighing) for mine, told in zip(own, known, strict=True)]
        near = neighbours.keys(grids_of(model, batch.pictures)) @ neighbours.keys_nk.T
        alike, which = near.topk(min(weighing.neighbours, near.shape[1]), dim=1)
        texts_bnt = neighbours.token_ids_nt[which]
        scores = [_scores(model, memory, texts_bnt[:, at]) for at in range(texts_bnt.shape[1])]
    rows = zip(own, known, zip(*scores, strict=True), alike.tolist(), strict=True)
    return [_best(mine, told, list(others), near_row, weighing) for mine, told, others, near_row in rows]


def _known(model: MultimodalLM, neighbours: Neighbours, own: list[list[Generated]]) -> list[list[bool]]:
    """Which of the model's texts are remembered."""
    pad, start = model.shapes.special["pad"], model.shapes.special["start"]
    remembered = text_names(neighbours.token_ids_nt, neighbours.token_ids_nt != pad)
    texts = [torch.tensor([start, *one.token_ids]) for mine in own for one in mine]
    ids_nt = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad).to(remembered.device)
    told = iter(torch.isin(text_names(ids_nt, ids_nt != pad), remembered).tolist())
    return [[next(told) for _ in mine] for mine in own]


def _scores(model: MultimodalLM, memory: Memory, ids_bt: torch.Tensor) -> list[Generated]:
    """Texts as if they had been generated."""
    pad, stop = model.shapes.special["pad"], model.shapes.special["stop"]
    mask_bt = ids_bt != pad
    each = model.score(memory, ids_bt, mask_bt)
    lengths = mask_bt.sum(dim=1).tolist()
    found = []
    for ids, scores, length in zip(ids_bt.tolist(), each.tolist(), lengths, strict=True):
        found.append(Generated(token_ids=tuple(ids[1:length]), logprobs=tuple(scores[: length - 1]), cut=ids[length - 1] != stop))
    return found


def _best(own: list[Generated], known: list[bool], others: list[Generated], alike: list[float], weighing: Weighing) -> Generated:
    """The text with the best score; of equals the first. `others`: neighbours' texts, the most alike first."""
    asked, unlike = [], (alike[0] if alike else 0.0) - weighing.novelty
    for one, told in zip(own, known, strict=True):
        borne = [likeness for other, likeness in zip(others, alike, strict=True) if other.token_ids == one.token_ids]
        asked.append((one, max(borne) if borne else unlike, told))
    asked += [(other, likeness, True) for other, likeness in zip(others, alike, strict=True)]
    return max(asked, key=lambda three: sum(three[0].logprobs) + weighing.weight * three[1] - weighing.familiarity * three[2])[0]


def save(neighbours: Neighbours, folder: str | Path) -> None:
    """Writes `neighbours.safetensors` beside a checkpoint's weights, whole or not at all."""
    from safetensors.torch import save as to_bytes

    weighing = neighbours.weighing
    metadata = {"weight": str(weighing.weight), "novelty": str(weighing.novelty), "neighbours": str(weighing.neighbours)}
    metadata["familiarity"] = str(weighing.familiarity)
    tensors = {name: getattr(neighbours, name).contiguous() for name in _TENSORS}
    tensors |= {"keys_nk": tensors["keys_nk"].half(), "token_ids_nt": tensors["token_ids_nt"].int()}
    aside = Path(folder) / f".{FILE}.part"
    aside.write_bytes(to_bytes(tensors, metadata))
    aside.replace(Path(folder) / FILE)


def load_neighbours(folder: str | Path, model: MultimodalLM) -> Neighbours | None:
    """What was remembered beside a checkpoint, on the model's device; None where nothing was. RequestError where it does not fit."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    tensors, weighing = _read(path)
    numbers = model.pictures.channels * model.pictures.grid**2 if hasattr(model, "pictures") else 0
    if len(tensors["mean_f"]) != numbers or int(tensors["token_ids_nt"].max()) >= model.shapes.text["vocab_size"]:
        raise RequestError(f"{path} is of another model; run nightcap remember again, or delete it")
    tensors = {name: value.to(model.device) for name, value in tensors.items()}
    tensors |= {"keys_nk": tensors["keys_nk"].float(), "token_ids_nt": tensors["token_ids_nt"].long()}
    return Neighbours(**tensors, weighing=weighing)


def check_neighbours(folder: str | Path) -> None:
    """RequestError where there is a memory that cannot be read."""
    if (Path(folder) / FILE).is_file():
        _read(Path(folder) / FILE)


def _read(path: Path) -> tuple[dict[str, Any], Weighing]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            known = file.metadata()
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        weight, novelty, familiarity = (float(known.get(name, 0)) for name in ("weight", "novelty", "familiarity"))
        return tensors, Weighing(weight=weight, novelty=novelty, neighbours=int(known["neighbours"]), familiarity=familiarity)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as exc:
        raise RequestError(
            f"{path} is damaged or cut ({str(exc).splitlines()[0][:160]}); run nightcap remember again, or delete it"
        ) from exc
