"""Memory -> texts: greedy, beams, or sampling, with a cache of what was computed.

`transformers` generates; probabilities are computed afterwards by the chain rule over the finished text (`MultimodalLM.score`), so that
they are those of the model and not of the search: penalties, temperature and cuts leave them alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import RequestError
from pipeline.model.draws import Draw, Way
from pipeline.model.memory import Memory
from pipeline.model.model import MultimodalLM


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig:
    """How texts are searched for."""

    max_tokens: int = 0
    """Most new tokens, [SEP] included; 0 is what the model's longest text leaves."""
    beams: int = 1
    """Beams of the search; 1 is greedy."""
    temperature: float = 0.0
    """0 takes the most probable; above it tokens are sampled."""
    top_k: int = 0
    """Tokens that are sampled from; 0 is all."""
    top_p: float = 1.0
    """Share of probability that is sampled from."""
    repetition_penalty: float = 1.0
    """Divides the logits of words that were said already; 1 is none (Keskar et al.: CTRL, 2019)."""
    cache: bool = True
    """Keep keys and values of earlier words; off only to check that it changes nothing."""
    prompt: tuple[int, ...] = ()
    """Token ids that every text starts with, after [CLS]."""

    def __post_init__(self) -> None:
        """Raises RequestError for values out of range."""
        if self.max_tokens < 0 or self.beams < 1 or self.top_k < 0 or self.temperature < 0:
            raise RequestError("generation: max_tokens, top_k and temperature must be 0 or more, beams 1 or more")
        if not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise RequestError("generation: top_p must be above 0 and at most 1, repetition_penalty above 0")
        if self.beams > 1 and self.temperature > 0:
            raise RequestError("generation: beams and temperature exclude each other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One text."""

    token_ids: tuple[int, ...]
    """New tokens, without prompt; [SEP] is the last unless it was cut."""
    logprobs: tuple[float, ...]
    """log P of each under the model, natural."""
    cut: bool
    """It ended at the token limit."""


def generate(model: MultimodalLM, memory: Memory, config: GenerationConfig, seeds: Sequence[int] | None = None) -> list[Generated]:
    """One text a row of the memory, in order. The model must be in evaluation mode.

    With a temperature each row is sampled by its own seed of `seeds`, the same whatever stands beside it.
    """
    with torch.inference_mode():
        return _generate(model, memory, config, seeds)


def several(model: MultimodalLM, memory: Memory, config: GenerationConfig) -> list[list[Generated]]:
    """Texts of a row's beams, each once, the most probable first; those that were cut only where there is no other. Nothing is drawn."""
    special, count = model.shapes.special, config.beams
    start = torch.tensor([[special["start"]]], device=model.device)
    room = model.config.max_tokens - 1
    with torch.inference_mode():
        sequences = list(_search(model, memory, config, start, min(config.max_tokens or room, room), None, count))
        texts = [_ended(ids.tolist()[1:], special["stop"]) for ids in sequences]
        each = memory.rows(torch.arange(len(texts), device=model.device) // count)
        scored = _scored(model, each, GenerationConfig(), texts)
    found = []
    for at in range(0, len(scored), count):
        mine = list({one.token_ids: one for one in scored[at : at + count]}.values())
        whole = [one for one in mine if not one.cut] or mine
        found.append(sorted(whole, key=lambda one: -sum(one.logprobs)))
    return found


def _generate(model: MultimodalLM, memory: Memory, config: GenerationConfig, seeds: Sequence[int] | None) -> list[Generated]:
    if model.training:
        raise ValueError("generate wants model.eval(): dropout would change the text")
    special, n_rows = model.shapes.special, memory.mask_bm.shape[0]
    if n_rows == 0:
        return []
    start = torch.tensor([[special["start"], *config.prompt]], device=model.device)
    room = model.config.max_tokens - start.shape[1]
    if room < 1:
        raise RequestError(f"the prompt has {len(config.prompt)} tokens; a text of this model has at most {model.config.max_tokens}")
    limit = min(config.max_tokens or room, room)
    if config.temperature > 0 and (seeds is None or len(seeds) != n_rows):
        raise ValueError("sampling wants one seed a row")
    sequences = list(_search(model, memory, config, start, limit, seeds))
    return _scored(model, memory, config, [_ended(ids.tolist()[start.shape[1] :], special["stop"]) for ids in sequences])


def _search(
    model: MultimodalLM, memory: Memory, config: GenerationConfig, start: Any, limit: int, seeds: Sequence[int] | None, several: int = 1
) -> Any:
    """Token ids, b x (start + new), padded; `several` of a row's beams, then (b several) x (start + new), by their whole log P."""
    from transformers import DynamicCache, EncoderDecoderCache, LogitsProcessorList

    special, shape = model.shapes.special, model.text.config
    options: dict[str, Any] = {"do_sample": False, "num_beams": config.beams, "use_cache": config.cache}
    if config.temperature > 0 and seeds is not None:
        ways = [Way(seed, config.temperature) for seed in seeds]
        options["logits_processor"] = LogitsProcessorList([Draw(ways, config.top_k, config.top_p, model.device)])
    if config.cache:  # left to itself generate makes a cache that knows no cross-attention (transformers 5.23)
        options["past_key_values"] = EncoderDecoderCache(DynamicCache(config=shape), DynamicCache(config=shape))
    if several > 1:
        options |= {"num_return_sequences": several, "length_penalty": 0.0}
    with model.text_numbers():
        return model.text.generate(
            input_ids=start.repeat(memory.mask_bm.shape[0], 1),
            attention_mask=torch.ones_like(start).repeat(memory.mask_bm.shape[0], 1),
            encoder_hidden_states=memory.states_bmd,
            encoder_attention_mask=memory.mask_bm,
            max_new_tokens=limit,
            repetition_penalty=config.repetition_penalty,
            suppress_tokens=sorted({special["pad"], special["start"], special["mask"]} - {special["stop"]}),
            pad_token_id=special["pad"],
            bos_token_id=special["start"],
            eos_token_id=special["stop"],
            **options,
        )


def _ended(ids: list[int], stop: int) -> list[int]:
    """Up to [SEP], which belongs to it."""
    return ids[: ids.index(stop) + 1] if stop in ids else ids


def _scored(model: MultimodalLM, memory: Memory, config: GenerationConfig, found: list[list[int]]) -> list[Generated]:
    special = model.shapes.special
    head = [special["start"], *config.prompt]
    longest = max(map(len, found))
    ids = torch.full((len(found), len(head) + longest), special["pad"], dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, tokens in enumerate(found):
        ids[row, : len(head) + len(tokens)] = torch.tensor([*head, *tokens])
        mask[row, : len(head) + len(tokens)] = True
    scores = model.score(memory, ids.to(model.device), mask.to(model.device))[:, len(head) - 1 :].tolist()
    return [
        Generated(token_ids=tuple(tokens), logprobs=tuple(row[: len(tokens)]), cut=tokens[-1:] != [special["stop"]])
        for tokens, row in zip(found, scores, strict=True)
    ]
