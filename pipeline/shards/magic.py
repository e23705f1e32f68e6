"""What a medium is by its first bytes, where no name says it."""

_STARTS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
    (b"\x1aE\xdf\xa3", "webm"),
)
_RIFF = {b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi"}
_SOUND = (b"M4A ", b"M4B ")


def extension_of(start: bytes) -> str | None:
    """Extension of a picture, recording or clip by its first 36 bytes or more; None where they are of no known kind."""
    for magic, extension in _STARTS:
        if start.startswith(magic):
            return extension
    if start[:4] in (b"RIFF", b"RIFX"):
        return _RIFF.get(start[8:12])
    if start[:4] == b"OggS":
        return "opus" if start[28:36] == b"OpusHead" else "ogg"
    if start[4:8] == b"ftyp":
        return "m4a" if start[8:12] in _SOUND else "mov" if start[8:12] == b"qt  " else "mp4"
    if start[:2] == b"BM" and len(start) > 14 and start[6:10] == bytes(4):
        return "bmp"
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xE6 == 0xE2:  # MPEG audio frame, layer III
        return "mp3"
    return None
