"""Bytes of a clip -> some of its frames, each the one that a player shows at that time.

All packets are read once without decoding: their times say which frame is shown when, at any frame rate and any order of
coding. Then only the packets between a key frame and a wanted frame are decoded. A demuxer's seek is not used: it goes by
decoding times in some containers and by presentation times in others, and lands behind frames that precede their key
frame. It would save no reading either, as the bytes are in memory. That costs the encoded size once more while it runs.
Where packets carry no presentation times (raw streams, AVI with B frames), all frames are decoded and counted once before.
"""

import bisect
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from av.stream import Disposition

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.audio import open_container
from pipeline.samples.bicubic import resize
from pipeline.samples.image import check_pixels
from pipeline.samples.medium import Pixels, Wave, modality_of
from pipeline.samples.resize import PictureConfig, scale, to_jpeg
from pipeline.samples.video import rotation, upright
from pipeline.samples.wave import WaveConfig, decode_wave

Sampling = Literal["uniform", "rate"]

MAX_FRAMES_BYTES = 1 << 30
"""Most bytes of pixels that one clip may come to."""
_PROGRESSIVE = 1
"""AV_FIELD_PROGRESSIVE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FramesConfig:
    """Which frames are taken, and what they are brought to. Part of the recipe."""

    sampling: Sampling = "uniform"
    """`uniform`: `n_frames`, each in the middle of an equal part of the clip; `rate`: `rate_hz` from the first frame on."""
    n_frames: int = 8
    """Frames of `uniform`; the most that `rate` gives: a clip that would have more gets this many, uniformly."""
    rate_hz: float = 1.0
    """Frames a second of `rate`."""
    sound: bool = False
    """The sound track too, where there is one."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if self.sampling not in get_args(Sampling):
            raise RequestError(f"sampling {self.sampling!r}: give one of {', '.join(get_args(Sampling))}")
        if self.n_frames < 1:
            raise RequestError(f"n_frames {self.n_frames}: give 1 or more")
        if not 0 < self.rate_hz <= 1_000:
            raise RequestError(f"rate_hz {self.rate_hz:g}: give up to 1000, above 0")


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a clip, in the order of time."""

    frames_thwc: Pixels | None
    """uint8 RGB, frames x height x width x 3; None where JPEGs were asked for."""
    jpegs: tuple[bytes, ...] | None
    timestamps_s: tuple[float, ...]
    """When each frame begins to be shown, seconds from the clip's first frame; the same frame may be taken more than once."""
    width: int
    """Pixels of the original as it is shown: after rotation, before scaling. Non-square pixels are not stretched."""
    height: int
    frame_width: int
    """Pixels of the frames as they come out."""
    frame_height: int
    rotation: int
    """Degrees clockwise that the frames were turned by: 0, 90, 180, 270; a mirrored clip was then mirrored left to right."""
    duration_s: float
    """From the first frame's beginning to the last one's end."""
    has_audio: bool
    wave_t: Wave | None
    """The sound track, int16 mono; None without one, or where it was not asked for."""
    wave_start_s: float | None
    """When the sound track begins, seconds from the clip's first frame; below 0 where sound comes first."""


class _Schedule(NamedTuple):
    """What is shown when, in the stream's units of time."""

    shown: list[int]
    """When each frame begins to be shown; ascending, without repeats."""
    end: int
    """When the last one ends."""


def sample_frames(
    data: bytes,
    field: str,
    config: FramesConfig,
    picture: PictureConfig = PictureConfig(),
    wave: WaveConfig = WaveConfig(),
    *,
    jpeg: bool = True,
    part: tuple[float, float] = (0.0, 1.0),
) -> Clip:
    """Frames of the clip as `config` says, upright, each brought to size as `picture` says; as JPEGs, else as pixels.

    `wave` is for the sound track. `part`: from where to where of its length `uniform` takes them, 0 to 1.

    Raises SampleError for a field that is no clip, no video stream, no frame, too many pixels, a file that was cut, a
    sound track that cannot be used where one was asked for, and whatever the codec raises.
    """
    if modality_of(field) != "video":
        raise SampleError(Reason.NO_MEDIUM, f".{field} is no clip")
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    with open_container(data) as container:
        stream = _video_stream(container)
        decoder = _Decoder(container, stream)
        schedule = decoder.schedule()
        units_s = float(stream.time_base)
        frames = _Frames(config.n_frames, picture, jpeg)
        for at, frame in decoder.frames(_wanted(schedule, units_s, config, part)):
            frames.add(at, frame)
        has_audio, first_s = bool(container.streams.audio), schedule.shown[0] * units_s
        sound_start_s = _start_s(container.streams.audio[0]) if has_audio else 0.0
    wave_t = decode_wave(data, field, wave) if has_audio and config.sound else None
    return Clip(
        frames_thwc=None if jpeg else np.stack(frames.pixels),
        jpegs=tuple(frames.jpegs) if jpeg else None,
        timestamps_s=tuple((at - schedule.shown[0]) * units_s for at in frames.times),
        width=frames.width,
        height=frames.height,
        frame_width=frames.shape[1],
        frame_height=frames.shape[0],
        rotation=frames.rotation,
        duration_s=(schedule.end - schedule.shown[0]) * units_s,
        has_audio=has_audio,
        wave_t=wave_t,
        wave_start_s=None if wave_t is None else sound_start_s - first_s,
    )


