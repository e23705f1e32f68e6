"""A memory of pictures beside a model:

- a remembered picture's own text wins where likeness counts for everything, also one that the model itself would never say;
- without any weight the most probable text of those asked is taken, and what no neighbour bears is the model's own;
- with familiarity a remembered text pays, and the best of the beams that is not remembered is said;
- log-probabilities are the model's; saving and loading changes no text;
- a damaged file, or one of another model, is one line.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.model.generate import GenerationConfig, generate, several
from pipeline.model.model import MultimodalLM
from pipeline.model.neighbours import BEAMS, FILE, Neighbours, Weighing, grids_of, load_neighbours, recall, remember, save
from tests.model.small import batch_of, pictures, small_model, texts

GREEDY = GenerationConfig(max_tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultimodalLM:
    torch.set_num_threads(1)
    return small_model(tmp_path_factory.mktemp("words")).eval()


def memory_of(model: MultimodalLM, **weighing: float) -> Neighbours:
    return remember(grids_of(model, pictures(12)), texts(12, 5), Weighing(**weighing))  # type: ignore[arg-type]


def test_a_remembered_picture_gets_its_own_text_back(model: MultimodalLM) -> None:
    batch = batch_of(texts(12, 5), pictures=pictures(12))
    found = recall(model, batch, memory_of(model, weight=1e6), GREEDY)
    assert [one.token_ids for one in found] == [tuple(row[1:]) for row in texts(12, 5).tolist()]
    assert not any(one.cut for one in found)
    with torch.no_grad():
        own = model.score(model.encode(batch), batch.token_ids_bt, batch.token_mask_bt)
    assert torch.allclose(torch.tensor([one.logprobs for one in found]), own, atol=1e-4)


def test_without_weight_the_most_probable_text_is_taken(model: MultimodalLM) -> None:
    batch = batch_of(texts(3, 5), pictures=pictures(3, seed=9))
    with torch.no_grad():
        memory = model.encode(batch)
        own = generate(model, memory, GREEDY)
        every = torch.stack([model.score(memory, row.expand(3, -1), torch.ones(3, 5, dtype=torch.bool)).sum(1) for row in texts(12, 5)], 1)
    found = recall(model, batch, memory_of(model, weight=0, neighbours=12), GREEDY)
    for row, one in enumerate(found):
        assert sum(one.logprobs) == pytest.approx(max(sum(own[row].logprobs), float(every[row].max())), abs=1e-3)


def test_what_no_neighbour_bears_is_said_where_novelty_costs_nothing(model: MultimodalLM) -> None:
    batch = batch_of(texts(3, 5), pictures=pictures(3, seed=9))
    never = Weighing(weight=1.0, novelty=0.0, neighbours=1)
    absurd = torch.full((12, 12), 7)
    absurd[:, 0], absurd[:, -1] = 2, 3  # eleven times the same word: no model says that
    with torch.no_grad():
        own = generate(model, model.encode(batch), GenerationConfig(max_tokens=2))
    found = recall(model, batch, remember(grids_of(model, pictures(12)), absurd, never), GenerationConfig(max_tokens=2))
    assert [one.token_ids for one in found] == [one.token_ids for one in own]


def test_a_remembered_text_pays_its_familiarity(model: MultimodalLM) -> None:
    batch = batch_of(texts(3, 5), pictures=pictures(3, seed=9))
    with torch.no_grad():
        beams = several(model, model.encode(batch), dataclasses.replace(GREEDY, beams=BEAMS))
    assert all([sum(one.logprobs) for one in row] == sorted((sum(one.logprobs) for one in row), reverse=True) for row in beams)
    first = [torch.tensor([2, *row[0].token_ids]) for row in beams]
    known = torch.nn.utils.rnn.pad_sequence(first, batch_first=True)
    grids = grids_of(model, pictures(3))
    trusting = recall(model, batch, remember(grids, known, Weighing(weight=0, familiarity=1e-6)), GREEDY)
    open_to_new = recall(model, batch, remember(grids, known, Weighing(weight=0, familiarity=1e6)), GREEDY)
    said = {one.token_ids for row in beams for one in row[:1]}
    assert all(one.token_ids in said for one in trusting)
    assert [one.token_ids for one in open_to_new] == [next(one.token_ids for one in row if one.token_ids not in said) for row in beams]


def test_a_saved_memory_says_the_same(model: MultimodalLM, tmp_path: Path) -> None:
    assert load_neighbours(tmp_path, model) is None
    made = memory_of(model, weight=30.0, novelty=0.1, neighbours=3, familiarity=0.5)
    save(made, tmp_path)
    loaded = load_neighbours(tmp_path, model)
    assert loaded is not None and loaded.weighing == made.weighing
    batch = batch_of(texts(5, 5), pictures=pictures(5, seed=4))
    assert [one.token_ids for one in recall(model, batch, loaded, GREEDY)] == [one.token_ids for one in recall(model, batch, made, GREEDY)]


def test_a_cut_file_and_one_of_another_model_are_refused(model: MultimodalLM, tmp_path: Path) -> None:
    save(memory_of(model), tmp_path)
    other = small_model(tmp_path / "words", input_px=48)
    with pytest.raises(RequestError, match="of another model"):
        load_neighbours(tmp_path, other)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match="damaged or cut"):
        load_neighbours(tmp_path, model)
    with pytest.raises(ValueError, match="no temperature"):
        recall(model, batch_of(texts(2), pictures=pictures(2)), memory_of(model), GenerationConfig(temperature=1.0))
    with pytest.raises(RequestError, match="neighbours 1 or more"):
        Weighing(neighbours=0)
