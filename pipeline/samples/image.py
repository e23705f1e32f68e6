"""Bytes of a picture -> uint8 RGB pixels, upright, shrunk with antialiasing.

The header is read first, so that a picture which is too large is refused before any pixel exists. Plain JPEGs take
libjpeg-turbo by way of simplejpeg, which can leave out detail that shrinking would average away; everything else takes
Pillow. The content decides, not the extension. Formats are listed, because Pillow hands some others (EPS) to programs
outside. A JPEG that the codec complains of is decoded again by torchvision's libjpeg, which says on `stderr` of what: one
that ends early and was closed with an end mark would be a half-grey picture, and is rejected.
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
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.errors import Reason, SampleError
from pipeline.samples.bicubic import resize
from pipeline.samples.jpeg_header import ordinary_jpeg
from pipeline.samples.medium import Pixels

MAX_PIXELS = 89_478_485
"""Pillow's own bound for a picture that is no decompression bomb: 256 MiB at 3 bytes a pixel."""

GAP = 5.8
"""Times that sides still have to shrink after a codec left out detail, so that print of any size, the worst there is, stays within one grey
level on the mean of decoding whole (0.76 to 0.98 for 7 to 13 px); at 3.75 it would be 1.6, at 2 it would be 4.3 (2026-11)."""
LARGE_PX = 512
"""Shorter side below which a picture is decoded whole: that is fast, and what is left of it would be a few pixels."""

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
_SAME_SIDES = frozenset((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM))
"""Turns after which the width is still the width."""


class Upright(NamedTuple):
    """A picture as a viewer shows it."""

    pixels_hwc: Pixels
    """uint8 RGB, height x width x 3; of a JPEG, each side may be divided as its `Divide` said, and rounded up."""
    plain: bool
    """Its bytes are a JPEG in colour that is stored upright: whoever decodes them sees these pixels."""
    height: int
    """Pixels of the original."""
    width: int
    divisor: int = 1
    """What sides of `pixels_hwc` were divided by."""

    @property
    def covers(self) -> tuple[float, float]:
        """Height and width of the original in pixels of `pixels_hwc`."""
        return self.height / self.divisor, self.width / self.divisor


Divide = Callable[[int, int, bool], int]
"""(height, width, `plain`) of a picture -> 1, 2, 4 or 8: what its sides may be divided by while it is decoded, where the codec can."""


def whole(height: int, width: int, plain: bool) -> int:
    """For pictures that are wanted in full."""
    return 1


def divisor_for(height: int, width: int, factor: float) -> int:
    """What the sides of a picture may be divided by that will shrink by a factor all the same."""
    return next((divisor for divisor in (8, 4, 2) if factor >= GAP * divisor), 1) if min(height, width) >= LARGE_PX else 1


def decode_image(data: bytes, short_side_px: int | None) -> tuple[Pixels, int, int]:
    """Pixels (uint8 RGB, height x width x 3, contiguous), and width and height of the original after EXIF orientation.

    Transparency is laid on white; an animation gives its first frame. Raises SampleError for an empty or too large
    picture, and whatever the codec raises for an undecodable one.
    """
    divide = whole if short_side_px is None else lambda height, width, _: divisor_for(height, width, min(height, width) / short_side_px)
    found = decode_upright(data, divide)
    return shrink(found.pixels_hwc, short_side_px, found.covers), found.width, found.height


def decode_upright(data: bytes, divide: Divide = whole) -> Upright:
    """The same at full size, or divided. Raises as `decode_image` does."""
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    return _ordinary(data, divide) or _any(data, divide)


def _ordinary(data: bytes, divide: Divide) -> Upright | None:
    """An ordinary JPEG without Pillow; None for anything else, and for one that the codec complains of."""
    header = ordinary_jpeg(data)
    if header is None:
        return None
    height, width = header.height, header.width
    check_pixels(width, height)
    divisor = divide(height, width, header.colour)
    pixels = _decoded(data, height, width, divisor)
    return None if pixels is None else Upright(pixels, header.colour, height, width, divisor)


def _decoded(data: bytes, height: int, width: int, divisor: int) -> Pixels | None:
    """A JPEG as it is stored, its sides divided and rounded up; None where the codec has any complaint."""
    least = {} if divisor == 1 else {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    except ValueError as exc:
        if "memory" in str(exc):
            raise
        return None
    return pixels


def _any(data: bytes, divide: Divide = whole) -> Upright:
    with warnings.catch_warnings(), _native_stderr() as heard:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as picture:
                check_pixels(*picture.size)
                plain = picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L")
                found = _plain_jpeg(data, picture, divide) if plain else _whole(_with_pillow(picture))
        except UnidentifiedImageError as exc:
            # Its own message holds a memory address, which would differ between two identical runs.
            raise SampleError(Reason.UNDECODABLE, f"no picture of a known format; it starts with {data[:8].hex(' ')}") from exc
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as exc:
            raise SampleError(Reason.TOO_MANY_PIXELS, str(exc)) from exc
        complaint = _damage(heard())
    if complaint is not None:
        raise SampleError(Reason.UNDECODABLE, complaint)
    return found


def _whole(pixels_hwc: Pixels, *, plain: bool = False) -> Upright:
    height, width = pixels_hwc.shape[:2]
    return Upright(pixels_hwc, plain, height, width)


def _plain_jpeg(data: bytes, picture: Image.Image, divide: Divide) -> Upright:
    """A JPEG whose metadata Pillow has read. Where the codec complains: torchvision's, whose complaints are heard one by one."""
    turn = _UPRIGHT.get(_orientation(picture))
    plain = picture.format == "JPEG" and picture.mode == "RGB" and turn is None
    width, height = picture.size
    divisor = divide(height, width, plain) if turn is None or turn in _SAME_SIDES else divide(width, height, plain)
    if turn is not None and (height % divisor or width % divisor):
        divisor = 1  # what stands for less than a whole pixel is at the end of rows and columns only before the turn
    pixels = _decoded(data, height, width, divisor)
    if pixels is None:
        return _whole(_by_torchvision(data, picture), plain=plain)
    if turn is None:
        return Upright(pixels, plain, height, width, divisor)
    turned = np.asarray(Image.fromarray(pixels).transpose(turn))
    return Upright(turned, plain, turned.shape[0] * divisor, turned.shape[1] * divisor, divisor)


def _by_torchvision(data: bytes, picture: Image.Image) -> Pixels:
    """Upright; by Pillow what that refuses (arithmetic coding, damage), so that Pillow names the fault."""
    from torchvision.io import ImageReadMode, decode_jpeg  # 1.5 s, for its models

    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels_chw = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
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


def shrink(pixels_hwc: Pixels, short_side_px: int | None, covers: tuple[float, float] | None = None) -> Pixels:
    """The picture with its shorter side at most `short_side_px`, aspect kept; never enlarged. uint8 in and out, contiguous.

    `covers`: height and width of the picture in pixels of `pixels_hwc`, where those were rounded up.
    """
    sides = covers or pixels_hwc.shape[:2]
    short = min(sides)
    if short_side_px is None or short <= short_side_px:
        return np.ascontiguousarray(pixels_hwc)
    height, width = (max(1, round(side * short_side_px / short)) for side in sides)
    return resize(pixels_hwc, height, width, covers)


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
