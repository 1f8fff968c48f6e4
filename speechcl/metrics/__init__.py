"""Figures of merit: detection error rates, their intervals, and continual-learning summaries."""

from speechcl.metrics.bootstrap import average_eer_interval, eer_interval
from speechcl.metrics.continual import continual_summary
from speechcl.metrics.detection import det_curve, eer, eer_per_attack, pooled_eer, worst_attack

__all__ = [
    "average_eer_interval",
    "continual_summary",
    "det_curve",
    "eer",
    "eer_interval",
    "eer_per_attack",
    "pooled_eer",
    "worst_attack",
]
