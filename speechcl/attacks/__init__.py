"""At least ten ways to make spoofed speech, and codecs that both classes may pass through."""

from speechcl.attacks.codecs import CODECS, codec
from speechcl.attacks.registry import ATTACKS, Attack, find_attack, spoof

__all__ = ["ATTACKS", "CODECS", "Attack", "codec", "find_attack", "spoof"]
