"""Views of items for learning by contrast and by mixing: a batch at a time, on its device."""

from speechcl.views.images import (
    ColourJitter,
    Crop,
    Flip,
    Gray,
    digit_views,
    image_views,
    strong_image_views,
)
from speechcl.views.rotations import Rotations, spectrogram_flips
from speechcl.views.spectrograms import (
    FrequencyMask,
    LevelShift,
    NoiseFloor,
    TimeMask,
    TimeStretch,
    spectrogram_views,
)
from speechcl.views.view import AnyView, TimeShift, View, Views, as_float
from speechcl.views.waveforms import (
    Companding,
    Level,
    LossyCoding,
    Noise,
    Room,
    Speed,
    waveform_views,
)

READY = {
    "digits": digit_views,
    "images": image_views,
    "strong_images": strong_image_views,
    "spectrograms": spectrogram_views,
}


def ready_views(name: str) -> Views:
    """Return a ready set of views by its name, for YAML files.

    Raises
    ------
    ValueError
        If there is none of that name.

    Example
    -------
    >>> ready_views("spectrograms") == spectrogram_views()
    True
    """
    if name not in READY:
        raise ValueError(f"views are {name!r}: choose among {', '.join(READY)}")
    return READY[name]()


__all__ = [
    "AnyView",
    "ColourJitter",
    "Companding",
    "Crop",
    "Flip",
    "FrequencyMask",
    "Gray",
    "Level",
    "LevelShift",
    "LossyCoding",
    "Noise",
    "NoiseFloor",
    "Room",
    "Rotations",
    "Speed",
    "TimeMask",
    "TimeShift",
    "TimeStretch",
    "View",
    "Views",
    "as_float",
    "digit_views",
    "image_views",
    "ready_views",
    "spectrogram_flips",
    "spectrogram_views",
    "strong_image_views",
    "waveform_views",
]
