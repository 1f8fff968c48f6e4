"""What a retriever is asked with: one vector per item, from an encoder that never changes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml.error import YAMLError
from torch import Tensor, nn

# its hyperparams.yaml makes any object, so that a damaged one fails in any of these ways
_SPEECHBRAIN_REFUSALS = (
    *(OSError, ValueError, KeyError, AttributeError, TypeError, ImportError, RuntimeError),
    *(YAMLError, pickle.UnpicklingError),
)


class StatisticsEncoder(nn.Module):
    """Mean and standard deviation of features over an item's real frames; needs no weights.

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [3.0], [99.0], [99.0]]])
    >>> StatisticsEncoder()(frames, lengths=torch.tensor([0.5]))
    tensor([[2., 1.]])
    """

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return one query an item.

        Arguments
        ---------
        features : Tensor
            Shape (batch, frames, ...); of (batch, width), one vector an item, it is the query.
        lengths : Tensor, optional
            What is real of each item's frames: see ``real_counts``. All by default.

        Returns
        -------
        Tensor
            Shape (batch, 2 width), where the width is that of a flattened frame.

        Raises
        ------
        ValueError
            If there are lengths but no frames, or ``real_counts`` refuses them.
        """
        features = features.float()
        if features.ndim == 2:
            if lengths is not None:
                raise ValueError(
                    f"features of shape {tuple(features.shape)} have no frames that lengths could "
                    "count: give (batch, frames, width), or no lengths"
                )
            return features
        frames = features.flatten(2)
        counts = real_counts(frames, lengths)[:, None, None]
        real = torch.arange(frames.shape[1], device=frames.device)[:, None] < counts
        mean = torch.where(real, frames, 0).sum(1, keepdim=True) / counts
        variance = torch.where(real, frames - mean, 0).square().sum(1) / counts[:, 0]
        return torch.cat([mean[:, 0], variance.sqrt()], dim=1)


