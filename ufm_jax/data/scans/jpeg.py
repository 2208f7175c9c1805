"""The size of a JPEG, JPEG-LS or JPEG 2000 stream, from its markers, before it is decoded.

ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2 (frame headers), ISO/IEC 15444-1 A.5.1 (SIZ).
"""

import struct

_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
_FRAMES = frozenset(range(0xC0, 0xD0)) - set(_NOT_FRAMES) | {0xF7}
_SIZ = 0x51


def stream_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of a stream; None if it does not say."""
    at = 2  # Behind the marker that begins a stream.
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4])
        segment = stream[at + 4 : at + 2 + length]
        if marker == _SIZ and len(segment) >= 36:
            right, bottom, left, top = struct.unpack(">4I", segment[2:18])
            return bottom - top, right - left, int.from_bytes(segment[34:36])
        if marker in _FRAMES and len(segment) >= 6:
            rows, columns = struct.unpack(">2H", segment[1:5])
            return rows, columns, segment[5]
        at += 2 + length
    return None
