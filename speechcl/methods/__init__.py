"""Continual-learning methods: one small class each, in a file of its name."""

from speechcl.methods.codyra import CoDyRA
from speechcl.methods.derpp import DERpp
from speechcl.methods.er import ER
from speechcl.methods.ewc import EWC
from speechcl.methods.fine_tune import FineTune
from speechcl.methods.joint import Joint
from speechcl.methods.lora import LoRA
from speechcl.methods.lwf import LwF
from speechcl.methods.mora import MoRA
from speechcl.methods.osft import OSFT
from speechcl.methods.owm import OWM
from speechcl.methods.rawm import RAWM
from speechcl.methods.rwm import RWM
from speechcl.methods.si import SI
from speechcl.methods.slm import SLM
from speechcl.methods.usat import USAT

__all__ = [
    "CoDyRA",
    "DERpp",
    "ER",
    "EWC",
    "FineTune",
    "Joint",
    "LoRA",
    "LwF",
    "MoRA",
    "OSFT",
    "OWM",
    "RAWM",
    "RWM",
    "SI",
    "SLM",
    "USAT",
]
