"""Damaged copies of good files: any format by its bytes, some by their own grammar, so that checksums and lengths agree."""

import copy
import io
import json
import struct
import zipfile
import zlib

EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0xFFFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)

HEADER = 512  # bytes in which sizes, counts and offsets stand


def flip(data, rng, others):
    """One to sixteen bits, anywhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_header(data, rng, others):
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        out[rng.randrange(min(len(out), 64))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data, rng, others):
    return data[: rng.randrange(len(data))]


def cut_out(data, rng, others):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 200) :]


def repeat(data, rng, others):
    start = rng.randrange(len(data))
    end = start + rng.randrange(1, 200)
    return data[:end] + data[start:end] * rng.choice((1, 3, 50)) + data[end:]


def insert(data, rng, others):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 64)) + data[place:]


def overwrite(data, rng, others):
    place = rng.randrange(len(data))
    length = rng.randrange(1, 64)
    filled = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return data[:place] + filled + data[place + length :]


def splice(data, rng, others):
    """The beginning of one file and the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def number(data, rng, others):
    """An extreme integer where the header may hold a size, a count or an offset."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(EXTREMES) % 256**width
    place = rng.randrange(max(1, min(len(data), HEADER) - width + 1))
    return data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


BYTES = (flip, flip, flip_header, cut, cut_out, repeat, insert, overwrite, splice, number, number)


def mutate_bytes(data, rng, others):
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BYTES)(data, rng, others) or b"\0"
    return data


# By the grammar of a format.


def png_chunks(data):
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def png_file(chunks):
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


def mutate_png(data, rng, others):
    """A PNG with sound checksums: a chunk changed, moved, doubled or dropped; huge sizes; text that unpacks to much."""
    chunks = list(png_chunks(data))
    place = rng.randrange(len(chunks))
    kind, body = chunks[place]
    way = rng.randrange(6)
    if way == 0 and body:
        chunks[place] = kind, mutate_bytes(body, rng, [body])
    elif way == 1:
        header = bytearray(chunks[0][1])
        header[0:8] = struct.pack(">II", rng.choice(EXTREMES) % 2**32, rng.choice((1, 40, 9000, 2**31 - 1)))
        if rng.random() < 0.5:
            header[8:13] = bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
        chunks[0] = b"IHDR", bytes(header)
    elif way == 2:
        bomb = zlib.compress(b"\0" * rng.choice((10**5, 10**7)), 9)
        extra = rng.choice((
            (b"zTXt", b"bomb\0\0" + bomb),
            (b"iTXt", b"bomb\0\1\0\0\0" + bomb),
            (b"iCCP", b"bomb\0\0" + bomb),
            (b"eXIf", b"II*\0\x08\0\0\0" + rng.randbytes(60)),
            (b"acTL", struct.pack(">II", rng.choice(EXTREMES) % 2**32, 0)),
            (b"fcTL", rng.randbytes(26)),
            (b"PLTE", rng.randbytes(rng.randrange(800))),
            (b"tRNS", rng.randbytes(rng.randrange(300))),
        ))  # fmt: skip
        chunks.insert(rng.randrange(1, len(chunks)), extra)
    elif way == 3:
        del chunks[place]
    elif way == 4:
        chunks.insert(rng.randrange(len(chunks)), chunks[place])
    else:
        pixels = zlib.compress(rng.randbytes(100) + b"\0" * rng.choice((10, 10**4, 10**7)), 9)
        chunks = [(k, pixels if k == b"IDAT" else b) for k, b in chunks]
    return png_file(chunks)


def mutate_tiff(data, rng, others):
    """A TIFF with entries of its directory changed: sizes, counts, offsets, compressions, sample formats."""
    order = "<" if data[:2] == b"II" else ">"
    if data[:2] not in (b"II", b"MM") or len(data) < 16:
        return mutate_bytes(data, rng, others)
    (place,) = struct.unpack(order + "I", data[4:8])
    out = bytearray(data)
    if place + 2 > len(out):
        return mutate_bytes(data, rng, others)
    (count,) = struct.unpack(order + "H", out[place : place + 2])
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry = place + 2 + 12 * rng.randrange(max(count, 1))
        if entry + 12 > len(out):
            break
        way = rng.randrange(4)
        if way == 0:
            struct.pack_into(
                order + "H", out, entry, rng.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 322, 339))
            )
        elif way == 1:
            struct.pack_into(order + "H", out, entry + 2, rng.randrange(0, 20))
        elif way == 2:
            struct.pack_into(order + "I", out, entry + 4, rng.choice(EXTREMES) % 2**32)
        else:
            value = rng.choice((*EXTREMES, *range(10), 32773, 34712, 50000)) % 2**32
            struct.pack_into(order + "I", out, entry + 8, value)
    return bytes(out)


def mutate_jpeg(data, rng, others):
    """A JPEG with a segment changed: another size, other tables, a longer or shorter one."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        segments.append((place, length))
        place += 2 + length
    if not segments:
        return mutate_bytes(data, rng, others)
    start, length = rng.choice(segments)
    out = bytearray(data)
    if out[start + 1] in (0xC0, 0xC2) and rng.random() < 0.7:
        sizes = (0, 1, 8, 40, 9459, 20000, 65535)
        struct.pack_into(">HH", out, start + 5, rng.choice(sizes), rng.choice(sizes))
    elif rng.random() < 0.3:
        struct.pack_into(">H", out, start + 2, rng.choice((0, 1, 2, 3, length + 1, length - 1, 65535)) % 65536)
    else:
        for _ in range(rng.choice((1, 2, 8))):
            if length > 2:
                out[min(start + 4 + rng.randrange(length - 2), len(out) - 1)] = rng.randrange(256)
    return bytes(out)


