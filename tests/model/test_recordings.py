"""The recording encoder:

- one token for each stretch of frames, the same whatever pads the batch, at every stride;
- what has no stride or no recordings is refused.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig
from tests.model.small import batch_of, recordings, small_model, texts


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_a_recording_has_a_token_for_each_stretch_whatever_pads_it(stride: int, tmp_path: Path) -> None:
    encoder = small_model(tmp_path, modalities=("audio",), recording_stride=stride).eval().recordings
    together, alone = recordings([16_000, 8_000]), recordings([16_000, 8_000])
    tokens, heard = encoder(together.wave_nt, together.length_n)
    assert heard.sum(dim=1).tolist() == encoder.tokens_of(together.length_n).tolist() == [100 // stride, 50 // stride]
    short, _ = encoder(alone.wave_nt[1:, :8_000], alone.length_n[1:])
    assert torch.allclose(tokens[1:, : 50 // stride], short, atol=1e-4)


def test_the_words_of_recordings_are_learnt_beside_other_media(tmp_path: Path) -> None:
    model = small_model(tmp_path, modalities=("image", "audio"), objectives=("causal", "ctc")).eval()
    batch = batch_of(texts(3), recordings=recordings([9_000, 4_000], [0, 2]))
    alone = batch_of(texts(3)[[0, 2]], recordings=recordings([9_000, 4_000]))
    with torch.no_grad():
        beside, by_itself = (model._ctc(found, model.encode(found)) for found in (batch, alone))
    assert float(beside.total) == pytest.approx(float(by_itself.total), rel=1e-5)
    assert float(beside.count) == 2 * 3  # five tokens less the first and the last


@pytest.mark.parametrize(
    ("wrong", "named"), [({"recording_stride": 3}, "recording_stride 3"), ({"objectives": ("causal", "ctc")}, "add audio")]
)
def test_what_fits_no_recording_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        ModelConfig(**wrong)
