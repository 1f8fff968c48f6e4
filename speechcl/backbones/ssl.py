"""Features of self-supervised speech encoders, frozen, and a small back end for them."""

from __future__ import annotations

import hashlib
import pickle
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.resnet import mean_and_spread

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FAMILIES = ("wav2vec2", "hubert", "wavlm")
_UNUSED_WEIGHTS = {"masked_spec_embed"}  # hides frames in pre-training; some checkpoints lack it


class SSLFrontEnd(nn.Module):
    """Hidden states of a frozen wav2vec 2.0 (also XLS-R), HuBERT or WavLM.

    The encoder never learns: its weights ask for no gradient, it stays in evaluation mode, and it
    runs without a graph. What learns is one weight a layer, if ``layer`` is "weighted".

    Weights that come from a name or a folder are not part of ``state_dict``, so that a checkpoint
    of a run does not hold 1.2 GB of XLS-R that never change; it holds their SHA-256, and loading
    it over other weights is an error. Random weights, of a configuration, are part of it.

    Arguments
    ---------
    source : str or PretrainedConfig
        A name on the Hugging Face hub (``facebook/wav2vec2-xls-r-300m``), a folder, or a
        configuration object for random weights, which serve tests only.
    layer : int or "weighted"
        An int takes one hidden state and drops the layers that it does not need: 0 is what enters
        the first layer, 5 what leaves the fifth; lower and middle layers tell spoofed speech best.
        "weighted" sums all of them, each normalised over its width, with learnt softmax weights.
    normalise : bool or None
        Give each clip mean 0 and variance 1, as most encoders were trained. None does what
        the checkpoint's preprocessor says, and True for a configuration.
    local_files_only : bool
        Do not ask the hub, use what is on this computer.

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If the weights cannot be read or are of another kind of model, or there is no such layer.

    Source: Baevski et al., "wav2vec 2.0", NeurIPS 2020; Yang et al., "SUPERB", Interspeech 2021
    (weighted sum). Deviates: states are normalised before they are summed.

    Example
    -------
    >>> from transformers import HubertConfig
    >>> tiny = HubertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...     intermediate_size=32, conv_dim=[8, 8], conv_kernel=[10, 8], conv_stride=[5, 4],
    ...     num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    >>> front_end = SSLFrontEnd(tiny)
    >>> front_end(torch.zeros(2, 16000)).shape, front_end.width
    (torch.Size([2, 798, 16]), 16)
    >>> [name for name, p in front_end.named_parameters() if p.requires_grad]
    ['layer_logits']
    """

    def __init__(
        self,
        source: str | PretrainedConfig,
        layer: int | Literal["weighted"] = "weighted",
        normalise: bool | None = None,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        self.encoder: Any
        if isinstance(source, str):
            self.encoder = _read(source, local_files_only)
            if normalise is None:
                normalise = _wants_normalised(source, local_files_only)
            self.digest: Tensor
            self.register_buffer("digest", _digest(self.encoder))
            self.register_state_dict_post_hook(_leave_out)
            self.register_load_state_dict_pre_hook(_put_back)
        else:
            _check_family(source)
            self.encoder = _transformers().AutoModel.from_config(source)
        self.normalise = True if normalise is None else normalise
        self.layer = layer
        self.width = self.encoder.config.hidden_size
        layers = self.encoder.encoder.layers
        if layer == "weighted":
            self.layer_logits = nn.Parameter(torch.zeros(len(layers) + 1))
        elif isinstance(layer, int) and 0 <= layer <= len(layers):
            del layers[layer + 1 :]  # one more stays, for the encoder may normalise its last output
        else:
            raise ValueError(
                f"layer is {layer!r}: set it to 'weighted' or a number from 0 to {len(layers)}"
            )
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SSLFrontEnd:
        """Set the mode; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (batch, time) at 16 kHz into features (batch, frames, width).

        Raises
        ------
        ValueError
            If the clip is shorter than the first frame.
        """
        shortest = _shortest(self.encoder.config)
        if waveform.shape[1] < shortest:
            raise ValueError(
                f"{waveform.shape[1]} samples are too few for the encoder: give at least {shortest}"
            )
        with torch.no_grad():
            if self.normalise:
                variance, mean = torch.var_mean(waveform, dim=1, correction=0, keepdim=True)
                waveform = (waveform - mean) / (variance + 1e-7).sqrt()
            outputs = self.encoder(waveform, output_hidden_states=True)
            # the last one with the encoder's last normalisation, in all versions of transformers
            states = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
        if self.layer != "weighted":
            return states[self.layer]
        shares = self.layer_logits.softmax(0)
        return sum(
            share * functional.layer_norm(state, state.shape[-1:])
            for share, state in zip(shares, states, strict=True)
        )


class PooledLinear(nn.Module):
    """A linear layer on frames, mean and spread over time, a linear classifier.

    With features of a self-supervised encoder this is often enough, and has 131,457 parameters at
    width 1024. By default one logit, for detection: higher is more genuine.

    Arguments
    ---------
    width : int
        Of the frames.
    hidden : int
        Of the linear layer; the embedding has twice as many.
    classes : int
        Outputs.

    Source: Snyder et al., "X-vectors", ICASSP 2018 (pooling).

    Example
    -------
    >>> logit, embedding = PooledLinear(1024)(torch.zeros(2, 201, 1024))
    >>> logit.shape, embedding.shape
    (torch.Size([2, 1]), torch.Size([2, 256]))
    """

    def __init__(self, width: int, hidden: int = 128, classes: int = 1) -> None:
        super().__init__()
        self.project = nn.Linear(width, hidden)
        self.classify = nn.Linear(2 * hidden, classes)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and embedding (batch, 2 hidden) of the frames."""
        embedding = mean_and_spread(torch.relu(self.project(frames)).transpose(1, 2))
        return self.classify(embedding), embedding


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "self-supervised features need transformers: run pip install 'speechcl[ssl]'"
        ) from error
    return transformers


def _read(source: str, local_files_only: bool) -> nn.Module:
    """Return the encoder of a name or folder, with all its weights, in single precision."""
    from safetensors import SafetensorError

    transformers = _transformers()
    options = {"local_files_only": local_files_only, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        _check_family(config)  # before anything large is fetched
        # safetensors where there are any; old checkpoints are unpickled as tensors and nothing else
        encoder, report = transformers.AutoModel.from_pretrained(
            source, config=config, weights_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(
            f"no speech encoder can be read from {source!r} ({_first_line(error)}): check the name "
            "and the network, or give a folder with config.json and model.safetensors"
        ) from error
    absent = sorted(set(report["missing_keys"]) - _UNUSED_WEIGHTS)
    if absent:
        raise ValueError(
            f"{source!r} lacks {len(absent)} weights of its model, such as {absent[0]}: "
            "give a checkpoint of a pre-trained encoder"
        )
    return encoder.float()


def _wants_normalised(source: str, local_files_only: bool) -> bool:
    """Return what the checkpoint's preprocessor does with a waveform."""
    try:
        preprocessor = _transformers().AutoFeatureExtractor.from_pretrained(
            source, local_files_only=local_files_only, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source!r} does not say whether it wants normalised waveforms "
            f"({_first_line(error)}): set normalise to true or false"
        ) from error
    return preprocessor.do_normalize


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _check_family(config: PretrainedConfig) -> None:
    if config.model_type not in _FAMILIES:
        raise ValueError(f"a {config.model_type} model is none of {', '.join(_FAMILIES)}")


def _shortest(config: PretrainedConfig) -> int:
    """Return how many samples make one frame."""
    samples = 1
    for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def _digest(encoder: nn.Module) -> Tensor:
    """Return 32 bytes that depend on the values of the weights, not on their names or order."""
    digests = sorted(
        hashlib.sha256(weight.contiguous().flatten().view(torch.uint8).numpy()).digest()
        for weight in encoder.state_dict().values()
    )
    return torch.tensor(list(hashlib.sha256(b"".join(digests)).digest()), dtype=torch.uint8)


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}encoder.")]:
        del state[key]


def _put_back(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    found = state.get(f"{prefix}digest")
    if found is not None and not torch.equal(found.cpu(), module.digest.cpu()):
        raise ValueError(
            "this checkpoint was made with other weights of the self-supervised encoder: "
            "give SSLFrontEnd the source that it had then"
        )
    own = module.encoder.state_dict()
    state.update({f"{prefix}encoder.{key}": weight for key, weight in own.items()})
