"""What a layer's inputs have spanned so far, as a projector away from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """Shrinkage projector P away from the span of absorbed inputs (OWM's recursive least squares).

    P starts as the identity. It stays symmetric with eigenvalues in (0, 1], up to rounding, and
    after rows X it equals ``inverse(I + X'X / alpha)``: a direction absorbed m times is shrunk to
    ``alpha / (alpha + m |x|^2)``, never to exactly 0. The only state is P itself.

    Arguments
    ---------
    features : int
        Width n of the inputs, the constant 1 of a bias included.
    alpha : float
        How much must be absorbed before a direction is blocked; > 0.
    dtype : torch.dtype
        Of P.

    Raises
    ------
    ValueError
        If ``alpha`` is not positive.

    Source: OWM (Zeng et al., Nature Machine Intelligence 2019), as used by RWM (AAAI 2024). The
    denominator is the scalar ``alpha + x P x'``; RWM's released code divides by an outer product.

    Example
    -------
    >>> projector = Projector(2)
    >>> projector.absorb(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))  # batch mean (2, 0)
    >>> projector.matrix()
    tensor([[0.2000, 0.0000],
            [0.0000, 1.0000]])
    """

    def __init__(
        self, features: int, alpha: float = 1.0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha is {alpha}: the recursion needs alpha > 0")
        self.alpha = alpha
        self.away: Tensor
        self.register_buffer("away", torch.eye(features, dtype=dtype))

    def matrix(self) -> Tensor:
        """Return P, shape (n, n)."""
        return self.away

    @torch.no_grad()
    def absorb(self, inputs: Tensor) -> None:
        """Absorb the mean of a batch, shape (batch, n), in one in-place rank-one update."""
        with torch.autocast(self.away.device.type, enabled=False):
            mean = inputs.to(self.away.dtype).mean(0)
            gain = self.away @ mean  # k
            gain /= torch.sqrt(self.alpha + torch.dot(mean, gain))
            self.away.addr_(gain, gain, alpha=-1)  # the same vector twice: exactly symmetric

    @torch.no_grad()
    def absorb_rows(self, rows: Tensor) -> None:
        """Absorb every row of (rows, n), as one ``absorb`` of each would, in one solve."""
        with torch.autocast(self.away.device.type, enabled=False):
            rows, away = rows.double(), self.away.double()
            if len(rows) < len(away):  # Woodbury's identity: a solve as large as the rows are many
                seen = rows @ away
                gram = seen @ rows.T
                gram.diagonal().add_(self.alpha)
                away = away.addmm(seen.T, torch.linalg.solve(gram, seen), alpha=-1)
            else:
                step = (away @ (rows.T @ rows)).div_(self.alpha)
                step.diagonal().add_(1)
                away = torch.linalg.solve(step, away)
            self.away.copy_((away + away.T) / 2)

    def rotate(self, grad: Tensor, angle: Tensor | float) -> Tensor:
        """Turn a gradient between P and its complement Q = I - P.

        Arguments
        ---------
        grad : Tensor
            Shape (out, n).
        angle : Tensor or float
            In [0, pi/2]: 0 keeps what is new to the layer, pi/2 what it knows.

        Returns
        -------
        Tensor
            ``|P| (cos(angle) grad P/|P| + sin(angle) grad Q/|Q|)`` with Frobenius norms, so the
            part along P has gain cos(angle) <= 1 and pi/2 stays finite. Shape (out, n).

        Example
        -------
        >>> projector = Projector(2)
        >>> projector.absorb_rows(torch.tensor([[1.0, 0.0]]))
        >>> projector.rotate(torch.ones(1, 2), 0.0)
        tensor([[0.5000, 1.0000]])
        """
        new = grad @ self.away.to(grad.dtype)
        angle = float(angle)
        if angle == 0.0:
            return new
        ratio = torch.linalg.matrix_norm(self.away) / self._complement_norm()
        return math.cos(angle) * new + (math.sin(angle) * ratio).to(grad.dtype) * (grad - new)

    def _complement_norm(self) -> Tensor:
        complement = self.away.neg()
        complement.diagonal().add_(1)
        tiny = torch.finfo(complement.dtype).eps  # not .tiny: |P| / tiny would overflow
        return torch.linalg.matrix_norm(complement).clamp_min(tiny)
