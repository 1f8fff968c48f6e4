"""Sequential LoRA: the adapter baseline."""

from __future__ import annotations

from collections.abc import Sequence

from speechcl.adapters import LoRA as LoRAAdapter
from speechcl.methods.adapter_method import AdapterMethod


class LoRA(AdapterMethod):
    """Train a LoRA on every task and merge it into the weights.

    The low rank keeps changes small, and nothing else protects what was learnt before: it is to
    adapters what fine-tuning is to weights.

    Arguments
    ---------
    targets, train
        As in ``AdapterMethod``.
    rank : int
        Rank of every task's update.
    alpha : float, optional
        Its scale is ``alpha / rank``; by default 1.

    Source
    ------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.

    Example
    -------
    >>> LoRA(targets="*.q_proj", rank=4).adapter()
    LoRA(rank=4, alpha=None)
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        train: str | Sequence[str] = (),
        *,
        rank: int = 16,
        alpha: float | None = None,
    ) -> None:
        super().__init__(targets, train)
        self.spec = LoRAAdapter(rank, alpha)

    def adapter(self) -> LoRAAdapter:
        """Return the description of the adapter."""
        return self.spec
