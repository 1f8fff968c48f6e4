"""Prototypes of the last batch."""

import torch

from speechcl.memory import Prototypes


def test_only_the_last_batch_counts():
    prototypes = Prototypes(classes=5, width=2)
    prototypes.take(torch.ones(3, 2), torch.tensor([0, 0, 4]))
    prototypes.take(torch.tensor([[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]), torch.tensor([1, 1, 3]))
    classes, means = prototypes.known()
    assert classes.tolist() == [1, 3]
    assert means.tolist() == [[2.0, 1.0], [9.0, 9.0]]


def test_they_have_no_graph_and_are_saved():
    prototypes, other = Prototypes(3, 2), Prototypes(3, 2)
    vectors = torch.randn(4, 2, requires_grad=True)
    prototypes.take(2 * vectors, torch.tensor([2, 0, 2, 0]))
    assert not prototypes.means.requires_grad
    other.load_state_dict(prototypes.state_dict())
    assert torch.equal(other.known()[1], prototypes.known()[1])
    assert len(Prototypes(3, 2).known()[0]) == 0
