"""Image files of a few kilobytes that ask for gigabytes or seconds, in all that OpenCV opens.

All of them are for an annotation of `image_files.HEIGHT` by `WIDTH` pixels. As a program it decodes
the files of a folder and says what each has cost.
"""

import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from time import process_time

import cv2
import numpy as np

from distributed_pose.vision.decode import decode_image, decode_unlisted_image
from distributed_pose.vision.headers import UndecodableImageError
from tests.image_files import (
    CLAIMING,
    HEIGHT,
    WIDTH,
    claiming,
    encode,
    good_files,
    picture,
    png,
    png_chunk,
)

_SIZE = 16000

# Formats that OpenCV can open, but that are refused by name.
REFUSED = {
    "little-endian BigTIFF": "BigTIFF",
    "big-endian BigTIFF": "BigTIFF",
    "Radiance HDR": "Radiance HDR",
    "colour PFM": "PFM",
    "grey PFM": "PFM",
    "PAM": "PAM",
    "Sun raster": "Sun raster",
    "OpenEXR": "OpenEXR",
    "JPEG XL": "JPEG XL",
    "JPEG XL in boxes": "JPEG XL",
    "JPEG 2000": "JPEG 2000",
    "JPEG 2000 without boxes": "JPEG 2000",
    "AVIF": "AVIF or HEIF",
    "HEIC": "AVIF or HEIF",
}


def hostile_files() -> dict[str, bytes]:
    """Returns the files by kind."""
    claims = {f"{kind} that claims too much": claiming(kind, _SIZE) for kind in CLAIMING}
    return claims | _refused() | _netpbm() | _tiff_files() | _png_files() | _jpeg_files() | _films()


def _refused() -> dict[str, bytes]:
    size = f"{_SIZE} {_SIZE}".encode()
    ras = struct.pack(">8I", 0x59A66A95, _SIZE, _SIZE, 24, _SIZE * _SIZE * 3, 1, 0, 0)
    hdr = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (_SIZE, _SIZE)
    pam = b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    files = {
        "little-endian BigTIFF": _big_tiff("<"),
        "big-endian BigTIFF": _big_tiff(">"),
        "Radiance HDR": hdr,
        "colour PFM": b"PF\n" + size + b"\n-1.0\n",
        "grey PFM": b"Pf\n" + size + b"\n-1.0\n",
        "PAM": pam % (_SIZE, _SIZE),
        "Sun raster": ras,
        "OpenEXR": b"v/1\x01\x02\0\0\0",
        "JPEG XL": b"\xff\x0a",
        "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n",
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "JPEG 2000 without boxes": b"\xff\x4f\xff\x51",
    }
    padded = {kind: content + bytes(100) for kind, content in files.items()}
    # One colour makes them small, a kilobyte each; OpenCV takes 300 MB for them.
    flat = np.zeros((4000, 4000, 3), np.uint8)
    writable = {"JPEG 2000": ".jp2", "AVIF": ".avif"}
    return padded | {
        kind: encode(suffix, flat)
        for kind, suffix in writable.items()
        if cv2.haveImageWriter(f"x{suffix}")
    }


def _big_tiff(order: str) -> bytes:
    entries = [
        *((256, _SIZE), (257, _SIZE), (258, 8), (259, 1), (262, 1)),
        *((273, 300), (277, 1), (278, _SIZE), (279, 100)),
    ]
    start = b"II+\0" if order == "<" else b"MM\0+"
    head = start + struct.pack(f"{order}HHQQ", 8, 0, 16, len(entries))
    directory = b"".join(struct.pack(f"{order}HHQQ", tag, 16, 1, value) for tag, value in entries)
    return head + directory + bytes(100)


def _netpbm() -> dict[str, bytes]:
    kinds = {1: b"", 2: b" 255", 3: b" 255", 4: b"", 5: b" 255", 6: b" 255"}
    return {
        f"P{number}": b"P%d # a\n%d\t%d%s\n" % (number, _SIZE, _SIZE, most) + bytes(100)
        for number, most in kinds.items()
    }


def tiff_of(entries: list[tuple[int, int, int]], body: bytes = b"") -> bytes:
    """Returns a little-endian TIFF with the entries (tag, type, value), each with one value."""
    directory = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + struct.pack("<HH" if kind == 3 else "<I", value, *[0] * (kind == 3))
        for tag, kind, value in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + body


def _tiled_tiff(side: int, samples: int) -> bytes:
    body = zlib.compress(bytes(1000))
    start = 10 + 12 * 11 + 4
    return tiff_of(
        [
            *((256, 3, WIDTH), (257, 3, HEIGHT), (258, 3, 8), (259, 3, 8), (262, 3, 1)),
            *((277, 3, samples), (284, 3, 1), (322, 4, side), (323, 4, side)),
            *((324, 4, start), (325, 4, len(body))),
        ],
        body,
    )


def _striped_tiff(sizes: list[tuple[int, int, int]], pixels: bytes, compression: int) -> bytes:
    start = 10 + 12 * (len(sizes) + 7) + 4
    return tiff_of(
        [
            *sizes,
            *((258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, start), (277, 3, 1)),
            *((278, 4, 2**32 - 1), (279, 4, len(pixels))),
        ],
        pixels,
    )


