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
from speechcl.views.rotations import Rotations
from speechcl.views.spectrograms import (
    FrequencyMask,
    LevelShift,
    NoiseFloor,
    TimeMask,
    TimeShift,
    TimeStretch,
    spectrogram_flips,
    spectrogram_views,
)
from speechcl.views.view import View, Views, as_float
from speechcl.views.waveforms import (
    Companding,
    Level,
    Noise,
    Room,
    Shift,
    Speed,
    waveform_views,
)

__all__ = [
    "ColourJitter",
    "Companding",
    "Crop",
    "Flip",
    "FrequencyMask",
    "Gray",
    "Level",
    "LevelShift",
    "Noise",
    "NoiseFloor",
    "Room",
    "Rotations",
    "Shift",
    "Speed",
    "TimeMask",
    "TimeShift",
    "TimeStretch",
    "View",
    "Views",
    "as_float",
    "digit_views",
    "image_views",
    "spectrogram_flips",
    "spectrogram_views",
    "strong_image_views",
    "waveform_views",
]
