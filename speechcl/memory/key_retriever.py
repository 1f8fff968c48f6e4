"""Which task's memory an input calls for: learnt keys in the space of a frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_CLIP_NORM, _WEIGHT_DECAY, _LATE_LR, _LR_CHANNELS = 0.1, 0.01, 0.1, 128  # as released
_CONSTANT = 1e-6  # a deviation below this share of the mean is rounding


class KeyRetriever(nn.Module):
    """Say how much each slot of a memory acts on each query; every task has slots of its own.

    A slot has a key. Queries and keys are split into groups of channels, each with a vote: the
    similarity of a query and a key is the mean of their groups' cosines. Keys are learnt from one
    task's queries after another, without labels, and never change afterwards. Keys and statistics
    are buffers. The slots of task t are ``t * slots`` to ``(t + 1) * slots - 1``.

    Arguments
    ---------
    groups : int
        Parts of a query, whose width must be a multiple.
    slots : int
        Keys a task; at most as many as a group has channels, since they start orthonormal.
    retrieved : int
        How many slots act on a query.
    mask_probability : float
        How often, in training, a key is hidden from a query's group, lest one key win all.
    chosen : int
        How many keys, the nearest, a query pulls towards itself in training.
    whiten : bool
        Standardise the queries with mean and deviation of the first task's, for good, and give
        each group one more channel, a constant as long as a typical group. Without the mean,
        offsets that all queries share make all keys seem alike; without the constant, the first
        task would lie around the origin, where there are no directions.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: Peng et al., "Scalable Language Model with Generalized Continual Learning", ICLR 2024
    (DTKR), equations from the released code. Deviates: weights are a query's own, the released code
    retrieves for the mean of a batch (``over_batch``); negative similarities count as 0; a hidden
    key is never pulled, there it is if too few others are left; ``whiten`` is ours.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> retriever = KeyRetriever(groups=1, slots=2, retrieved=2)
    >>> for centre in torch.eye(4)[:2]:
    ...     retriever.learn(centre + 0.1 * torch.randn(60, 4), least_steps=100)
    >>> weights = retriever(torch.eye(4)[:2])
    >>> weights.shape, retriever.by_task(weights).argmax(1)
    (torch.Size([2, 4]), tensor([0, 1]))
    """

    def __init__(
        self,
        groups: int = 6,
        slots: int = 4,
        retrieved: int = 4,
        mask_probability: float = 0.25,
        chosen: int = 2,
        whiten: bool = True,
    ) -> None:
        super().__init__()
        if min(groups, slots, retrieved) < 1:
            raise ValueError(
                f"groups is {groups}, slots {slots}, retrieved {retrieved}: each must be at least 1"
            )
        if not 1 <= chosen <= slots:
            raise ValueError(f"chosen is {chosen}: set it from 1 to {slots}, the slots of a task")
        if not 0 <= mask_probability < 1:
            raise ValueError(f"mask_probability is {mask_probability}: it must be in [0, 1)")
        self.groups, self.slots, self.retrieved = groups, slots, retrieved
        self.mask_probability, self.chosen, self.whiten = mask_probability, chosen, whiten
        self.keys: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("keys", torch.zeros(groups, 0, 0))  # (groups, slots so far, channels)
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("scale", torch.ones(0))

    @property
    def tasks(self) -> int:
        """How many tasks have slots."""
        return self.keys.shape[1] // self.slots

    def structure(self) -> dict:
        """Describe the shapes in plain values; ``build`` makes them again."""
        return {"tasks": self.tasks, "width": len(self.mean)}

    def build(self, structure: dict) -> None:
        """Make room for what a ``structure`` has and this has not; keys of 0 are never retrieved.

        Raises
        ------
        ValueError
            If the queries' width fits neither ``groups`` and ``slots`` nor the keys that are there.
        """
        tasks, width = structure["tasks"], structure["width"]
        if width and not len(self.mean):
            self._check_width(width)
            self.mean, self.scale = self.mean.new_zeros(width), self.scale.new_ones(width)
            channels = width // self.groups + self.whiten
            self.keys = self.keys.new_zeros(self.groups, 0, channels)
        elif width:
            self._check_same_width(width)
        more = max(0, tasks - self.tasks) * self.slots
        room = self.keys.new_zeros(self.groups, more, self.keys.shape[2])
        self.keys = torch.cat([self.keys, room], dim=1)

    @torch.enable_grad()
    def learn(
        self,
        queries: Tensor,
        epochs: int = 3,
        batch_size: int = 16,
        lr: float = 1e-3,
        least_steps: int = 1000,
    ) -> None:
        """Train the keys of one more task on all its queries, and freeze them.

        It draws from torch's CPU generator alone and computes on the CPU, so that every process
        that has the same seed and the same queries gets the same keys.

        Arguments
        ---------
        queries : Tensor
            Shape (items, width), of the frozen encoder.
        epochs : int
            Passes over the queries. As released, the last third has a tenth of the learning rate.
        batch_size : int
            Queries a step.
        lr : float
            Learning rate of AdamW for groups of 128 channels, as released. Entries of a unit key
            grow as ``1 / sqrt(channels)``, and the rate with them.
        least_steps : int
            Few queries are passed over more often, until so many steps are made; with the released
            passes alone the keys of some hundred queries stay where chance put them.

        Raises
        ------
        ValueError
            If there are no queries, or they are not finite or of an unfit width.

        Example
        -------
        >>> _ = torch.manual_seed(0)
        >>> retriever = KeyRetriever(groups=1, slots=1, chosen=1, mask_probability=0, whiten=False)
        >>> retriever.learn(torch.tensor([[3.0, 4.0], [6.0, 8.0]]), lr=0.01, least_steps=200)
        >>> retriever.keys
        tensor([[[0.6..., 0.8...]]])
        """
        if min(epochs, batch_size) < 1:
            raise ValueError(
                f"epochs is {epochs}, batch_size {batch_size}: each must be at least 1"
            )
        queries = self._checked(queries).cpu()
        if len(queries) == 0:
            raise ValueError("there are no queries to learn keys from: give a task with items")
        self.build({"tasks": self.tasks, "width": queries.shape[1]})
        if self.whiten and self.tasks == 0:
            self._take_statistics(queries)
        units = self._units(queries)
        random = torch.randn(self.groups, units.shape[2], self.slots, dtype=units.dtype)
        keys = nn.Parameter(torch.linalg.qr(random).Q.mT.contiguous())  # orthonormal in each group
        lr *= math.sqrt(_LR_CHANNELS / units.shape[2])
        optimizer = torch.optim.AdamW([keys], lr=lr, weight_decay=_WEIGHT_DECAY)
        batches = -(-len(units) // batch_size)
        epochs = max(epochs, -(-least_steps // batches))
        for epoch in range(epochs):
            if epoch == -(-2 * epochs // 3):
                optimizer.param_groups[0]["lr"] = lr * _LATE_LR
            for places in torch.randperm(len(units)).split(batch_size):
                hidden = torch.rand(len(places), *keys.shape[:2]) < self.mask_probability
                optimizer.zero_grad()
                key_loss(units[places], keys, hidden, self.chosen).backward()
                nn.utils.clip_grad_norm_([keys], _CLIP_NORM)
                optimizer.step()
        self.build({"tasks": self.tasks + 1, "width": queries.shape[1]})
        self.keys[:, -self.slots :] = functional.normalize(keys.detach(), dim=2)

    def forward(self, queries: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """Weigh the slots for each query by itself.

        Arguments
        ---------
        queries : Tensor
            Shape (batch, width).
        tasks : Sequence of int, optional
            Only slots of these tasks may be retrieved: the one under training, or the true one
            where it is known. All by default.

        Returns
        -------
        Tensor
            Shape (batch, slots so far). A row has at most ``retrieved`` entries above 0, which sum
            to 1; all are 0 where no similarity is above 0.

        Raises
        ------
        ValueError
            If queries are not finite or of another width, or there is no such task.
        """
        return self._weights(self._similarity(queries), tasks)

    def over_batch(self, queries: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """Weigh the slots for the batch as a whole, as released; else like ``forward``.

        A batch from one task tells more than any of its items: report results of ``forward`` too.

        Example
        -------
        >>> retriever = KeyRetriever(groups=1, slots=1, chosen=1, whiten=False)
        >>> retriever.build({"tasks": 2, "width": 2})
        >>> _ = retriever.keys.copy_(torch.eye(2))
        >>> retriever.over_batch(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))  # means 0.8 and 0.4
        tensor([[0.6667, 0.3333],
                [0.6667, 0.3333]])
        """
        similarity = self._similarity(queries)
        weights = self._weights(similarity.mean(0, keepdim=True), tasks)
        return weights.expand(len(similarity), -1)

    def owners(self) -> Tensor:
        """Return the task of each slot, shape (slots so far,)."""
        return torch.arange(self.keys.shape[1], device=self.keys.device) // self.slots

    def by_task(self, weights: Tensor) -> Tensor:
        """Add up weights (batch, slots so far) to each task's share, shape (batch, tasks)."""
        return weights.unflatten(1, (self.tasks, self.slots)).sum(2)

    # ---- below: pieces of the above
    def _similarity(self, queries: Tensor) -> Tensor:
        queries = self._checked(queries)
        if self.tasks == 0:
            return queries.new_zeros(len(queries), 0)
        with torch.autocast(queries.device.type, enabled=False):
            return torch.einsum("ngh,gmh->nm", self._units(queries), self.keys) / self.groups

    def _weights(self, similarity: Tensor, tasks: Sequence[int] | None) -> Tensor:
        similarity = similarity.clamp(min=0)
        if tasks is not None:
            similarity = similarity * torch.isin(self.owners(), self._learnt(tasks))
        top, slots = similarity.topk(min(self.retrieved, similarity.shape[1]), dim=1)
        tiny = torch.finfo(top.dtype).tiny
        top = top / top.sum(1, keepdim=True).clamp_min(tiny)
        return torch.zeros_like(similarity).scatter(1, slots, top)

    def _units(self, queries: Tensor) -> Tensor:
        """Return each group's direction, shape (batch, groups, channels)."""
        mean, scale = self.mean.to(queries.device), self.scale.to(queries.device)
        groups = ((queries - mean) / scale).unflatten(1, (self.groups, -1))
        if self.whiten:
            groups = functional.pad(groups, (0, 1), value=groups.shape[2] ** 0.5)
        return functional.normalize(groups, dim=2)

    def _take_statistics(self, queries: Tensor) -> None:
        std, mean = torch.std_mean(queries, dim=0, correction=0)
        varies = std > _CONSTANT * mean.abs()
        typical = std[varies].square().mean().sqrt() if varies.any() else std.new_ones(())
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, std, typical))

    def _learnt(self, tasks: Sequence[int]) -> Tensor:
        wrong = [task for task in tasks if not 0 <= task < self.tasks]
        if wrong:
            raise ValueError(
                f"there are no slots of task {wrong[0]}: {self.tasks} tasks were learnt, from 0 on"
            )
        return torch.tensor(list(tasks), dtype=torch.int64, device=self.keys.device)

    def _checked(self, queries: Tensor) -> Tensor:
        if queries.ndim != 2:
            raise ValueError(f"queries are of shape (batch, width), not {tuple(queries.shape)}")
        if len(self.mean):
            self._check_same_width(queries.shape[1])
        if not queries.isfinite().all():
            raise ValueError(
                "queries hold NaN or infinity: look for silent, empty or damaged clips"
            )
        return queries.detach().to(self.keys.dtype)  # so that no gradient reaches an encoder

    def _check_width(self, width: int) -> None:
        if width % self.groups:
            raise ValueError(
                f"queries are {width} wide, which {self.groups} groups do not divide: "
                "set groups to a divisor"
            )
        if self.slots > width // self.groups:
            raise ValueError(
                f"a group has {width // self.groups} channels, too few for {self.slots} slots a "
                "task: set groups or slots lower"
            )

    def _check_same_width(self, width: int) -> None:
        if width != len(self.mean):
            raise ValueError(
                f"queries are {width} wide but the keys were made with {len(self.mean)}: "
                "use the same query encoder"
            )


