"""Networks as plain modules; they know neither methods nor tasks."""

from speechcl.backbones.aasist import AASIST
from speechcl.backbones.aasist_fast import FastAASIST
from speechcl.backbones.aasist_published import load_published
from speechcl.backbones.detector import CosineHead, Detector, with_cosine_head
from speechcl.backbones.filterbanks import LinearFilterbank, LogMel, SpecMask
from speechcl.backbones.lcnn import LCNN
from speechcl.backbones.lfcc import LFCC, LFCCStatistics, statistics
from speechcl.backbones.resnet import ResNet
from speechcl.backbones.ssl import PooledLinear, SSLFrontEnd
from speechcl.backbones.statistics_net import StatisticsNet

__all__ = [
    "AASIST",
    "CosineHead",
    "Detector",
    "FastAASIST",
    "LCNN",
    "LFCC",
    "LFCCStatistics",
    "LinearFilterbank",
    "LogMel",
    "PooledLinear",
    "ResNet",
    "SSLFrontEnd",
    "SpecMask",
    "StatisticsNet",
    "load_published",
    "statistics",
    "with_cosine_head",
]
