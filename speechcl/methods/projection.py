"""The common part of OWM and RWM: one projector a layer, applied to its gradient."""

from __future__ import annotations

import fnmatch
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from speechcl.memory import Projector
from speechcl.method import Method, Step
from speechcl.parallel import total
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine

logger = logging.getLogger(__name__)

Layer = nn.Linear | nn.Conv1d | nn.Conv2d


class GradientProjection(Method):
    """Record what each layer's inputs span and turn its gradient against that, by an angle.

    Every batch is absorbed, from the first task on (absorbing only at the end of a task, or only
    from the second, leaves what matters most unprotected). From the second task on the gradient of
    each protected layer is rotated by ``angle``. Biases are protected too: they see a constant
    input 1. Kept between tasks: one square matrix a layer, nothing of any clip.

    Arguments
    ---------
    alpha : float
        Regulariser of the recursion.
    layers : Sequence
        Name patterns of the Linear and convolution layers to protect.

    Note
    ----
    Use SGD, with momentum if you like but without weight decay: Adam's scaling and decay by
    element undo the projection.
    """

    def __init__(self, alpha: float = 1.0, layers: Sequence[str] = ("*",)) -> None:
        super().__init__()
        self.alpha, self.layers = alpha, list(layers)
        self.projectors = nn.ModuleDict()
        self.projected_steps = 0
        self._handles: list[RemovableHandle] = []
        self._seen: dict[str, list[Tensor]] = {}

    def angle(self, step: Step) -> Tensor | float:
        """Return the rotation of this batch's gradients, in [0, pi/2]; 0 is orthogonal."""
        raise NotImplementedError(f"{type(self).__name__} says no angle")

    # ---- hooks, in the order in which they are called
    def structure(self) -> dict:
        """Width of the input of each protected layer."""
        found = self.projectors.items()
        return {"widths": {key: len(cast(Projector, one).matrix()) for key, one in found}}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make the projectors that are missing."""
        for key, width in structure["widths"].items():
            if key not in self.projectors:
                self.projectors[key] = Projector(width, self.alpha)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Make a projector for every layer that the patterns name."""
        found = protected_layers(engine.modules, self.layers)
        self.build(engine.modules, {"widths": {key: width(one) for key, one in found.items()}})
        if task.index == 0:
            held = sum(p.numel() for one in found.values() for p in one.parameters())
            whole = sum(p.numel() for p in engine.modules.parameters() if p.requires_grad)
            logger.info("protects %d layers: %d of %d parameters", len(found), held, whole)

    def before_batch(self, step: Step) -> dict:
        """Listen to the inputs of the protected layers for one forward pass."""
        if step.index == 0:
            _warn_about_optimizer(step.brain.optimizer)
        self._seen = {key: [] for key in self.projectors}
        for key, _, layer in self._protected(step.modules):
            self._handles.append(layer.register_forward_pre_hook(self._listen(key)))
        return step.batch

    def loss(self, step: Step) -> Tensor:
        """Absorb what was heard; the loss stays the task's own."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.absorb(step)
        return super().loss(step)

    def absorb(self, step: Step) -> None:
        """Update each projector with this batch."""
        for key, projector, _ in self._protected(step.modules):
            if step.index == 0 and not self._seen[key]:
                raise ValueError(
                    f"layer '{key.replace('/', '.')}' heard no input, so it cannot be protected: "
                    "leave it out of layers (its model may be compiled, or read weights directly)"
                )
            for rows in self._seen[key]:
                if len(rows) == 1:
                    projector.absorb(rows)
                else:
                    projector.absorb_rows(rows)

    def after_backward(self, step: Step) -> None:
        """Rotate the gradients, from the second task on."""
        if step.task.index == 0:
            return
        self.projected_steps += 1
        angle = float(self.angle(step))
        for _, projector, layer in self._protected(step.modules):
            grad = joined_gradient(layer)
            if grad is not None:
                put_gradient(layer, self.rotate(projector, grad, angle))

    def rotate(self, projector: Projector, grad: Tensor, angle: float) -> Tensor:
        """Return the rotated gradient of one layer, shape (out, width)."""
        return projector.rotate(grad, angle)

    def _protected(self, modules: nn.ModuleDict) -> Iterator[tuple[str, Projector, Layer]]:
        for key, projector in self.projectors.items():
            layer = modules.get_submodule(key.replace("/", "."))
            yield key, cast(Projector, projector), cast(Layer, layer)

    def _listen(self, key: str) -> Callable:
        def hook(layer: Layer, inputs: tuple) -> None:
            if torch.is_grad_enabled():
                self._seen[key].append(mean_rows(layer, inputs[0].detach().float()))

        return hook


def protected_layers(modules: nn.Module, patterns: Sequence[str]) -> dict[str, Layer]:
    """Find the trainable layers that a projector can protect, by key (the name with ``/``).

    Raises
    ------
    ValueError
        If no layer matches: the method would silently be fine-tuning.

    Example
    -------
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> sorted(protected_layers(net, ["*"]))
    ['0', '2']
    """
    found = {}
    for name, layer in modules.named_modules():
        plain = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv1d | nn.Conv2d)
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )
        if plain and layer.weight.requires_grad and any(fnmatch.fnmatch(name, p) for p in patterns):
            found[name.replace(".", "/")] = layer
    if not found:
        raise ValueError(
            f"no trainable Linear, Conv1d or Conv2d layer matches {list(patterns)}: "
            "give patterns of layer names, for example layers: ['model.*']"
        )
    return found


def width(layer: Layer) -> int:
    """Return the inputs that one output of a layer sees, the bias's constant 1 included.

    Example
    -------
    >>> width(nn.Conv2d(3, 8, kernel_size=(2, 5)))
    31
    """
    return math.prod(layer.weight.shape[1:]) + (layer.bias is not None)


def mean_rows(layer: Layer, inputs: Tensor) -> Tensor:
    """Return the batch mean of a layer's input as rows of its unfolded weight.

    Arguments
    ---------
    layer : nn.Module
        Linear, Conv1d or Conv2d.
    inputs : Tensor
        Shape (batch, ..., in) for Linear, (batch, channels, [height,] width) for convolutions.
        The mean goes over the batches of all processes.

    Returns
    -------
    Tensor
        Shape (rows, width): one row for Linear, one per output position for convolutions.

    Example
    -------
    >>> mean_rows(nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[2., 3., 1.]])
    """
    if isinstance(layer, nn.Linear):
        inputs = inputs.flatten(0, -2)
    size = total(torch.tensor(float(len(inputs)), device=inputs.device))
    mean = total(inputs.sum(0)) / size
    if isinstance(layer, nn.Linear):
        rows = mean[None]
    else:
        rows = _patches(layer, mean)
    if layer.bias is not None:
        rows = functional.pad(rows, (0, 1), value=1.0)
    return rows


def _patches(layer: Layer, mean: Tensor) -> Tensor:
    """Unfold (channels, [height,] width) into one row per output position."""
    names = ("kernel_size", "dilation", "padding", "stride")
    kernel, dilation, padding, stride = (getattr(layer, name) for name in names)
    if isinstance(layer, nn.Conv1d):  # an image of height 1
        mean = mean[:, None]
        kernel, dilation, stride = ((1, *value) for value in (kernel, dilation, stride))
        padding = (0, *padding)
    return functional.unfold(mean[None], kernel, dilation, padding, stride)[0].T


def joined_gradient(layer: Layer) -> Tensor | None:
    """Return the gradient of weight and bias as one (out, width) matrix, None without one.

    Example
    -------
    >>> layer = nn.Linear(2, 1)
    >>> layer(torch.tensor([[1.0, 2.0]])).sum().backward()
    >>> joined_gradient(layer)
    tensor([[1., 2., 1.]])
    """
    if layer.weight.grad is None:
        return None
    grad = layer.weight.grad.flatten(1)
    if layer.bias is None:
        return grad
    bias = layer.bias.grad if layer.bias.grad is not None else torch.zeros_like(layer.bias)
    return torch.cat([grad, bias[:, None]], dim=1)


def put_gradient(layer: Layer, grad: Tensor) -> None:
    """Write a ``joined_gradient`` back.

    Example
    -------
    >>> layer = nn.Linear(2, 1)
    >>> layer(torch.tensor([[1.0, 2.0]])).sum().backward()
    >>> put_gradient(layer, torch.tensor([[5.0, 6.0, 7.0]]))
    >>> layer.weight.grad, layer.bias.grad
    (tensor([[5., 6.]]), tensor([7.]))
    """
    assert layer.weight.grad is not None
    inputs = math.prod(layer.weight.shape[1:])
    layer.weight.grad.copy_(grad[:, :inputs].view_as(layer.weight))
    if layer.bias is not None and layer.bias.grad is not None:
        layer.bias.grad.copy_(grad[:, inputs])


def _warn_about_optimizer(optimizer: torch.optim.Optimizer) -> None:
    decays = any(group.get("weight_decay") for group in optimizer.param_groups)
    if not isinstance(optimizer, torch.optim.SGD) or decays:
        logger.warning(
            "%s%s undoes the projection of gradients: use SGD without weight decay",
            type(optimizer).__name__,
            " with weight decay" if decays else "",
        )