# JSON, by its values.

HOSTILE_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 63, 64, 65, 10**4, 10**6, 10**9, 2**31, 2**63, 10**20, -(10**9), 0.5, 1e-300, 1e300,
    float("nan"), float("inf"), float("-inf"), "", "a", "../..", "../../etc", "/etc/passwd", "~", ".", "a/b", "os.system", "\0",
    "__import__('os').system('touch ran')", "x" * 10_000, "1e9", "NaN", [], {}, [[]], [0], [10**9], [1, 2, 3], ["a"], [None],
    [32] * 1000, {"a": 1}, {"_class_name": "UNet2DModel"}, {"__reduce__": "os.system"},
)  # fmt: skip

HOSTILE_KEYS = (
    "auto_map", "_class_name", "_target_", "class", "module", "path", "__class__", "__init__", "custom_pipeline", "torch_dtype",
    "trust_remote_code", "../x", "", "dm", "weights",
)  # fmt: skip


def places(value, found=None):
    """Every container and key in it."""
    found = [] if found is None else found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.append((value, key))
        places(item, found)
    return found


def mutate_value(value, rng):
    """A JSON value changed at one to three places: other values, keys renamed, dropped, added, doubled."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spots = places(value)
        if not spots:
            return rng.choice(HOSTILE_VALUES)
        holder, key = rng.choice(spots)
        way = rng.randrange(8)
        if way <= 3:
            holder[key] = rng.choice(HOSTILE_VALUES)
        elif way == 4:
            del holder[key]
        elif way == 5 and isinstance(holder, dict):
            holder[rng.choice(HOSTILE_KEYS)] = rng.choice(HOSTILE_VALUES)
        elif way == 6 and isinstance(holder, dict):
            holder[str(key) + rng.choice(("x", " ", "\0", "2"))] = holder.pop(key)
        elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = rng.choice(
                (holder[key] + 1, holder[key] - 1, -holder[key], holder[key] * 1000, holder[key] / 3)
            )
        else:
            holder[key] = rng.choice((copy.deepcopy(value), [holder[key]], json.dumps(holder[key])))
    return value


def mutate_json(data, rng, others):
    way = rng.randrange(12)
    if way == 0:
        return b"[" * rng.choice((10, 10**5)) + data
    if way == 1:
        return data.replace(b"{", b'{"name": "twice", "name": "twice", ', 1)
    if way == 2:
        return data.replace(b": ", b": " + b"9" * rng.choice((400, 5000)), 1)
    return json.dumps(mutate_value(json.loads(data), rng)).encode()


def mutate_safetensors(data, rng, others):
    """A safetensors file whose header is JSON of the length that it says; its data may be changed too."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = rng.randrange(6)
    if way == 0 and body:
        body = mutate_bytes(body, rng, [body])
    elif way == 1:
        entry = header[rng.choice([key for key in header if key != "__metadata__"])]
        entry["dtype"] = rng.choice(
            ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64")
        )
    elif way == 2:
        entry = header[rng.choice([key for key in header if key != "__metadata__"])]
        entry["shape"] = rng.choice((
            [], [0], entry["shape"][::-1], [1, *entry["shape"]], [10**9] * 3, [2**63], [-1], [entry["shape"]],
            [n * 2 for n in entry["shape"]],
        ))  # fmt: skip
    elif way == 3:
        names = [key for key in header if key != "__metadata__"]
        one, other = rng.choice(names), rng.choice(names)
        header[one], header[other] = header[other], header[one]
    elif way == 4 and "__metadata__" in header:
        about = header["__metadata__"]
        key = rng.choice(list(about))
        try:
            about[key] = json.dumps(mutate_value(json.loads(about[key]), rng))
        except ValueError:
            about[key] = rng.choice(("", "x", "../..", about[key][::-1]))
    else:
        header = mutate_value(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def mutate_npz(data, rng, others):
    """A zip with sound checksums: a member changed, doubled, dropped, compressed, or of another kind of array."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    way = rng.randrange(8)
    if way == 0:
        members[place] = name, mutate_bytes(content, rng, [content])
    elif way == 1:
        members[place] = (
            name,
            content.replace(b"<f4", rng.choice((b"<f8", b"<i4", b"|O4", b"<U1", b"<c8", b"|V4", b"<f2")), 1),
        )
    elif way == 2:
        shape = rng.choice((b"(1000000000, 512)", b"(-1,)", b"()", b"(2,)", b"(0, 0)", b"((),)", b"(1e9,)"))
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }"
        header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
        members[place] = name, b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + b"\0" * 64
    elif way == 3:
        del members[place]
    elif way == 4:
        members.append((name, content))
    elif way == 5:
        members.append((rng.choice(("../../x.npy", "/x.npy", "about", "features", "x.py")), content))
    elif way == 6:
        text = mutate_value(json.loads(next(array_text(c) for n, c in members if n == "about.npy")), rng)
        members = [(n, array_of(json.dumps(text)) if n == "about.npy" else c) for n, c in members]
    packed = zipfile.ZIP_DEFLATED if way == 7 else zipfile.ZIP_STORED
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def array_text(content):
    import numpy as np

    return str(np.load(io.BytesIO(content)))


def array_of(text):
    import numpy as np

    out = io.BytesIO()
    np.save(out, np.array(text))
    return out.getvalue()


HOSTILE_CELLS = (
    "", "NaN", "inf", "-inf", "1e400", "1_0", "yes", "=1+1", "\u0661", "0x10", "1,5", '"', "'", "\0", "x" * 200_000, "-0", "true",
    "None", "1;0", "\ufeff", "1\t0",
)  # fmt: skip


def mutate_table(data, rng, others):
    """A label file with rows and cells changed, doubled, dropped; other delimiters, quotes and encodings."""
    text = data.decode()
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    delimiter = "," if "," in lines[0] else " "
    cells = lines[place].split(delimiter)
    way = rng.randrange(9)
    if way <= 2:
        cells[rng.randrange(len(cells))] = rng.choice(HOSTILE_CELLS)
        lines[place] = delimiter.join(cells)
    elif way == 3:
        del lines[place]
    elif way == 4:
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif way == 5:
        lines[place] = delimiter.join(cells + ["1"] * rng.choice((1, 3)))
    elif way == 6:
        text = "\n".join(lines).replace(delimiter, rng.choice((";", "\t", "|", ",,", " ,")))
        return text.encode()
    elif way == 7:
        return "\n".join(lines).encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7")))
    else:
        rng.shuffle(lines)
    return "\n".join(lines).encode()
