"""Texts from a memory:

- with and without cache the same, greedy and with beams; as many beams as there are hypotheses find no less probable text;
- log-probabilities are those of the chain rule; a cut text is said to be cut;
- sampling is a sample's own: same seed, same text, whatever stands beside it; top-k of 1 is greedy;
- prompts begin the text, and a penalty ends repetition.
"""

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.model.generate import Generated, GenerationConfig, generate
from pipeline.model.memory import Memory
from pipeline.model.mix import ObjectiveMix
from pipeline.model.model import MultimodalLM
from tests.model.small import batch_of, pictures, small_model, texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultimodalLM:
    """Trained a little, so that its texts differ and end."""
    torch.set_num_threads(1)
    model = small_model(tmp_path_factory.mktemp("words"))
    optimiser = torch.optim.AdamW(model.param_groups(2e-3, 0.0))
    batch = batch_of(texts(6, 6), pictures=pictures(6))
    for _ in range(60):
        loss = model.losses(batch, ObjectiveMix(label_smoothing=0.0), train=True)["causal"]
        (loss.total / loss.count).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def memory(model: MultimodalLM) -> Memory:
    with torch.no_grad():
        return model.encode(batch_of(texts(6), pictures=pictures(6)))


def ids(found: list[Generated]) -> list[tuple[int, ...]]:
    return [one.token_ids for one in found]


def test_what_was_learnt_is_said(model: MultimodalLM, memory: Memory) -> None:
    assert [list(tokens) for tokens in ids(generate(model, memory, GenerationConfig()))] == texts(6, 6)[:, 1:].tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_the_cache_changes_nothing(beams: int, model: MultimodalLM, memory: Memory) -> None:
    noisy = Memory(states_bmd=memory.states_bmd + torch.randn(memory.states_bmd.shape) * 0.5, mask_bm=memory.mask_bm)
    cached, plain = (generate(model, noisy, GenerationConfig(beams=beams, cache=cache)) for cache in (True, False))
    assert ids(cached) == ids(plain)


def test_log_probabilities_are_those_of_the_chain_rule(model: MultimodalLM, memory: Memory) -> None:
    for config in (GenerationConfig(), GenerationConfig(beams=2, repetition_penalty=1.5), GenerationConfig(prompt=(9, 8))):
        for row, one in enumerate(generate(model, memory, config)):
            whole = torch.tensor([[2, *config.prompt, *one.token_ids]])
            with torch.no_grad():
                score = model.score(memory.rows(torch.tensor([row])), whole, torch.ones_like(whole, dtype=torch.bool))
            assert one.logprobs == pytest.approx(score[0, len(config.prompt) :].tolist(), abs=1e-4)
            assert max(one.logprobs) <= 0


def test_a_text_without_an_end_is_cut_and_says_so(model: MultimodalLM, memory: Memory) -> None:
    found = generate(model, memory, GenerationConfig(max_tokens=2))
    assert all(one.cut and len(one.token_ids) == 2 for one in found)
    assert not any(one.cut for one in generate(model, memory, GenerationConfig()))


def test_a_sample_is_its_own(model: MultimodalLM, memory: Memory) -> None:
    config = GenerationConfig(temperature=5.0)
    together = ids(generate(model, memory, config, range(6)))
    assert together == ids(generate(model, memory, config, range(6)))
    turned = memory.rows(torch.arange(5, -1, -1))
    assert together[::-1] == ids(generate(model, turned, config, range(5, -1, -1)))
    alone = [generate(model, memory.rows(torch.tensor([row])), config, [row])[0] for row in range(6)]
    assert together == ids(alone) and len({len(tokens) for tokens in together}) > 1  # rows that end early change nothing for the others
    assert together != ids(generate(model, memory, config, range(100, 106)))
    assert not {0, 2, 4} & {token for tokens in together for token in tokens}


def test_sampling_from_one_token_is_greedy(model: MultimodalLM, memory: Memory) -> None:
    greedy = ids(generate(model, memory, GenerationConfig()))
    assert ids(generate(model, memory, GenerationConfig(temperature=1.0, top_k=1), range(6))) == greedy
    assert ids(generate(model, memory, GenerationConfig(temperature=1.0, top_p=1e-6), range(6))) == greedy


def test_a_penalty_ends_repetition(model: MultimodalLM, memory: Memory) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.text.cls.predictions.bias[30] += 60.0  # says w25 for ever
    try:
        assert all(set(one.token_ids) == {30} for one in generate(model, memory, GenerationConfig()))
        assert all(one.token_ids.count(30) < 6 for one in generate(model, memory, GenerationConfig(repetition_penalty=50.0)))
    finally:
        model.load_state_dict(state)


def test_a_model_in_training_no_room_and_no_seeds_are_refused(model: MultimodalLM, memory: Memory) -> None:
    with pytest.raises(RequestError, match="at most 12"):
        generate(model, memory, GenerationConfig(prompt=tuple(range(5, 17))))
    with pytest.raises(ValueError, match="one seed a row"):
        generate(model, memory, GenerationConfig(temperature=1.0))
    model.train()
    with pytest.raises(ValueError, match="model.eval"):
        generate(model, memory, GenerationConfig())
    model.eval()
    assert generate(model, memory.rows(torch.tensor([], dtype=torch.int64)), GenerationConfig()) == []


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"top_p": 0.0}, {"repetition_penalty": 0.0}, {"beams": 2, "temperature": 1.0}])
def test_impossible_searches_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="generation"):
        GenerationConfig(**wrong)  # type: ignore[arg-type]
