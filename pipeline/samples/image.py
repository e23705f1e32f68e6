"""Bytes of a picture -> uint8 RGB pixels, upright, shrunk with antialiasing.

The header is read first, so that a picture which is too large is refused before any pixel exists. Plain JPEGs take
libjpeg-turbo by way of torchvision; everything else takes Pillow. The content decides, not the extension. Formats are
listed, because Pillow hands some others (EPS) to programs outside. A JPEG that ends early and was closed with an end
mark decodes to a half-grey picture, of which libjpeg says so only on `stderr`: that is caught, and rejects it.
"""

import contextlib
import ctypes
import functools
import io
import logging
import platform
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pipeline.errors import Reason, SampleError
from pipeline.samples.jpeg_header import ordinary_jpeg
from pipeline.samples.medium import Pixels

MAX_PIXELS = 89_478_485
"""Pillow's own bound for a picture that is no decompression bomb: 256 MiB at 3 bytes a pixel."""

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA", "QOI")
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Upright(NamedTuple):
    """A picture as a viewer shows it."""

    pixels_hwc: Pixels
    """uint8 RGB, height x width x 3."""
    plain: bool
    """Its bytes are a JPEG in colour that is stored upright: whoever decodes them sees these pixels."""


def decode_image(data: bytes, short_side_px: int | None) -> tuple[Pixels, int, int]:
    """Pixels (uint8 RGB, height x width x 3, contiguous), and width and height of the original after EXIF orientation.

    Transparency is laid on white; an animation gives its first frame. Raises SampleError for an empty or too large
    picture, and whatever the codec raises for an undecodable one.
    """
    pixels = decode_upright(data).pixels_hwc
    height, width = pixels.shape[:2]
    return shrink(pixels, short_side_px), width, height


def decode_upright(data: bytes) -> Upright:
    """The same at full size. Raises as `decode_image` does."""
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    return _ordinary(data) or _any(data)


def _ordinary(data: bytes) -> Upright | None:
    """An ordinary JPEG without Pillow; None for anything else, and for one that the codec complains of."""
    header = ordinary_jpeg(data)
    if header is None:
        return None
    check_pixels(header.width, header.height)
    with _native_stderr() as heard:
        try:
            pixels_chw = decode_jpeg(_encoded(data), mode=ImageReadMode.RGB)
        except RuntimeError as exc:
            if "memory" in str(exc):
                raise
            return None
        if _damage(heard()) is not None:
            return None
    return Upright(pixels_chw.permute(1, 2, 0).numpy(), header.colour)


def _any(data: bytes) -> Upright:
    with warnings.catch_warnings(), _native_stderr() as heard:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as picture:
                check_pixels(*picture.size)
                plain = picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L")
                pixels = _plain_jpeg(data, picture) if plain else _with_pillow(picture)
                plain = picture.format == "JPEG" and picture.mode == "RGB" and _orientation(picture) not in _UPRIGHT
        except UnidentifiedImageError as exc:
            # Its own message holds a memory address, which would differ between two identical runs.
            raise SampleError(Reason.UNDECODABLE, f"no picture of a known format; it starts with {data[:8].hex(' ')}") from exc
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as exc:
            raise SampleError(Reason.TOO_MANY_PIXELS, str(exc)) from exc
        complaint = _damage(heard())
    if complaint is not None:
        raise SampleError(Reason.UNDECODABLE, complaint)
    return Upright(pixels, plain)


