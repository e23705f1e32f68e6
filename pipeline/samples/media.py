"""One medium -> the columns it is stored in, and what filters are told of it."""

from typing import Any, NamedTuple

from pipeline.errors import Reason, SampleError
from pipeline.samples.audio import open_container
from pipeline.samples.facts import Facts
from pipeline.samples.frames import FramesConfig, sample_frames
from pipeline.samples.image import decode_upright
from pipeline.samples.resize import PictureConfig, normalise_picture
from pipeline.samples.wave import WaveConfig, decode_wave, encode_flac


class PreparedMedium(NamedTuple):
    """A medium as it is stored."""

    columns: dict[str, Any]
    """image, audio, frames, timestamps_s, width, height, sample_rate_hz, duration_s of schema.PREPARED."""
    facts: Facts


def prepare_medium(
    data: bytes, field: str, modality: str, picture: PictureConfig, frames: FramesConfig, wave: WaveConfig, asked: frozenset[Reason]
) -> PreparedMedium:
    """Decodes, brings to size and encodes. `asked`: the filters that are on, for facts that cost something to find out.

    Raises SampleError, and whatever the codec raises.
    """
    if modality == "image":
        return _picture(data, field, picture, asked)
    if modality == "audio":
        return _recording(data, field, wave, asked)
    return _clip(data, field, picture, frames, wave, asked)


def _columns(**given: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("image", "audio", "frames", "timestamps_s", "width", "height", "sample_rate_hz", "duration_s"))
    return {**empty, **given}


def _picture(data: bytes, field: str, config: PictureConfig, asked: frozenset[Reason]) -> PreparedMedium:
    stored = normalise_picture(data, field, config, pixels=Reason.FILTERED_BLANK in asked)
    facts = Facts(modality="image", width=stored.source_width, height=stored.source_height, pixels_hwc=stored.pixels_hwc)
    return PreparedMedium(_columns(image=stored.jpeg, width=stored.width, height=stored.height), facts)


def _recording(data: bytes, field: str, config: WaveConfig, asked: frozenset[Reason]) -> PreparedMedium:
    wave_t = decode_wave(data, field, config)
    rate, duration_s = config.sample_rate_hz, len(wave_t) / config.sample_rate_hz
    source_rate_hz = _source_rate_hz(data) if Reason.FILTERED_SAMPLE_RATE in asked else None
    facts = Facts(modality="audio", duration_s=duration_s, source_rate_hz=source_rate_hz, wave_t=wave_t)
    return PreparedMedium(_columns(audio=encode_flac(wave_t, rate), sample_rate_hz=rate, duration_s=duration_s), facts)


def _clip(
    data: bytes, field: str, picture: PictureConfig, frames: FramesConfig, wave: WaveConfig, asked: frozenset[Reason]
) -> PreparedMedium:
    clip = sample_frames(data, field, frames, picture, wave)
    if not clip.jpegs:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 frames after sampling")
    columns = _columns(
        frames=list(clip.jpegs),
        timestamps_s=list(clip.timestamps_s),
        width=clip.frame_width,
        height=clip.frame_height,
        duration_s=clip.duration_s,
    )
    if clip.wave_t is not None:
        columns |= {"audio": encode_flac(clip.wave_t, wave.sample_rate_hz), "sample_rate_hz": wave.sample_rate_hz}
    middle = clip.jpegs[len(clip.jpegs) // 2]
    facts = Facts(
        modality="video",
        width=clip.width,
        height=clip.height,
        duration_s=clip.duration_s,
        pixels_hwc=decode_upright(middle).pixels_hwc if Reason.FILTERED_BLANK in asked else None,
        wave_t=clip.wave_t,
    )
    return PreparedMedium(columns, facts)


def _source_rate_hz(data: bytes) -> int | None:
    """Of the first sound track, as the header says."""
    with open_container(data) as container:
        return int(container.streams.audio[0].rate) if container.streams.audio else None