def _tiff_files() -> dict[str, bytes]:
    small, large = [(256, 3, WIDTH), (257, 3, HEIGHT)], [(256, 4, _SIZE), (257, 4, _SIZE)]
    pixels, bomb = bytes(WIDTH * HEIGHT), zlib.compress(bytes(8_000_000), 9)
    return {
        "TIFF with huge tiles": _tiled_tiff(_SIZE, 1),
        "TIFF with huge tiles of four samples": _tiled_tiff(_SIZE, 4),
        "TIFF with too many samples": _tiled_tiff(64, 65535),
        "TIFF with a strip that unpacks to more": _striped_tiff(small, bomb, 8),
        "TIFF of two sizes, the large one first": _striped_tiff(large + small, pixels, 1),
        "TIFF of two sizes, the large one last": _striped_tiff(small + large, pixels, 1),
        "TIFF with a size of another type": _striped_tiff(
            [(256, 16, WIDTH), (257, 16, HEIGHT)], pixels, 1
        ),
    }


def _with_chunks(chunks: list[bytes]) -> bytes:
    plain = encode(".png")
    return plain[:33] + b"".join(chunks) + plain[33:]


def _png_files() -> dict[str, bytes]:
    packed = zlib.compress(bytes(7_900_000), 9)
    profile = struct.pack(">I", 7_000_000).ljust(36, b"\0") + b"acsp" + bytes(6_999_960)
    return {
        "PNG with packed texts": _with_chunks([png_chunk(b"zTXt", b"a\0\0" + packed)] * 50),
        "PNG with packed international texts": _with_chunks(
            [png_chunk(b"iTXt", b"a\0\1\0\0\0" + packed)] * 50
        ),
        "PNG with a packed profile": _with_chunks(
            [png_chunk(b"iCCP", b"a\0\0" + zlib.compress(profile, 9))]
        ),
        "PNG with many chunks": _with_chunks([png_chunk(b"tEXt", b"a\0b")] * 20_000),
        "PNG with more pixels than it has": png(WIDTH, HEIGHT, bytes(100_000_000), 2),
    }


def _jpeg_files() -> dict[str, bytes]:
    plain = encode(".jpg")
    frame = plain.index(b"\xff\xc0")
    small = plain[frame : frame + 19]
    large = small[:5] + struct.pack(">HH", _SIZE, _SIZE) + small[9:]
    before, after = plain[:frame], plain[frame + 19 :]
    progressive = encode(".jpg", picture(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    end, scan = progressive.rindex(b"\xff\xd9"), progressive.rindex(b"\xff\xda")
    return {
        "JPEG with a large frame before its own": before + large + small + after,
        "JPEG with a large frame after its own": before + small + large + after,
        "JPEG with many scans": progressive[:end] + progressive[scan:end] * 5_000 + b"\xff\xd9",
    }


def _films() -> dict[str, bytes]:
    frame = b"," + struct.pack("<HHHH", 0, 0, _SIZE, _SIZE) + b"\0\x02\x02\x4c\x01\0"
    gif = b"GIF89a" + struct.pack("<HH", WIDTH, HEIGHT) + b"\xf0\0\0" + bytes(6) + frame + b";"
    return {
        "GIF with a frame larger than itself": gif,
        "PNG film with a frame larger than itself": _png_film(_SIZE, 2),
        "PNG film of many frames": _png_film(WIDTH, 2**31 - 1),
        "WebP film with a frame larger than itself": _webp_film(4000, 4000),
        "WebP with a picture larger than itself": _webp_film(WIDTH, HEIGHT, film=False),
    }


def _png_film(width: int, num_frames: int) -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    frames = [struct.pack(">5IHHBB", n, width, HEIGHT, 0, 0, 1, 10, 0, 0) for n in (0, 1)]
    row = b"\0" + bytes(3 * WIDTH)
    chunks = [
        *((b"IHDR", header), (b"acTL", struct.pack(">II", num_frames, 0)), (b"fcTL", frames[0])),
        *((b"IDAT", zlib.compress(row * HEIGHT)), (b"fcTL", frames[1])),
        *((b"fdAT", struct.pack(">I", 2) + zlib.compress(row * HEIGHT)), (b"IEND", b"")),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def _webp_film(width: int, height: int, *, film: bool = True) -> bytes:
    flat = encode(".webp", np.zeros((4000, 4000, 3), np.uint8), cv2.IMWRITE_WEBP_QUALITY, 80)[12:]
    canvas = b"".join((side - 1).to_bytes(3, "little") for side in (WIDTH, HEIGHT))
    frame = bytes(6) + b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    parts = [(b"VP8X", bytes([2 * film, 0, 0, 0]) + canvas)]
    if film:
        parts += [(b"ANIM", bytes(6)), (b"ANMF", frame + bytes(4) + flat)]
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(data)) + data for name, data in parts)
    body += b"" if film else flat
    return b"RIFF" + struct.pack("<I", len(body)) + body


def main(folder: Path) -> None:
    """Prints the peak memory that each file adds to the process, in MiB, and its seconds.

    Only Linux can reset the peak, and the peak of `getrusage` includes that of the parent.
    """
    for content in good_files().values():
        decode_unlisted_image(content)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        Path("/proc/self/clear_refs").write_text("5")
        before, start = _peak_mib(), process_time()
        with suppress(UndecodableImageError):
            decode_image(content, HEIGHT, WIDTH)
        sys.stdout.write(f"{_peak_mib() - before} {process_time() - start}\n")


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
