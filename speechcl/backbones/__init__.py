"""Networks as plain modules; they know neither methods nor tasks."""

from speechcl.backbones.aasist import AASIST
from speechcl.backbones.aasist_fast import FastAASIST
from speechcl.backbones.aasist_published import load_published
from speechcl.backbones.audio_classifier import AudioClassifier
from speechcl.backbones.audio_text import AudioText
from speechcl.backbones.build import build_backbone
from speechcl.backbones.detector import CosineHead, Detector, with_cosine_head
from speechcl.backbones.filterbanks import LinearFilterbank, LogMel, SpecMask
from speechcl.backbones.image_nets import ConvNet, ReducedResNet
from speechcl.backbones.lcnn import LCNN
from speechcl.backbones.lfcc import LFCC, LFCCStatistics, statistics
from speechcl.backbones.resnet import ResNet
from speechcl.backbones.speech_encoder import SpeechEncoder
from speechcl.backbones.ssl import PooledLinear, SSLFrontEnd
from speechcl.backbones.statistics_net import StatisticsNet

__all__ = [
    "AASIST",
    "AudioClassifier",
    "AudioText",
    "ConvNet",
    "CosineHead",
    "Detector",
    "FastAASIST",
    "LCNN",
    "LFCC",
    "LFCCStatistics",
    "LinearFilterbank",
    "LogMel",
    "PooledLinear",
    "ReducedResNet",
    "ResNet",
    "SSLFrontEnd",
    "SpecMask",
    "SpeechEncoder",
    "StatisticsNet",
    "build_backbone",
    "load_published",
    "statistics",
    "with_cosine_head",
]
