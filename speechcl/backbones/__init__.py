"""Networks as plain modules; they know neither methods nor tasks."""

from speechcl.backbones.lcnn import LCNN
from speechcl.backbones.lfcc import LFCC, LFCCStatistics, statistics
from speechcl.backbones.statistics_net import StatisticsNet

__all__ = ["LCNN", "LFCC", "LFCCStatistics", "StatisticsNet", "statistics"]