def key_loss(queries: Tensor, keys: Tensor, hidden: Tensor, chosen: int) -> Tensor:
    """Compute the loss of a step of key training: the nearest keys are to come nearer.

    Arguments
    ---------
    queries : Tensor
        Unit vectors, shape (batch, groups, channels).
    keys : Tensor
        Of one task, of any length, shape (groups, slots, channels).
    hidden : Tensor
        Which keys each group of a query may not choose, bool (batch, groups, slots).
    chosen : int
        How many of the others a group of a query chooses; fewer if fewer are left.

    Returns
    -------
    Tensor
        Minus the mean cosine over all choices; hidden keys get no gradient.

    Source: Peng et al., ICLR 2024, released code.

    Example
    -------
    >>> keys = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    >>> key_loss(torch.tensor([[[0.6, 0.8]]]), keys, torch.tensor([[[False, False]]]), chosen=1)
    tensor(-0.8000)
    """
    cosine = torch.einsum("ngh,gmh->ngm", queries, functional.normalize(keys, dim=2))
    nearest = cosine.detach().masked_fill(hidden, -torch.inf).topk(chosen, dim=2).indices
    pulled = torch.zeros_like(hidden).scatter(2, nearest, True) & ~hidden
    return -(cosine * pulled).sum() / pulled.sum().clamp_min(1)
