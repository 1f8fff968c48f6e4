"""Continual-learning methods: one small class each, in a file of its name."""

from speechcl.methods.derpp import DERpp
from speechcl.methods.er import ER
from speechcl.methods.ewc import EWC
from speechcl.methods.fine_tune import FineTune
from speechcl.methods.joint import Joint
from speechcl.methods.lora import LoRA
from speechcl.methods.lwf import LwF
from speechcl.methods.owm import OWM
from speechcl.methods.rawm import RAWM
from speechcl.methods.rwm import RWM
from speechcl.methods.si import SI

__all__ = ["DERpp", "ER", "EWC", "FineTune", "Joint", "LoRA", "LwF", "OWM", "RAWM", "RWM", "SI"]
