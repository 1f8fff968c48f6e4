"""Training as anybody would write it in plain PyTorch: what the methods' tests compare with."""

import copy

import torch
from torch import nn

from speechcl.sampling import EpochBatches
from tests.toy import WIDTH

LR, MOMENTUM, EPOCHS, MAX_GRAD_NORM = 0.05, 0.9, 2, 5.0  # those of toy_engine


class SmallNet(nn.Module):
    """Two trainable layers in double precision, so that two loops agree to the last digits.

    A frozen layer lies between them; one more layer is trainable but takes no part.
    """

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(WIDTH, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.idle = nn.Linear(3, 3)
        self.classify = nn.Linear(5, 2)
        self.double()

    def forward(self, x):
        x = torch.tanh(self.frozen(torch.tanh(self.hidden(x.double()))))
        return self.classify(x), x


class ActiveNet(nn.Module):
    """Dropout and batch normalisation: asking such a model must leave no trace."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(WIDTH, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.3)
        self.classify = nn.Linear(16, 2)

    def forward(self, x):
        x = self.drop(torch.relu(self.norm(self.hidden(x))))
        return self.classify(x), x


def small_pair(net=SmallNet):
    """Return a network and its twin."""
    torch.manual_seed(7)
    model = net()
    return model, copy.deepcopy(model)


def train_by_hand(model, stream, loss, after_step=lambda **_: None, after_task=lambda **_: None):
    """Momentum SGD over the stream's batches.

    ``loss(task, features, labels)`` is minimised; the gradient of all of it is clipped.
    ``after_step(task, before, features, labels)`` gets the weights before the step;
    ``after_task(task)`` ends a task.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    for task in stream:
        optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM)
        batches = EpochBatches(len(task.train), 32, seed=1009 + task.index)
        model.train()
        for epoch in range(1, EPOCHS + 1):
            batches.set_epoch(epoch)
            for chosen in batches:
                features, labels = task.train.features[chosen], task.train.labels[chosen]
                before = weights_of(model)
                optimizer.zero_grad()
                loss(task, features, labels).backward()
                nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
                optimizer.step()
                after_step(task=task, before=before, features=features, labels=labels)
        model.eval()
        after_task(task=task)


def weights_of(model):
    """Copies of the trainable parameters, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_close(found, expected, atol=1e-10):
    """Both are dictionaries of the same names, or lists, of tensors that agree."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = found.values(), expected.values()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def bare(tensors):
    """Drop the engine's name of the model from the names of parameters."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
