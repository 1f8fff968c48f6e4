"""Voices beside a base model: a few adapters and a vector each; the base never changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.adapters.adapted import MARK
from speechcl.backbones.usat.durations import SplineFlow, StochasticDurationPredictor
from speechcl.backbones.usat.points import AdapterPoint

if TYPE_CHECKING:
    from speechcl.backbones.usat.model import USAT

POSITIONS = ("h_res", "h_seq", "x_res", "x_seq")
VECTOR = "vector"
MAX_KERNEL = 99


@dataclasses.dataclass(frozen=True)
class VoiceSpec:
    """What the adapters of a voice are; all voices beside one base have the same.

    Arguments
    ---------
    position : str
        Where in the couplings of the timbre flow: "h_res", after each layer, added to what passes;
        "h_seq", the same but instead of it; "x_res", beside the coupling, from its untouched
        half; "x_seq", before the coupling, on that half. Only "h_res" and "x_res" begin as the
        base.
    kernel : int
        Frames that an adapter sees at a time, odd; 1 for the linear form.
    reduction : int
        Channels over units of an adapter.
    phonemes : bool
        Whether the attention of the phoneme encoder has adapters too, always linear.

    Source
    ------
    USAT, arXiv 2404.18094, figure 6; the defaults are its recommendation. Deviates: the couplings
    of the durations have a residual adapter at their end whatever the position.

    Example
    -------
    >>> VoiceSpec(position="x_res").starts_as_base
    True
    """

    position: str = "h_res"
    kernel: int = 3
    reduction: int = 8
    phonemes: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind:
                raise ValueError(f"{field.name} is {value!r}: give one of type {kind.__name__}")
        if self.position not in POSITIONS:
            raise ValueError(f"position is {self.position!r}: use {', '.join(POSITIONS)}")
        if not 1 <= self.kernel <= MAX_KERNEL or self.kernel % 2 == 0:
            raise ValueError(
                f"kernel is {self.kernel}: give an odd number of frames, at most {MAX_KERNEL}"
            )
        if self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction}: give a number of at least 1")

    @property
    def starts_as_base(self) -> bool:
        """Whether a fresh voice sounds as the base does."""
        return self.position in ("h_res", "x_res")


class Selection:
    """Which voices act, and which of them each item of a batch has (None: the only one)."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.index: Tensor | None = None


class VoiceAdapter(nn.Module):
    """One voice's adapter at one point: up(relu(down(norm(h)))), zero at the start."""

    def __init__(self, channels: int, units: int, kernel: int) -> None:
        super().__init__()
        self.norm_scale = nn.Parameter(torch.ones(channels))
        self.norm_shift = nn.Parameter(torch.zeros(channels))
        self.down = nn.Parameter(torch.empty(units, channels, kernel))
        self.down_bias = nn.Parameter(torch.zeros(units))
        self.up = nn.Parameter(torch.zeros(channels, units, kernel))
        self.up_bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)


