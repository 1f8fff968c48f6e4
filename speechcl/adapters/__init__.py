"""Adapters: small trainable changes to any torch model; they know no method."""

from speechcl.adapters.bottleneck import Bottleneck
from speechcl.adapters.files import AdapterState
from speechcl.adapters.fingerprint import base_fingerprint
from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape
from speechcl.adapters.lora import LoRA
from speechcl.adapters.reachability import check_reachable
from speechcl.adapters.surgery import (
    AdapterInfo,
    InsertReport,
    activate,
    adapter_layers,
    adapter_parameters,
    attach,
    extract,
    insert,
    list_adapters,
    merge,
    remove,
)

__all__ = [
    "Adapter",
    "AdapterInfo",
    "AdapterLayer",
    "AdapterState",
    "Bottleneck",
    "InsertReport",
    "LoRA",
    "WeightShape",
    "activate",
    "adapter_layers",
    "adapter_parameters",
    "attach",
    "base_fingerprint",
    "check_reachable",
    "extract",
    "insert",
    "list_adapters",
    "merge",
    "remove",
]
