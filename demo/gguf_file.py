"""Writes GGUF version 3 with nothing but Python: enough for a model of float tensors and its tokenizer."""

import struct

F32, F16 = 0, 1
ALIGNMENT = 32


def text(s):
    raw = s.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    """A record's type and payload: bool, int (u32), float (f32), str, or a list of str or of int (i32)."""
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    if all(isinstance(x, str) for x in v):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))
    return struct.pack("<IIQ", 9, 5, len(v)) + struct.pack(f"<{len(v)}i", *v)


def padded(n):
    return -n % ALIGNMENT


def write(path, metadata, tensors):
    """metadata: {key: value}; tensors: [(name, extents, type, bytes)], the extent along which weights are contiguous first."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(text(k) + value(v) for k, v in metadata.items())
    offset = 0
    for name, extents, kind, data in tensors:
        count = 1
        for e in extents:
            count *= e
        assert len(data) == count * {F32: 4, F16: 2}[kind], name
        head += text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)
        offset += len(data) + padded(len(data))
    with open(path, "wb") as f:
        f.write(head + bytes(padded(len(head))))
        for _, _, _, data in tensors:
            f.write(data + bytes(padded(len(data))))