def _video_stream(container: Any) -> Any:
    """The first one that is no cover picture, single-threaded: a worker has one core. Refused by its header if too large."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            check_pixels(max(1, stream.codec_context.width), max(1, stream.codec_context.height))
            stream.codec_context.thread_count = 1
            return stream
    raise SampleError(Reason.UNDECODABLE, "no video stream")


def _start_s(stream: Any) -> float:
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def _wanted(schedule: _Schedule, units_s: float, config: FramesConfig, part: tuple[float, float]) -> list[int]:
    """When the frames that are shown at the configured moments began to be shown."""
    first, length = schedule.shown[0], schedule.end - schedule.shown[0]
    step = 1.0 / (config.rate_hz * units_s)
    # A frame more or less must not depend on how floats round.
    count = max(1, math.ceil(length / step - 1e-6))
    if config.sampling == "rate" and count <= config.n_frames:
        moments = [first + at * step for at in range(count)]
    else:
        begin, span = first + part[0] * length, (part[1] - part[0]) * length
        moments = [begin + (at + 0.5) * span / config.n_frames for at in range(config.n_frames)]
    return [schedule.shown[max(0, bisect.bisect_right(schedule.shown, moment + 1e-6) - 1)] for moment in moments]


class _Decoder:
    """Decodes chosen frames of one stream from its packets, which stand in the order of coding."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._context = stream.codec_context
        self._packets = [packet for packet in container.demux(stream) if packet.size]
        shown = [packet for packet in self._packets if not packet.is_discard]
        # FFmpeg numbers the packets of an AVI in the order of coding.
        untimed = any(packet.pts is None for packet in shown) or (container.format.name == "avi" and self._context.has_b_frames)
        self._clock = _clock(stream, shown) if untimed else None
        self._spans = [(packet.pts, packet.duration or 0) for packet in shown]
        self._place = {packet.pts: at for at, packet in enumerate(self._packets)}
        self._keys = [at for at, packet in enumerate(self._packets) if packet.is_keyframe and packet.pts is not None]
        # No frame refers to a B frame that is none itself. Elsewhere it might: in HEVC those of higher layers, in fields the other one.
        self._may_skip = self._context.name == "h264" and self._context.field_order == _PROGRESSIVE

    def schedule(self) -> _Schedule:
        """From the packets, else from all frames. Raises SampleError for a clip without frames."""
        if self._clock is None:
            spans = self._spans
        else:
            spans = [(at, frame.duration or 0) for at, frame in self._all()]
        if not spans:
            raise SampleError(Reason.EMPTY_MEDIUM, "0 frames")
        shown = sorted({at for at, _ in spans})
        length = max(length for at, length in spans if at == shown[-1])
        if not length and len(shown) > 1:
            # A container without lengths: the last frame is shown as long as frames are on the mean.
            length = round((shown[-1] - shown[0]) / (len(shown) - 1))
        return _Schedule(shown, shown[-1] + length)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(presentation time, frame) for each wanted time; these ascend and may repeat.

        A frame may fail to come out when decoding starts at the key frame before it (gradual refresh), or at all (packets of
        VP8 that are not shown). From there on the clip is decoded from its start, and a frame that is not there gives way
        to the one before it. Raises SampleError if no frame can be decoded.
        """
        waiting = deque(wanted)
        if self._clock is None:
            yield from self._jumping(waiting)
        if waiting:
            yield from self._walking(waiting)

    def _jumping(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """Takes from `waiting` what it gives; stops at a frame that fails to come out."""
        wanted, position = set(waiting), 0
        while waiting:
            start = self._start(waiting[0])
            if start > position:
                self._context.flush_buffers()
                position = start
            packet = self._packets[position] if position < len(self._packets) else None
            position += 1
            if self._may_skip and packet is not None:
                self._context.skip_frame = "NONREF" if packet.pts is not None and packet.pts not in wanted else "DEFAULT"
            for frame in self._intact(packet):
                while waiting and frame.pts == waiting[0]:
                    yield waiting.popleft(), frame
                if waiting and frame.pts is not None and frame.pts > waiting[0]:
                    return
            if packet is None:
                return

    def _start(self, wanted: int) -> int:
        """Place of the last key frame that is neither coded nor shown after the wanted frame; 0 without one."""
        place = self._place.get(wanted, 0)
        for at in range(bisect.bisect_right(self._keys, place) - 1, -1, -1):
            if self._packets[self._keys[at]].pts <= wanted:
                return self._keys[at]
        return 0

    def _walking(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """The same from the start: of all frames, the last one before or at each wanted time."""
        held: tuple[int, Any] | None = None
        for at, frame in self._all():
            while waiting and at > waiting[0]:
                waiting.popleft()
                yield held or (at, frame)
            if not waiting:
                return
            held = at, frame
        if held is None:
            raise SampleError(Reason.UNDECODABLE, "none of its frames can be decoded")
        yield from (held for _ in waiting)

    def _all(self) -> Iterator[tuple[int, Any]]:
        """Every frame with its time."""
        self._context.flush_buffers()
        self._context.skip_frame = "DEFAULT"
        count = 0
        for packet in (*self._packets, None):
            for frame in self._intact(packet):
                at = frame.pts if self._clock is None else self._clock(count)
                count += 1
                if at is not None:
                    yield at, frame
        self._context.flush_buffers()

    def _intact(self, packet: Any) -> list[Any]:
        """What comes out after this packet, or at the end (None). Raises SampleError for a frame that the codec knows to be damaged.

        Frames on the way count too: later ones are made from them. CABAC, VP9 and HEVC leave most damage unnoticed.
        """
        frames: list[Any] = self._context.decode(packet)
        if any(frame.is_corrupt for frame in frames):
            raise SampleError(Reason.UNDECODABLE, "a frame is damaged")
        return frames


def _clock(stream: Any, packets: Sequence[Any]) -> Callable[[int], int]:
    """When the n-th frame is shown: as packets are timed for decoding, else at the stream's rate."""
    length = max((packet.duration or 0 for packet in packets), default=0)
    if not length and stream.average_rate:
        length = round(1 / (stream.average_rate * stream.time_base))
    times = sorted(packet.dts for packet in packets if packet.dts is not None)
    if len(times) < len(packets):
        times = []
    step, begun = max(1, length), len(times)
    return lambda n: times[n] if n < begun else (times[-1] + step if times else 0) + (n - begun) * step


