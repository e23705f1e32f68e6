"""Media as parts of a chat message: what chat models are shown, here or behind a server.

A clip is its frames in order, each after its time; the instruction comes last.
"""

import base64
import io
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from pipeline.captions.engine import EngineConfig
from pipeline.samples.medium import Medium, Needs, Pixels, Wave

INSTRUCTIONS = {
    "image": "Describe this picture in one sentence.",
    "video": "These are frames of one clip, in order. Describe what happens in it in one or two sentences.",
    "audio": "Describe this recording in one sentence.",
}
"""What is asked where no prompt is given."""
JPEG_QUALITY = 90


def needs_of(config: EngineConfig, short_side_px: int) -> Needs:
    """What an engine wants decoded that shows media in a message: the configured ones, pictures shrunk, clips as frames with times."""
    return Needs(
        accepts=config.media,
        short_side_px=short_side_px,
        n_frames=config.frames,
        segment_s=config.segment_s or None,
        whole=config.whole_clips,
        frames_always=True,
    )


def instruction_of(medium: Medium, prompt: str) -> str:
    """The prompt, or what is asked of such a medium."""
    return prompt or INSTRUCTIONS[medium.modality]


def frames_of(medium: Medium) -> list[tuple[float | None, Pixels]]:
    """(seconds in its whole clip, pixels) of each frame; a picture has no time."""
    if medium.pixels_hwc is None:
        return []
    if medium.modality == "image":
        return [(None, medium.pixels_hwc)]
    times = medium.times_s or (0.0,)
    return [((medium.start_s or 0.0) + at_s, frame) for at_s, frame in zip(times, np.split(medium.pixels_hwc, len(times)), strict=True)]


def parts_of(medium: Medium, prompt: str) -> Iterator[tuple[str, Any]]:
    """("text", words), ("image", pixels) and ("audio", (wave, rate)), in the order of the message."""
    for at_s, pixels in frames_of(medium):
        if at_s is not None:
            yield "text", f"Frame at {at_s:.1f} s:"
        yield "image", pixels
    if medium.wave_t is not None and medium.modality != "image":
        yield "audio", (medium.wave_t, medium.sample_rate_hz)
    yield "text", instruction_of(medium, prompt)


def openai_content(medium: Medium, prompt: str) -> list[dict[str, Any]]:
    """The same as content parts of an OpenAI-compatible request."""
    return [openai_part(kind, value) for kind, value in parts_of(medium, prompt)]


def openai_part(kind: str, value: Any) -> dict[str, Any]:
    """One content part."""
    if kind == "text":
        return {"type": "text", "text": value}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(_jpeg(value)).decode()}}
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(_wav(*value)).decode(), "format": "wav"}}


def _jpeg(pixels_hwc: Pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_hwc)).save(data, "jpeg", quality=JPEG_QUALITY)
    return data.getvalue()


def _wav(wave_t: Wave, sample_rate_hz: int) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(wave_t.astype("<i2").tobytes())
    return data.getvalue()
