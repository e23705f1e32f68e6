"""Makes ptb.json and cider.json with pycocoevalcap and Java; the tests need neither.

python -m venv throwaway; throwaway/bin/pip install numpy; throwaway/bin/pip install --no-deps pycocoevalcap==1.2
throwaway/bin/python tests/evaluation/golden/regenerate.py
"""

import json
import random
from pathlib import Path

from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

HERE = Path(__file__).parent
WORDS = ["a", "a", "a", "the", "the", "of", "on", "with", "man", "dog", "cat", "riding", "red", "blue"]
WORDS += ["wave", "standing", "in", "park", "two", "people", "street", "near"]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 14)))


def near(rng: random.Random, text: str) -> str:
    return " ".join(rng.choice(WORDS) if rng.random() < 0.3 else word for word in text.split())


def main() -> None:
    texts = [text for text, _ in json.loads((HERE / "ptb.json").read_text())]
    tokens = PTBTokenizer().tokenize({at: [{"caption": text}] for at, text in enumerate(texts)})
    pairs = [[text, tokens[at][0]] for at, text in enumerate(texts)]
    (HERE / "ptb.json").write_text(json.dumps(pairs, indent=0, ensure_ascii=False) + "\n")
    rng = random.Random(0)
    samples = []
    scorer = CiderScorer()
    for _ in range(60):
        references = [sentence(rng) for _ in range(rng.randint(1, 5))]
        caption = near(rng, rng.choice(references))
        scorer += (caption, references)
        rouge = Rouge().calc_score([caption], references)
        samples.append({"caption": caption, "references": references, "rouge_l": float(rouge)})
    _, scores = scorer.compute_score()
    for sample, score in zip(samples, scores, strict=True):
        sample["cider_d"] = float(score)
    (HERE / "cider.json").write_text(json.dumps(samples, indent=0) + "\n")


if __name__ == "__main__":
    main()