class _Frames:
    """Frames brought to their stored form one by one, so that pixels of full size do not pile up."""

    def __init__(self, n_frames: int, picture: PictureConfig, jpeg: bool) -> None:
        self._n_frames = n_frames
        self._picture = picture
        self._jpeg = jpeg
        self.shape: tuple[int, ...] = ()
        self.pixels: list[Pixels] = []
        self.jpegs: list[bytes] = []
        self.times: list[int] = []
        self.width = self.height = self.rotation = 0

    def add(self, at: int, frame: Any) -> None:
        """Raises SampleError for too many pixels in it or in all frames together."""
        stored: list[Any] = self.jpegs if self._jpeg else self.pixels
        if self.times and self.times[-1] == at:
            stored.append(stored[-1])
        else:
            check_pixels(frame.width, frame.height)
            pixels = self._shaped(frame)
            stored.append(to_jpeg(pixels, self._picture.quality) if self._jpeg else pixels)
        self.times.append(at)

    def _shaped(self, frame: Any) -> Pixels:
        """Upright and scaled; a clip that changes its size on the way keeps that of its first sampled frame."""
        shown = upright(frame)
        pixels = scale(shown, self._picture)
        if not self.times:
            self.height, self.width = shown.shape[:2]
            self.rotation = rotation(frame)
            self.shape = pixels.shape
            if not self._jpeg and pixels.nbytes * self._n_frames > MAX_FRAMES_BYTES:
                detail = f"{self._n_frames} frames of {pixels.shape[1]} x {pixels.shape[0]} are more than {MAX_FRAMES_BYTES} bytes"
                raise SampleError(Reason.TOO_LARGE, detail)
        elif pixels.shape != self.shape:
            pixels = resize(pixels, self.shape[0], self.shape[1])
        return pixels
