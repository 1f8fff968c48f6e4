"""Continual-learning methods: one small class each, in a file of its name."""

from speechcl.methods.er import ER
from speechcl.methods.fine_tune import FineTune
from speechcl.methods.joint import Joint
from speechcl.methods.owm import OWM
from speechcl.methods.rwm import RWM

__all__ = ["ER", "FineTune", "Joint", "OWM", "RWM"]
