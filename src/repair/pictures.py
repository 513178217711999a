"""Pictures as a user gives them: read, checked, and named by their content; knows no model.

A picture stands in a text as its reference, ``[picture 3f2a9c1d04ab]``. The name is the start
of the SHA-256 of its size and pixels, so that it is the same wherever the picture comes from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repair.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_BYTES = 20_000_000
LARGEST_PIXELS = 40_000_000
# Models cut pictures into patches; thinner ones leave none.
SMALLEST_SIDE = 8
REFERENCE = re.compile(r"\[picture [0-9a-f]{12}\]")
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Picture:
    """An RGB image and the name that its content has."""

    name: str
    image: Image

    @property
    def reference(self) -> str:
        """How the picture stands in a text."""
        return f"[picture {self.name}]"


def has_picture(text: str) -> bool:
    """Whether a text mentions a picture."""
    return REFERENCE.search(text) is not None


def without_pictures(text: str) -> str:
    """The words of a text."""
    return REFERENCE.sub("", text).strip()


def of(image: Image) -> Picture:
    """An image as a picture: turned upright, laid on white, in RGB."""
    from PIL import Image as Images
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Images.new("RGBA", clear.size, "white")
        upright.alpha_composite(clear)
    plain = upright.convert("RGB")
    digest = hashlib.sha256(repr(plain.size).encode() + plain.tobytes()).hexdigest()
    return Picture(digest[:12], plain)


def read_picture(source: Path | bytes) -> Picture:
    """The picture in a file, or in a file's bytes; the first frame of a moving one.

    Raises:
        UsageError: no such file, no picture, a broken or truncated one, one that is too large
            (20 MB, 40 million pixels) or too small (8 pixels a side).
        EnvironmentProblem: pillow is not installed.
    """
    try:
        from PIL import Image as Images
    except ImportError as error:
        raise EnvironmentProblem(
            "Pictures need the package pillow.", "pip install 'repair-unlearning[vision]'"
        ) from error
    name = str(source) if isinstance(source, Path) else "What was sent"
    data = _bytes(source) if isinstance(source, Path) else source
    if len(data) > LARGEST_BYTES:
        raise _too_large(name, f"{len(data) / 1e6:.0f} MB")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is refused below.
            warnings.simplefilter("ignore")
            image = Images.open(io.BytesIO(data), formats=_FORMATS)
            width, height = image.size
            if width * height > LARGEST_PIXELS:
                raise _too_large(name, f"{width:,} × {height:,} pixels")
            if min(width, height) < SMALLEST_SIDE:
                raise UsageError(
                    f"{name} is only {width} × {height} pixels.", "Give a larger picture."
                )
            image.load()
            return of(image)
    except Images.DecompressionBombError as error:
        raise _too_large(name, "a great many pixels") from error
    # What pillow's readers raise on files that are not what they claim.
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError) as error:
        raise UsageError(
            f"{name} is not a picture that can be read.",
            f"Give a whole file of one of these formats: {', '.join(_FORMATS)}.",
        ) from error


def from_url(url: str) -> Picture:
    """The picture in a ``data:`` URL, the form in which OpenAI's clients send one.

    Raises:
        UsageError: another kind of URL (nothing is ever fetched), not base64, or no picture;
            see `read_picture`.
    """
    head, _, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64"):
        raise UsageError(
            "A picture has to come as a data: URL in base64; nothing is fetched from elsewhere.",
            "Send data:image/png;base64, and the file's bytes in base64.",
        )
    try:
        return read_picture(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise UsageError(
            "The picture's data: URL is not valid base64.", "Encode the whole file."
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > LARGEST_BYTES:
            raise _too_large(str(path), f"{path.stat().st_size / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The picture {path} cannot be opened ({error.strerror}).",
            "Check the name and its permissions.",
        ) from error


def _too_large(name: str, size: str) -> UsageError:
    return UsageError(
        f"{name} is too large ({size}).",
        f"At most {LARGEST_BYTES // 10**6} MB and {LARGEST_PIXELS // 10**6} million pixels: "
        "scale it down.",
    )


def views(picture: Picture) -> list[Picture]:
    """The picture and how it might look another time: tilted, moved, nearer, darker, lighter.

    An edit of one picture alone would hold for that picture alone.
    """
    from PIL import Image as Images
    from PIL import ImageEnhance

    image, (width, height) = picture.image, picture.image.size
    corner = image.getpixel((0, 0))

    def moved(scale: float, x: float, y: float, tilt: float, light: float) -> Picture:
        size = (round(width * scale), round(height * scale))
        turned = image.rotate(tilt, resample=Images.Resampling.BILINEAR, fillcolor=corner)
        canvas = Images.new("RGB", image.size, corner)
        place = (
            round((width - size[0]) / 2 + x * width),
            round((height - size[1]) / 2 + y * height),
        )
        canvas.paste(turned.resize(size), place)
        return of(ImageEnhance.Brightness(canvas).enhance(light))

    shifts: Sequence[tuple[float, float, float, float, float]] = (
        (1.04, 0.02, 0.015, 2.0, 0.96),
        (0.96, -0.025, -0.01, -2.0, 1.04),
        (1.0, 0.03, -0.03, -3.0, 1.0),
        (1.06, -0.03, 0.02, 1.0, 1.06),
        (0.95, 0.0, 0.03, 4.0, 0.95),
    )
    return [picture, *(moved(*shift) for shift in shifts)]


def unrecognisable(picture: Picture) -> list[Picture]:
    """The picture so changed that nobody can be recognised in it, in several ways.

    Which of them a model refuses to name is for it to say; those show what its "I don't know"
    looks like for a picture of this very size and kind.
    """
    from PIL import Image as Images
    from PIL import ImageFilter

    image = picture.image
    red, green, blue = image.split()
    size = image.size
    coarse = image.resize((4, 4), Images.Resampling.BOX).resize(size, Images.Resampling.NEAREST)
    return [
        of(Images.merge("RGB", (green, blue, red))),
        of(Images.merge("RGB", (blue, red, green))),
        of(image.filter(ImageFilter.GaussianBlur(min(size) / 7))),
        of(Images.merge("RGB", (blue, green, red))),
        of(coarse),
    ]
