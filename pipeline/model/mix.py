"""How the objectives share a run, and how much they hide."""

from dataclasses import dataclass

from cyclopts import Parameter

from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveMix:
    """Weights of the objectives in the loss; 0 leaves one out."""

    causal_weight: float = 1.0
    """Weight of the next word."""
    masked_text_weight: float = 0.0
    """Weight of hidden words, given the medium and the words on both sides."""
    masked_medium_weight: float = 0.0
    """Weight of hidden patches of pictures, frames and spectrograms, given the rest and the text. Costs a second encoder pass."""
    contrastive_weight: float = 0.0
    """Weight of telling a sample's text from those of the batch; large batches help."""
    ctc_weight: float = 0.0
    """Weight of a recording's words in their order, read off its tokens without the text model; speech from scratch does not start without."""
    label_smoothing: float = 0.1
    """Share of each next word's target that is spread over the vocabulary; more generalises, and raises the perplexity."""
    word_dropout: float = 0.0
    """Share of the words before the next one that are hidden from it while training: it is read off the medium, not guessed from them."""
    masked_text_share: float = 0.15
    """Share of a text's words that masked_text asks for; at least one."""
    masked_medium_share: float = 0.5
    """Share of a medium's patches that masked_medium hides; at least one."""

    def __post_init__(self) -> None:
        """Raises RequestError for values out of range."""
        if min(self.weights().values()) < 0 or not any(self.weights().values()):
            raise RequestError("the weights of the objectives must be 0 or more, and one of them above 0")
        if not 0 <= self.label_smoothing < 1:
            raise RequestError(f"label_smoothing {self.label_smoothing}: give 0 to 1")
        if not 0 <= self.word_dropout < 1:
            raise RequestError(f"word_dropout {self.word_dropout}: give 0 to below 1")
        for name in ("masked_text_share", "masked_medium_share"):
            if not 0 < getattr(self, name) < 1:
                raise RequestError(f"{name} {getattr(self, name)}: give more than 0 and less than 1")

    def weights(self) -> dict[str, float]:
        """Weight by objective, those of 0 included."""
        return {
            "causal": self.causal_weight,
            "masked_text": self.masked_text_weight,
            "masked_medium": self.masked_medium_weight,
            "contrastive": self.contrastive_weight,
            "ctc": self.ctc_weight,
        }

    def wanted(self) -> tuple[str, ...]:
        """Objectives of a weight above 0."""
        return tuple(name for name, weight in self.weights().items() if weight > 0)

    def check(self, config: ModelConfig) -> None:
        """RequestError where the model has no head for an objective."""
        missing = [name for name in self.wanted() if name != "causal" and name not in config.objectives]
        if missing:
            raise RequestError(f"--{missing[0].replace('_', '-')}-weight: the model has no head for it; add {missing[0]} to --objectives")