class FrozenEncoder(nn.Module):
    """A copy of any encoder, fixed, whose outputs are averaged over time.

    It is always in evaluation mode, records no gradient and computes in full precision, whatever
    the model around it does; being a copy, it does not change when the original learns. Padding
    cannot matter: items of equal length are encoded together and cut to that length, as masks are
    not enough for encoders that normalise over time.

    Arguments
    ---------
    module : nn.Module
        Maps inputs (batch, time, ...) to embeddings (batch, width) or frames (batch, frames,
        width): as a tensor, as the first of a tuple, as ``last_hidden_state`` of a transformers
        model, or by ``encode_batch`` of a SpeechBrain interface. For wav2vec 2.0, HuBERT and WavLM
        take ``SSLFrontEnd(source, layer=8)``, which reads them and leaves them out of checkpoints.
    layer : int, optional
        Which hidden state of a transformers model to use: 0 enters the first layer. By default
        its output.

    Raises
    ------
    ValueError
        When it runs, if the module has no such layer or its output is of another shape.

    Source: Peng et al., "Scalable Language Model with Generalized Continual Learning", ICLR 2024
    (mean-pooled tokens of a sentence encoder); deviates: none.

    Example
    -------
    >>> encoder = FrozenEncoder(nn.Sequential(nn.Identity(), nn.Dropout(0.9))).train()
    >>> encoder(torch.tensor([[[2.0], [4.0], [0.0], [0.0]]]), lengths=torch.tensor([0.5]))
    tensor([[3.]])
    """

    def __init__(self, module: nn.Module, layer: int | None = None) -> None:
        super().__init__()
        self.encoder: Any = copy.deepcopy(module).requires_grad_(False)
        self.layer = layer
        self.eval()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return one query an item.

        Arguments
        ---------
        inputs : Tensor
            What the encoder takes, shape (batch, time, ...): waveforms, features, token numbers.
        lengths : Tensor, optional
            What is real of each item's time: see ``real_counts``. All by default.

        Returns
        -------
        Tensor
            Shape (batch, width).

        Raises
        ------
        ValueError
            If ``real_counts`` refuses the lengths, or the module's output is of another shape.
        """
        counts = real_counts(inputs, lengths)
        order = counts.argsort(stable=True)
        times, sizes = counts[order].unique_consecutive(return_counts=True)
        groups = zip(times.tolist(), order.split(sizes.tolist()), strict=True)
        with torch.autocast(inputs.device.type, enabled=False):
            queries = torch.cat([self._encode(inputs[items, :time]) for time, items in groups])
        return queries[order.argsort()]

    def _encode(self, inputs: Tensor) -> Tensor:
        output = self._run(inputs)
        if output.ndim == 2:
            return output.float()
        if output.ndim != 3:
            raise ValueError(
                f"the query encoder's output is of shape {tuple(output.shape)}: give a module that "
                "returns (batch, width) or (batch, frames, width)"
            )
        return output.float().mean(1)

    def _run(self, inputs: Tensor) -> Tensor:
        if hasattr(self.encoder, "encode_batch"):  # SpeechBrain's; its forward classifies
            self.encoder.device = inputs.device  # or it would take the inputs to where it was made
            return self.encoder.encode_batch(inputs)
        if self.layer is not None:
            return self._hidden_state(inputs, self.layer)
        output = self.encoder(inputs)
        if hasattr(output, "last_hidden_state"):
            return output.last_hidden_state
        return output[0] if isinstance(output, (tuple, list)) else output

    def _hidden_state(self, inputs: Tensor, layer: int) -> Tensor:
        output = self.encoder(inputs, output_hidden_states=True)
        # the last one with the encoder's last normalisation, in all versions of transformers
        states = (*output.hidden_states[:-1], output.last_hidden_state)
        if not 0 <= layer < len(states):
            raise ValueError(f"layer is {layer}: set it from 0 to {len(states) - 1}")
        return states[layer]


def text_encoder(
    source: str | Path, layer: int | None = None, local_files_only: bool = False
) -> FrozenEncoder:
    """Read a text encoder of the transformers library, such as MPNet, BERT or RoBERTa.

    It takes token numbers (batch, tokens), padded on the right. Nothing in a checkpoint is
    executed: its weights are read from safetensors alone.

    Arguments
    ---------
    source : str or Path
        A folder, or a name on the Hugging Face hub
        (``sentence-transformers/nli-mpnet-base-v2``).
    layer : int, optional
        Of the hidden state to average; by default the output.
    local_files_only : bool
        Do not ask the hub, use what is on this computer.

    Returns
    -------
    FrozenEncoder

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If no whole encoder can be read there.

    Example
    -------
    >>> text_encoder("no/such/folder/here", local_files_only=True)
    Traceback (most recent call last):
    ValueError: no/such/folder/here: no text encoder can be read (...): ...
    """
    from safetensors import SafetensorError

    from speechcl.backbones.huggingface import import_transformers

    try:
        model, report = import_transformers().AutoModel.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=local_files_only,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{source}: no text encoder can be read ({_first_line(error)}): check the name and the "
            "network, or give a folder with config.json and model.safetensors"
        ) from error
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"{source}: a {model.config.model_type} model takes no text: for speech use "
            "FrozenEncoder(SSLFrontEnd(source, layer=8))"
        )
    absent = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if absent:
        raise ValueError(
            f"{source}: lacks {len(absent)} weights of its model, such as {absent[0]}: "
            "give the checkpoint of a whole pre-trained encoder"
        )
    return FrozenEncoder(model, layer)


def speechbrain_encoder(source: str | Path, savedir: str | Path | None = None) -> FrozenEncoder:
    """Read a SpeechBrain ``EncoderClassifier``, such as ECAPA-TDNN; its embeddings are the queries.

    SpeechBrain runs what the folder's hyperparams.yaml says: take sources that you trust. It
    takes waveforms (batch, time) at the rate that it was trained with, mostly 16 kHz.

    Arguments
    ---------
    source : str or Path
        A folder, or a name on the Hugging Face hub (``speechbrain/spkrec-ecapa-voxceleb``).
    savedir : str or Path, optional
        Where SpeechBrain keeps what it fetches.

    Returns
    -------
    FrozenEncoder

    Raises
    ------
    ValueError
        If no such interface can be read there.

    Example
    -------
    >>> speechbrain_encoder("/no/such/folder")
    Traceback (most recent call last):
    ValueError: /no/such/folder: no SpeechBrain encoder can be read (...): ...
    """
    from speechbrain.inference.classifiers import EncoderClassifier

    try:
        interface = EncoderClassifier.from_hparams(
            str(source), savedir=savedir, run_opts={"device": "cpu"}
        )
    except _SPEECHBRAIN_REFUSALS as error:
        raise ValueError(
            f"{source}: no SpeechBrain encoder can be read ({_first_line(error)}): check the name "
            "and the network, or give a folder with hyperparams.yaml and its checkpoints"
        ) from error
    return FrozenEncoder(interface)


def real_counts(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Count the real steps of each item of a batch that is padded on the right; at least 1.

    Arguments
    ---------
    inputs : Tensor
        Shape (batch, time, ...).
    lengths : Tensor or None
        Real share of each item's time, in (0, 1], shape (batch,), as SpeechBrain has them; or a
        mask of shape (batch, time), as transformers has them; None if there is no padding.

    Returns
    -------
    Tensor
        int64, shape (batch,).

    Raises
    ------
    ValueError
        If lengths are of another shape or range, or a mask has a 1 after a 0.

    Example
    -------
    >>> real_counts(torch.zeros(2, 8), torch.tensor([0.25, 1.0]))
    tensor([2, 8])
    >>> real_counts(torch.zeros(1, 3), torch.tensor([[1, 1, 0]]))
    tensor([2])
    """
    items, time = inputs.shape[:2]
    if lengths is None:
        return torch.full((items,), time, device=inputs.device)
    lengths = lengths.to(inputs.device)
    if lengths.shape == (items, time):
        counts = (lengths != 0).sum(1).clamp_min(1)
        if (lengths != 0)[:, 1:].logical_and(lengths[:, :-1] == 0).any():
            raise ValueError("a mask has a 1 after a 0: pad on the right")
        return counts
    if lengths.shape != (items,):
        raise ValueError(
            f"lengths are of shape {tuple(lengths.shape)}: give one for each of {items} items, or "
            f"a mask of shape {(items, time)}"
        )
    if not ((lengths > 0) & (lengths <= 1)).all():
        raise ValueError(
            f"lengths are from {float(lengths.min()):g} to {float(lengths.max()):g}: "
            "give shares of the batch's time, above 0 and at most 1"
        )
    return (lengths * time).round().long().clamp_min(1)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
