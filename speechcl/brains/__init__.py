"""Problem brains: what a forward pass, a loss and a score are; they know no method."""

from speechcl.brains.detection import DetectionBrain

__all__ = ["DetectionBrain"]
