"""CIDEr-D and ROUGE-L are pycocoevalcap's:

- on the golden file's tokens, and on the package's own scorer where it is installed, to 1e-4;
- in pieces as in one, because document frequencies are fixed beforehand;
- n-grams are counted the same whether they come at once or in pieces, through files.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.cider import cider_d, document_grams
from pipeline.evaluation.generation import Pairs, scores, statistics
from pipeline.evaluation.ngrams import Frequencies, Spill, grams_of
from pipeline.evaluation.tokens import hashed

SAMPLES = json.loads((Path(__file__).parent / "golden/cider.json").read_text())


def split(text: str) -> np.ndarray:
    return hashed(tuple(text.split()))


CAPTIONS = [split(sample["caption"]) for sample in SAMPLES]
REFERENCES = [[split(one) for one in sample["references"]] for sample in SAMPLES]


def frequencies(folder: Path, references: list[list[np.ndarray]], pieces: int = 1) -> Frequencies:
    with Spill(folder, "documents") as spill:
        for piece in range(pieces):
            spill.add(document_grams(references[piece::pieces]))
        grams, counts, _ = spill.counted(2)
    return Frequencies(grams, counts, len(references))


def test_cider_d_is_that_of_the_golden_file(tmp_path: Path) -> None:
    found = cider_d(CAPTIONS, REFERENCES, frequencies(tmp_path, REFERENCES))
    assert found == pytest.approx([sample["cider_d"] for sample in SAMPLES], abs=1e-4)
    assert found.max() > 1


def test_cider_d_is_that_of_the_package(tmp_path: Path) -> None:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer", reason="pycocoevalcap is not installed").CiderScorer()
    for sample in SAMPLES[:30]:
        scorer += (sample["caption"], sample["references"])
    found = cider_d(CAPTIONS[:30], REFERENCES[:30], frequencies(tmp_path, REFERENCES[:30]))
    assert found == pytest.approx(scorer.compute_score()[1], abs=1e-4)


def test_pieces_give_what_the_whole_gives(tmp_path: Path) -> None:
    known = frequencies(tmp_path, REFERENCES, pieces=7)
    whole = cider_d(CAPTIONS, REFERENCES, known)
    pieces = [cider_d(CAPTIONS[at : at + 11], REFERENCES[at : at + 11], known) for at in range(0, len(CAPTIONS), 11)]
    assert np.concatenate(pieces) == pytest.approx(whole, abs=1e-12)


def test_an_empty_caption_has_nothing(tmp_path: Path) -> None:
    known = frequencies(tmp_path, REFERENCES)
    assert cider_d([split("")], [[split("a cat")]], known).tolist() == [0.0]
    assert cider_d([split("a cat")], [[split("")]], known).tolist() == [0.0]


def test_rouge_l_is_that_of_the_golden_file() -> None:
    known = Frequencies(np.empty(0, np.uint64), np.empty(0, np.uint32), 1)
    for sample in SAMPLES:
        pairs = Pairs([sample["caption"]], [sample["references"]], ["en"])
        assert scores(statistics(pairs, known))["rouge_l"] == pytest.approx(sample["rouge_l"], abs=1e-9)


def test_different_ngrams_have_different_numbers() -> None:
    grams = grams_of(CAPTIONS)
    texts = [sample["caption"].split() for sample in SAMPLES]
    wanted = {tuple(words[at : at + order]) for words in texts for order in range(1, 5) for at in range(len(words) - order + 1)}
    assert len(np.unique(grams.gram)) == len(wanted)
    assert len(grams.gram) == sum(max(len(words) - order + 1, 0) for words in texts for order in range(1, 5))


def test_a_spill_counts_as_a_counter_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 300, np.uint64)
    with Spill(tmp_path, "values") as spill:
        drawn = [values[rng.integers(0, 300, 500)] for _ in range(4)]
        for piece in drawn:
            spill.add(piece)
        found, counts, distinct = spill.counted(2)
        assert spill.total == 2000
    wanted = Counter(np.concatenate(drawn).tolist())
    assert distinct == len(wanted)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == {value: count for value, count in wanted.items() if count >= 2}
    assert (np.diff(found.astype(object)) > 0).all()
    assert list(tmp_path.iterdir()) == []
