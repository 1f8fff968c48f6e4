"""Figures of merit: detection error rates, their intervals, and continual-learning summaries."""

from speechcl.metrics.accuracy import accuracy, misclassification_ratios
from speechcl.metrics.bootstrap import average_eer_interval, eer_interval
from speechcl.metrics.breakdown import error_rates
from speechcl.metrics.calibration import Calibration, cllr, fit_calibration, min_cllr
from speechcl.metrics.continual import continual_summary, online_summary
from speechcl.metrics.cost import (
    AsvRates,
    act_dcf,
    asv_rates,
    min_dcf,
    min_tdcf,
    min_tdcf_from_rates,
)
from speechcl.metrics.detection import det_curve, eer, eer_per_attack, pooled_eer, worst_attack
from speechcl.metrics.transfer import transfer_summary

__all__ = [
    "AsvRates",
    "Calibration",
    "accuracy",
    "act_dcf",
    "asv_rates",
    "average_eer_interval",
    "cllr",
    "continual_summary",
    "det_curve",
    "eer",
    "eer_interval",
    "eer_per_attack",
    "error_rates",
    "fit_calibration",
    "min_cllr",
    "min_dcf",
    "min_tdcf",
    "min_tdcf_from_rates",
    "misclassification_ratios",
    "online_summary",
    "pooled_eer",
    "transfer_summary",
    "worst_attack",
]
