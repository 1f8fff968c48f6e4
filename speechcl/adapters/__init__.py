"""Adapters: small trainable changes to any torch model; they know no method."""

from speechcl.adapters.bottleneck import Bottleneck
from speechcl.adapters.files import AdapterState
from speechcl.adapters.fingerprint import base_fingerprint
from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape
from speechcl.adapters.lora import LoRA
from speechcl.adapters.mixture_of_ranks import AtomUsage, MixtureOfRanks, atom_usage
from speechcl.adapters.peft_files import load_peft, save_peft
from speechcl.adapters.rank_selective import RankSelectiveLoRA
from speechcl.adapters.reachability import check_reachable
from speechcl.adapters.retrieved_bank import RetrievedBank, slot_weights
from speechcl.adapters.subspace import RankPolicy
from speechcl.adapters.subspace_core import SubspaceCore
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
    "AtomUsage",
    "Bottleneck",
    "InsertReport",
    "LoRA",
    "MixtureOfRanks",
    "RankPolicy",
    "RankSelectiveLoRA",
    "RetrievedBank",
    "SubspaceCore",
    "WeightShape",
    "activate",
    "adapter_layers",
    "adapter_parameters",
    "atom_usage",
    "attach",
    "base_fingerprint",
    "check_reachable",
    "extract",
    "insert",
    "list_adapters",
    "load_peft",
    "merge",
    "remove",
    "save_peft",
    "slot_weights",
]
