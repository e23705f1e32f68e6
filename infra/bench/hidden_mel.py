"""Hidden stretches of spectrograms, learnt beside the words of spoken digits: `hidden_mel.py [minutes] [samples] [folder that keeps the data]`.

The data of `speech_digits.py` (wants espeak-ng). Half of each recording is hidden in stretches of 160 ms. Printed: squared error of hidden log-mel
values (of spread 1 over usual speech), with the right words and with another recording's, against the mean of each band over what is shown and
against the nearest shown token; for new sequences by the trained voices, and for a new voice.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import speech_digits
import torch
from objectives import batches, with_other_texts
from whole_way import kept, nightcap

from pipeline.model.batch import Batch
from pipeline.model.folder import load
from pipeline.model.mix import ObjectiveMix
from pipeline.model.patches import Reconstructed, reconstruct_recordings

SHARE = ObjectiveMix().masked_medium_share
MORE = ("--objectives", "masked_medium", "--masked-medium-weight", "1")


def errors(model: Any, batch: Batch) -> np.ndarray[Any, Any]:
    """Sums over hidden tokens of the mean squared error: right words, other words, mean of bands, nearest shown token; hidden tokens."""
    encoder = model.recordings
    assert batch.recordings is not None
    made: list[Reconstructed] = []
    for told in (batch, with_other_texts(batch)):
        states = model.word_states(told.token_ids_bt, told.token_mask_bt)
        made.append(reconstruct_recordings(encoder, model.recording_head, told, states, SHARE))
    target, hidden = made[0].target_npx, made[0].hidden_np
    tokens = torch.arange(target.shape[1])
    shown = ~hidden & (tokens[None] < encoder.tokens_of(batch.recordings.length_n)[:, None])
    bands = target.view(*target.shape[:2], model.config.n_mels, -1)
    there = shown[..., None, None].float()
    mean = (bands * there).sum(dim=(1, 3), keepdim=True) / (there.sum(dim=(1, 3), keepdim=True) * bands.shape[3]).clamp(min=1)
    away = (tokens[:, None] - tokens[None]).abs()[None] + 1_000_000 * ~shown[:, None, :]
    nearest = target.gather(1, away.argmin(dim=2)[..., None].expand_as(target))
    guesses = (made[0].predicted_npx, made[1].predicted_npx, mean.expand_as(bands).flatten(2), nearest)
    weight = made[0].weight_np
    return np.array([*(float(((guess - target).square().mean(dim=2) * weight).sum()) for guess in guesses), float(weight.sum())])


def main(minutes: float, samples: int, where: str) -> None:
    """Builds, teaches, measures, prints."""
    with kept(where) as (folder, fresh), tempfile.TemporaryDirectory() as output:
        if fresh:
            speech_digits.material(folder, samples)
        for part in speech_digits.PARTS:
            if not (folder / f"prepared-{part}").exists():
                taken = ("--take", "audio", "--require-text", "--tokenizer", str(folder / "tokenizer"))
                nightcap("prepare", str(folder / "shards" / part), "--output", str(folder / f"prepared-{part}"), *taken)
        teach = (*speech_digits.TRAIN, *MORE, "--max-minutes", str(minutes))
        nightcap("train", str(folder / "prepared"), "--output", f"{output}/model", "--modalities", "audio", *teach)
        model, tokenizer = load(Path(output) / "model/model")
        model.eval()
        for part in speech_digits.PARTS:
            with torch.inference_mode():
                *sums, tokens = sum(errors(model, batch) for batch in batches(model, tokenizer, folder / f"prepared-{part}"))
            right, other, mean, nearest = (value / tokens for value in sums)
            print(f"{part}: squared error {right:.3f}, with other words {other:.3f}; mean of bands {mean:.3f}, nearest shown {nearest:.3f}")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(float(given.get(1, 2.0)), int(given.get(2, 3000)), given.get(3, ""))
