"""Continual-learning methods: one small class each, in a file of its name."""

from speechcl.methods.chain import Chain
from speechcl.methods.codyra import CoDyRA
from speechcl.methods.derpp import DERpp
from speechcl.methods.dualmix import DualMix
from speechcl.methods.er import ER
from speechcl.methods.er_ace import ERACE
from speechcl.methods.ewc import EWC
from speechcl.methods.feedback import Feedback
from speechcl.methods.fine_tune import FineTune
from speechcl.methods.gdumb import GDumb
from speechcl.methods.joint import Joint
from speechcl.methods.lora import LoRA
from speechcl.methods.lwf import LwF
from speechcl.methods.mora import MoRA
from speechcl.methods.onpro import Contrast, OnPro
from speechcl.methods.osft import OSFT
from speechcl.methods.owm import OWM
from speechcl.methods.rawm import RAWM
from speechcl.methods.rwm import RWM
from speechcl.methods.scr import SCR
from speechcl.methods.si import SI
from speechcl.methods.slm import SLM
from speechcl.methods.usat import USAT

__all__ = [
    "Chain",
    "CoDyRA",
    "Contrast",
    "DERpp",
    "DualMix",
    "ER",
    "ERACE",
    "EWC",
    "Feedback",
    "FineTune",
    "GDumb",
    "Joint",
    "LoRA",
    "LwF",
    "MoRA",
    "OSFT",
    "OWM",
    "OnPro",
    "RAWM",
    "RWM",
    "SCR",
    "SI",
    "SLM",
    "USAT",
]
