"""Problem brains: what a forward pass, a loss and a score are; they know no method."""

from speechcl.brains.audio_text import AudioTextBrain
from speechcl.brains.classification import ClassificationBrain
from speechcl.brains.detection import DetectionBrain
from speechcl.brains.image_text import ImageTextBrain
from speechcl.brains.language import LanguageModelBrain
from speechcl.brains.text_classification import TextClassificationBrain

__all__ = [
    "AudioTextBrain",
    "ClassificationBrain",
    "DetectionBrain",
    "ImageTextBrain",
    "LanguageModelBrain",
    "TextClassificationBrain",
]
