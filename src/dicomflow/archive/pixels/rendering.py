"""Frames as pictures: through a window to eight bits, a part of them, scaled, as PNG or JPEG (PS3.18 8.3.5)."""

from dataclasses import dataclass
from typing import Any, Final

from dicomflow.archive.pixels.frames import Frame, usual_window
from dicomflow.archive.pixels.picture import FrameError, Window
from dicomflow.extras import how_to_install

__all__ = ["MAX_SIDE", "MEDIA_TYPES", "Rendering", "encode_png", "render", "shown", "window_of"]

MEDIA_TYPES: Final = ("image/jpeg", "image/png")
MAX_SIDE: Final = 8192
"""Of a rendering, in pixels."""
_FASTEST: Final = 1
_USUAL_QUALITY: Final = 90


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a frame is rendered; what is None is as the object has it.

    Attributes:
        media_type: one of `MEDIA_TYPES`.
        quality: of JPEG, 1 to 100.
        viewport: width and height that the picture fits in.
        region: left, top, width and height of the part that is shown, in pixels of the frame; a negative width or
            height flips it (PS3.18 8.3.5.1.3).
        center: of the window.
        width: of the window.
        function: LINEAR, LINEAR_EXACT or SIGMOID (PS3.3 C.11.2.1.2, C.11.2.1.3).
    """

    media_type: str = MEDIA_TYPES[0]
    quality: int | None = None
    viewport: tuple[int, int] | None = None
    region: tuple[int, int, int, int] | None = None
    center: float | None = None
    width: float | None = None
    function: str = "LINEAR"


def render(frame: Frame, rendering: Rendering) -> bytes:
    """Return a frame as a picture.

    Raises:
        FrameError: the region has no pixel of the frame, or there is no codec.
    """
    center, width = window_of(frame, Window(rendering.center, rendering.width))
    if rendering.region is not None:
        frame = _part(frame, rendering.region)
    samples = shown(frame, center, width, function=rendering.function)
    if rendering.viewport is not None:
        samples = _fitted(samples, *rendering.viewport)
    if rendering.media_type == "image/png":
        return encode_png(samples)
    try:
        import imagecodecs  # noqa: PLC0415  # an extra, and 60 MB
        import numpy as np  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FrameError(f"frames: {how_to_install('console')}") from error
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(samples), level=rendering.quality or _USUAL_QUALITY))


def window_of(frame: Frame, window: Window) -> tuple[float | None, float | None]:
    """Return the window to use: the one asked for, the object's, or one that shows nearly all values."""
    if frame.is_color:
        return None, None
    center = frame.center if window.center is None else window.center
    width = frame.width if window.width is None else window.width
    if center is None or width is None:
        usual_center, usual_width = usual_window(frame.pixels)
        center = usual_center if center is None else center
        width = usual_width if width is None else width
    return round(center, 2), max(1.0, round(width, 2))


def shown(
    frame: Frame, center: float | None, width: float | None, *, is_inverted: bool = False, function: str = "LINEAR"
) -> Any:
    """Return samples of eight bits (PS3.3 C.11.2.1.2.1, C.11.2.1.3)."""
    import numpy as np  # noqa: PLC0415  # an extra

    if center is None or width is None:
        return 255 - frame.pixels if is_inverted else frame.pixels
    if function == "SIGMOID":
        levels = np.clip((frame.pixels - np.float32(center)) * np.float32(-4.0 / width), -60, 60)
        levels = np.float32(255.0) / (np.float32(1.0) + np.exp(levels))
    elif function == "LINEAR_EXACT":
        levels = (frame.pixels - np.float32(center)) * np.float32(255.0 / width) + np.float32(127.5)
    else:
        scale = max(width - 1.0, 1e-3)
        levels = frame.pixels - np.float32(center - 0.5)
        levels *= np.float32(255.0 / scale)
        levels += np.float32(127.5)
    np.nan_to_num(levels, copy=False)
    found = np.clip(levels, 0, 255, out=levels).astype(np.uint8)
    return 255 - found if is_inverted != frame.is_inverted else found


def encode_png(samples: Any) -> bytes:
    """Return samples of eight bits as a PNG."""
    try:
        import imagecodecs  # noqa: PLC0415  # an extra, and 60 MB
        import numpy as np  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FrameError(f"frames: {how_to_install('console')}") from error
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=_FASTEST))


def _part(frame: Frame, region: tuple[int, int, int, int]) -> Frame:
    left, top, width, height = region
    pixels = frame.pixels[max(0, top) : max(0, top + abs(height)), max(0, left) : max(0, left + abs(width))]
    if not pixels.size:
        raise FrameError("the region that is asked for holds no pixel of the frame")
    pixels = pixels[:: -1 if height < 0 else 1, :: -1 if width < 0 else 1]
    return Frame(pixels, frame.is_color, frame.is_inverted, frame.center, frame.width)


def _fitted(samples: Any, width: int, height: int) -> Any:
    """Scale samples so that they fit, in their proportion: means of areas where they become fewer."""
    rows, columns = samples.shape[:2]
    scale = min(height / rows, width / columns)
    for axis, size in ((0, rows), (1, columns)):
        samples = _scaled(samples, axis, max(1, min(MAX_SIDE, round(size * scale))))
    return samples


def _scaled(samples: Any, axis: int, size: int) -> Any:
    import numpy as np  # noqa: PLC0415  # an extra

    before = samples.shape[axis]
    starts = np.arange(size) * before // size
    if size >= before:
        return np.take(samples, starts, axis=axis)
    counts = np.diff(np.append(starts, before))
    shape = [1] * samples.ndim
    shape[axis] = size
    sums = np.add.reduceat(samples.astype(np.uint32), starts, axis=axis)
    return (sums // counts.reshape(shape)).astype(np.uint8)