def _encoded(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _plain_jpeg(data: bytes, picture: Image.Image) -> Pixels:
    """torchvision's decoder; Pillow's for what that refuses (arithmetic coding, damage), so that Pillow names the fault."""
    try:
        pixels_chw = decode_jpeg(_encoded(data), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as exc:
        if "memory" in str(exc):
            raise
        return _with_pillow(picture)
    pixels: Pixels = pixels_chw.permute(1, 2, 0).numpy()
    return pixels


def _damage(complaints: str) -> str | None:
    """The complaint of libjpeg that means missing or wrong pixels, if there is one; stray bytes before the end mark do not."""
    for line in complaints.splitlines():
        if line.startswith("Corrupt JPEG data") and not line.endswith("extraneous bytes before marker 0xd9"):
            return line
    return None


class _Listener:
    """A C stream in memory that takes the place of C's `stderr` variable.

    Python's sys.stderr, faulthandler and child processes keep file descriptor 2; what other threads write through C
    meanwhile is lost. The stream is made once and never closed: another thread may hold it for a moment longer.
    """

    SIZE = 1024

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._buffer = ctypes.create_string_buffer(self.SIZE)
        library = ctypes.CDLL(None)
        library.fmemopen.restype = ctypes.c_void_p
        stream = library.fmemopen(ctypes.c_void_p(ctypes.addressof(self._buffer)), ctypes.c_size_t(self.SIZE), b"w")
        if not stream:
            raise MemoryError("fmemopen")
        self._stream = ctypes.c_void_p(stream)
        library.setvbuf(self._stream, None, 2, ctypes.c_size_t(0))  # 2: _IONBF, so that nothing waits for a flush
        self._rewind = library.rewind
        self._variable = ctypes.c_void_p.in_dll(library, "stderr")

    def start(self) -> int | None:
        ctypes.memset(self._buffer, 0, self.SIZE)
        self._rewind(self._stream)
        previous, self._variable.value = self._variable.value, self._stream.value
        return previous

    def stop(self, previous: int | None) -> None:
        self._variable.value = previous

    def heard(self) -> str:
        return self._buffer.value.decode("ascii", "replace")


@functools.cache
def _listener() -> _Listener | None:
    """None where C's `stderr` is not a variable that may be set (musl, macOS): there, complaints are printed and not acted on."""
    return _Listener() if platform.libc_ver()[0] == "glibc" else None


@contextlib.contextmanager
def _native_stderr() -> Iterator[Callable[[], str]]:
    """Takes what C libraries print meanwhile; gives a function that tells it so far. One thread at a time."""
    listener = _listener()
    if listener is None:
        yield lambda: ""
        return
    with listener.lock:
        previous = listener.start()
        try:
            yield listener.heard
        finally:
            listener.stop(previous)


def check_pixels(width: int, height: int) -> None:
    """Raises SampleError for a picture without pixels or with more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise SampleError(Reason.TOO_MANY_PIXELS, f"{width} x {height} is more than {MAX_PIXELS} pixels")
    if width <= 0 or height <= 0:
        raise SampleError(Reason.EMPTY_MEDIUM, f"{width} x {height} pixels")


def shrink(pixels_hwc: Pixels, short_side_px: int | None) -> Pixels:
    """The picture with its shorter side at most `short_side_px`, aspect kept; never enlarged. uint8 in and out, contiguous."""
    height, width = pixels_hwc.shape[:2]
    short = min(height, width)
    if short_side_px is None or short <= short_side_px:
        return np.ascontiguousarray(pixels_hwc)
    size = [max(1, round(side * short_side_px / short)) for side in (height, width)]
    tensor = torch.from_numpy(np.require(pixels_hwc, requirements=["C", "W"])).permute(2, 0, 1)
    small = functional.resize(tensor, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    result: Pixels = np.ascontiguousarray(small.permute(1, 2, 0).numpy())
    return result


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # Otherwise its errors are printed where a program has set up no logging; they come as exceptions as well.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _with_pillow(picture: Image.Image) -> Pixels:
    picture.load()
    # A TIFF may turn and a plugin may correct its size while loading.
    check_pixels(*picture.size)
    turn = _UPRIGHT.get(_orientation(picture))
    upright = picture if turn is None else picture.transpose(turn)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        grey = _to_8_bits(np.asarray(upright), upright.mode)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, layer).convert("RGB"))
    return np.array(upright.convert("RGB"))


def _orientation(picture: Image.Image) -> int:
    """1 for metadata that cannot be read: it does not make the pixels unusable."""
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _to_8_bits(values: NDArray[np.generic], mode: str) -> Pixels:
    """Grey values of 16 or 32 bits or floats -> uint8, scaled from the range the type stands for, else from the range found."""
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(wide.min()), float(wide.max())
    full = 1.0 if mode == "F" else 65_535.0
    if low >= 0 and high <= full:
        low, high = 0.0, full
    scaled = (wide - low) * (255.0 / (high - low or 1.0))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
