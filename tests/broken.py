"""Two hundred inputs that are wrong or odd: images, arrays and sentences."""

import io
import pickle
import struct
import zlib

import numpy as np
import recipe
from PIL import Image

RGB = Image.fromarray(recipe.image(1, 30, 40))
FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}
FORMATS["webp"] = "WEBP"
SIZES = [(1, 1), (1, 2), (2, 1), (20000, 10), (10, 20000), (3, 5000), (333, 7)]
MODES = {  # of Pillow: those that each format can hold
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "tif": ("1", "L", "P", "RGBA", "CMYK", "I;16", "F", "LAB", "YCbCr"),
    "gif": ("1", "L", "P", "RGBA"),
    "bmp": ("1", "L", "P", "RGBA"),
    "webp": ("RGB", "RGBA"),
}


def packed(image, ending, **options):
    """Return an image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, FORMATS[ending], **options)
    return file.getvalue()


def in_mode(mode):
    """Return the test image in a mode of Pillow."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(RGB.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.new("LAB", RGB.size, (100, 3, 5))
    return RGB.convert(mode)


def chunk(kind, data):
    """Return a chunk of a PNG file."""
    checksum = zlib.crc32(kind + data) & 0xFFFFFFFF
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def bomb(width, height):
    """Return a PNG file of a few bytes that claims to be huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def images():
    """Return name of a file -> its bytes."""
    made = {}
    for ending, modes in MODES.items():
        for mode in modes:
            name = "{}.{}".format(mode.replace(";", "_"), ending)
            made["mode_" + name] = packed(in_mode(mode), ending)
    for ending in FORMATS:
        whole = packed(RGB, ending)
        for share in (0, 1, 5, 10, 20, 40, 55, 70, 85, 95, 99):
            name = f"cut_{share}.{ending}"
            made[name] = whole[: len(whole) * share // 100]
        damaged = bytearray(whole)
        damaged[len(whole) // 2 : len(whole) // 2 + 20] = b"\xff\x00" * 10
        made["damaged." + ending] = bytes(damaged)
    for width, height in SIZES:
        image = RGB.resize((width, height))
        made[f"size_{width}x{height}.png"] = packed(image, "png")
    for orientation in range(1, 10):
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"
        exif += bytes([orientation]) + b"\0\0\0\0\0\0"
        name = f"exif_{orientation}.jpg"
        made[name] = packed(RGB, "jpg", exif=exif)
    frames = [RGB, RGB.rotate(90), RGB.rotate(180)]
    for ending in ("gif", "webp"):
        options = {"save_all": True, "append_images": frames[1:]}
        made["animated." + ending] = packed(frames[0], ending, **options)
    for width, height in ((100000, 100000), (2**31 - 1, 1), (12000, 9000), (0, 5)):
        made[f"bomb_{width}x{height}.png"] = bomb(width, height)
    made["png.jpg"], made["jpg.png"] = packed(RGB, "png"), packed(RGB, "jpg")
    made["text.png"] = b"no image at all\n"
    made["page.jpg"] = b"<html><script>alert(1)</script></html>"
    made["pickle.png"] = pickle.dumps({"a": [1, 2]})
    made["svg.svg"] = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    made["-m;$(touch x).png"] = packed(RGB, "png")
    made["no ending"] = packed(RGB, "png")
    return made


def arrays():
    """Return name -> what somebody may hand over in place of an image."""
    image = np.asarray(RGB)
    return {
        "nan": np.full((5, 6, 3), np.nan),
        "nan32": np.full((5, 6, 3), np.nan, np.float32),
        "unit": image / 255.0,
        "int64": image.astype(np.int64),
        "bool": image > 100,
        "empty": image[:, :0],
        "none at all": image[:0, :0],
        "four axes": image[np.newaxis],
        "one axis": image[0, :, 0],
        "five channels": np.zeros((4, 5, 5), np.uint8),
        "two channels": image[..., :2],
        "objects": np.array([[None, "a"], [1, 2]]),
        "None": None,
        "number": 5,
        "no axis": np.uint8(5),
        "bytes": b"\x89PNG",
        "text array": np.array("a.png"),
        "complex": image.astype(complex),
        "list": [[1, 2], [3]],
        "grey": image[..., 0],
        "grey with an axis": image[..., :1],
        "transparent": np.dstack([image, image[..., :1]]),
        "view": image[::-2, ::3],
        "Fortran": np.asfortranarray(image),
    }


SENTENCES = [
    "",
    " ",
    "\t\n\r",
    "\u00a0\u2003\u3000",
    "\x1c\x1d",
    ".",
    "..",
    " . ",
    "?!",
    "left " * 10000,
    "x" * 100000,
    "\x00",
    "left\x00right",
    "\x01\x02\x1b[31mred\x07",
    "\ufeffleft",
    "\u200bleft\u200b",
    "\U0001f600",
    "the \U0001f600 on the \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05d4\u05d0\u05d9\u05e9 \u05de\u05e9\u05de\u05d0\u05dc",
    "\u202eleft the\u202c",
    "\u0627\u0644\u0631\u062c\u0644",
    "\u5de6\u8fb9\u7684\u4eba",
    "e\u0301te\u0301 \u00c9T\u00c9 \u0130",
    "Z\u0361\u0321a\u0337\u0334l\u0338g\u0335o\u0336",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\System32",
    "a/b/c.png",
    "-m train",
    "--output /",
    "$(touch /tmp/owned) `id` ; rm -rf x",
    "%s %d %n {0} {} {self.__class__}",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</textarea><svg onload=alert(1)>",
    "&lt;b&gt; &amp; &#0;",
    "'; DROP TABLE words; --",
    "<unk> <pad> <go> <eos>",
    "\ud800",
    "left \udc80 right",
    "1e999 NaN -0 0x1F",
    "the.left.one.",
    "one-two_three'four\"five",
    "null",
    "\\u0000 \\n",
    "left\r\nright\x0b\x0c\x85",
]