class VoiceBank(nn.Module):
    """All voices' adapters at one point; those that are selected act, in one pass.

    Arguments
    ---------
    channels, units, kernel : int
        Of each adapter.
    selection : Selection
        Shared by all points of a model.
    residual : bool
        Whether what passes is added to what an adapter gives.
    resting : float
        What passes is multiplied by this where no voice is selected: 0 if the point's result is
        added to something else.
    """

    def __init__(
        self,
        channels: int,
        units: int,
        kernel: int,
        selection: Selection,
        residual: bool = True,
        resting: float = 1.0,
    ) -> None:
        super().__init__()
        self.sizes = (channels, units, kernel)
        self.selection, self.residual, self.resting = selection, residual, resting
        self.adapters = nn.ModuleDict()

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Let each item pass its own voice's adapter, (batch, channels, time) in and out."""
        if not self.selection.names:
            return h if self.resting else torch.zeros_like(h)
        acting = [dict(self.adapters[MARK + n].named_parameters()) for n in self.selection.names]
        index, (one, *_) = self.selection.index, acting
        x = functional.layer_norm(h.transpose(1, 2), h.shape[1:2]).transpose(1, 2)
        if index is None:
            change = self._layers(x * mask, mask, one)
        elif len(index) == len(h):
            each = {key: torch.stack([own[key] for own in acting])[index] for key in one}
            change = self._layers_of_each(x * mask, mask, each)
        else:
            raise ValueError(
                f"voices are selected for {len(index)} items, but a batch of {len(h)} came"
            )
        change = change * mask
        return h + change if self.residual else change

    def _layers(self, x: Tensor, mask: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Apply one adapter to all items."""
        x = (x * own["norm_scale"][:, None] + own["norm_shift"][:, None]) * mask
        around = self.sizes[2] // 2
        z = functional.conv1d(x, own["down"], own["down_bias"], padding=around)
        z = torch.relu(z) * mask
        return functional.conv1d(z, own["up"], own["up_bias"], padding=around)

    def _layers_of_each(self, x: Tensor, mask: Tensor, each: Mapping[str, Tensor]) -> Tensor:
        """Apply its own adapter to each item: the items are groups of channels of one item."""
        items, (channels, units, kernel) = len(x), self.sizes
        x = (x * each["norm_scale"][..., None] + each["norm_shift"][..., None]) * mask
        options = {"padding": kernel // 2, "groups": items}
        flat = {key: value.flatten(0, 1) for key, value in each.items()}
        x = x.reshape(1, items * channels, -1)
        z = functional.conv1d(x, flat["down"], flat["down_bias"], **options)
        z = torch.relu(z) * mask.expand(-1, units, -1).reshape(1, items * units, -1)
        z = functional.conv1d(z, flat["up"], flat["up_bias"], **options)
        return z.view(items, channels, -1)


class Place(NamedTuple):
    """A point at which a voice acts, and how; ``resting`` as in ``VoiceBank``."""

    point: AdapterPoint
    kernel: int
    residual: bool = True
    resting: float = 1.0


def voice_points(model: Any, spec: VoiceSpec) -> dict[str, Place]:
    """Return the places at which a voice acts, by the path of their points.

    Example
    -------
    >>> from speechcl.backbones.usat import USAT
    >>> len(voice_points(USAT("usat_tiny"), VoiceSpec()))  # flow 4, durations 4, phonemes 2
    10
    """
    found: dict[str, Place] = {}
    kernel, position = spec.kernel, spec.position
    for k, coupling in enumerate(model.flow.couplings):
        path = f"flow.couplings.{k}"
        if position == "x_res":  # what it gives is added to what the coupling gives
            found[f"{path}.beside"] = Place(coupling.beside, kernel, residual=False, resting=0.0)
        elif position == "x_seq":
            found[f"{path}.before"] = Place(coupling.before, kernel, residual=False)
        else:
            for j, point in enumerate(coupling.wavenet.points):
                place = Place(point, kernel, residual=position == "h_res")
                found[f"{path}.wavenet.points.{j}"] = place
    if isinstance(model.durations, StochasticDurationPredictor):
        for i, flow in enumerate(model.durations.flows):
            if isinstance(flow, SplineFlow) and flow.convs.point is not None:
                found[f"durations.flows.{i}.convs.point"] = Place(flow.convs.point, kernel)
    else:
        found["durations.point"] = Place(model.durations.point, kernel)
    if spec.phonemes:
        for i, layer in enumerate(model.phonemes.layers):
            found[f"phonemes.layers.{i}.attention.point"] = Place(layer.attention.point, kernel=1)
    return found


def add_voice(model: USAT, name: str, vector: Tensor, spec: VoiceSpec | None = None) -> None:
    """Put a fresh voice beside a base model.

    Arguments
    ---------
    model : USAT
        Its own weights stay as they are.
    name : str
        Of the voice, without dots.
    vector : Tensor
        To begin with, shape (size,): the mean of ``model.speaker`` over the speaker's recordings
        (Eq. 11).
    spec : VoiceSpec, optional
        By default that of the voices that are there, or the recommended one.

    Raises
    ------
    ValueError
        If the name is taken or no name, the vector has another size, or other voices have another
        spec.

    Example
    -------
    >>> from speechcl.backbones.usat import USAT
    >>> model = USAT("usat_tiny")
    >>> add_voice(model, "alice", torch.zeros(32))
    >>> list_voices(model), sum(p.numel() for p in voice_parameters(model, "alice"))
    (['alice'], 7688)
    """
    if not name or "." in name or name in list_voices(model):
        raise ValueError(f"voice {name!r}: give a new name without dots")
    if vector.shape != (model.config.speaker,):
        raise ValueError(
            f"the vector of voice {name!r} has shape {tuple(vector.shape)}: this model's are "
            f"({model.config.speaker},), as those of model.speaker"
        )
    spec = spec or model.voice_spec or VoiceSpec()
    if model.voice_spec not in (None, spec):
        raise ValueError(f"voice {name!r} has {spec}, the others {model.voice_spec}: use theirs")
    for point, kernel, residual, resting in voice_points(model, spec).values():
        units = max(1, point.channels // spec.reduction)
        if point.adapter is None:
            sizes = (point.channels, units, kernel)
            point.adapter = VoiceBank(*sizes, model.selection, residual, resting)
        adapter = VoiceAdapter(point.channels, units, kernel)
        _bank(point)[MARK + name] = adapter.to(vector)
    model.vectors.adapters[MARK + name] = nn.Parameter(vector.detach().clone())
    model.voice_spec = spec


def remove_voice(model: USAT, name: str) -> None:
    """Take a voice out; without any, nothing of them is left in the model."""
    spec = spec_of(model, name)
    for point, *_ in voice_points(model, spec).values():
        del _bank(point)[MARK + name]
        if not _bank(point):
            point.adapter = None
    del model.vectors.adapters[MARK + name]
    if not model.vectors.adapters:
        model.voice_spec = None


def list_voices(model: USAT) -> list[str]:
    """Return the names of a model's voices, in order of their coming."""
    return [name.removeprefix(MARK) for name in model.vectors.adapters]


def voice_tensors(model: USAT, name: str) -> dict[str, nn.Parameter]:
    """Return what a voice is made of: "vector", and the adapters' tensors by point."""
    spec = spec_of(model, name)
    found = {VECTOR: model.vectors.adapters[MARK + name]}
    for path, (point, *_) in voice_points(model, spec).items():
        own = _bank(point)[MARK + name]
        found |= {f"{path}.{key}": tensor for key, tensor in own.named_parameters()}
    return found


def voice_parameters(model: USAT, name: str) -> list[nn.Parameter]:
    """Return what is to be trained for a voice."""
    return list(voice_tensors(model, name).values())


@contextmanager
def speaking(
    model: USAT, names: str | Sequence[str], among: Sequence[str] = ()
) -> Iterator[Tensor]:
    """Let voices act for a while; yields their vectors, (1, size) of one or (batch, size) of many.

    Arguments
    ---------
    model : USAT
        With these voices.
    names : str or sequence of str
        One voice for all, or that of each item of a batch, which are then computed in one pass.
    among : sequence of str
        Voices that get a gradient whether an item has them or not, then zero; without, those of
        the batch alone.

    Raises
    ------
    ValueError
        If there is no such voice.

    Example
    -------
    >>> from speechcl.backbones.usat import USAT
    >>> model = USAT("usat_tiny").eval()
    >>> for name in ("alice", "bob"):
    ...     add_voice(model, name, torch.randn(32))
    >>> with torch.no_grad(), speaking(model, ["bob", "alice"]) as vectors:
    ...     _ = model.say(torch.tensor([[0, 10, 0], [0, 14, 0]]), vectors)
    """
    each = [names] if isinstance(names, str) else list(names)
    known = list(dict.fromkeys([*among, *each]))
    for name in known:
        spec_of(model, name)
    vectors = torch.stack([model.vectors.adapters[MARK + name] for name in known])
    selection = model.selection
    before = selection.names, selection.index
    selection.names, selection.index = tuple(known), None
    if len(known) > 1:
        places = [known.index(name) for name in each]
        selection.index = torch.tensor(places, device=vectors.device)
        vectors = vectors[selection.index]
    else:
        vectors = vectors.expand(len(each), -1)
    try:
        yield vectors
    finally:
        selection.names, selection.index = before


class Vectors(nn.Module):
    """Holds the voices' vectors; their names in a state are those of adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ParameterDict()


def _bank(point: AdapterPoint) -> nn.ModuleDict:
    assert isinstance(point.adapter, VoiceBank)
    return point.adapter.adapters


def spec_of(model: USAT, name: str) -> VoiceSpec:
    """Return what the adapters of a model's voice are.

    Raises
    ------
    ValueError
        If there is no such voice.
    """
    if model.voice_spec is None or name not in list_voices(model):
        known = ", ".join(list_voices(model)) or "none"
        raise ValueError(f"the model has no voice {name!r}; it has {known}")
    return model.voice_spec
