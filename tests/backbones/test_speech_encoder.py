"""The small classifier: what its parts are called, what it standardises, what it can learn."""

import pytest
import torch
from torch import nn

from speechcl.backbones.speech_encoder import SpeechEncoder


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SpeechEncoder(classes=5, bands=8, width=16, layers=2, heads=2)


def trained_head(model):
    nn.init.normal_(model.classify.weight)
    return model


def test_any_length_gives_logits_and_the_embedding_they_are_made_from(model):
    trained_head(model)
    for frames in (1, 7, 101):
        logits, embedding = model(torch.randn(3, frames, 8))
        assert logits.shape == (3, 5)
        assert embedding.shape == (3, 16)
        torch.testing.assert_close(logits, model.classify(embedding))


def test_every_part_of_attention_is_a_linear_layer_of_its_own(model):
    names = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    parts = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    blocks = {f"tower.blocks.{k}.{part}" for k in range(2) for part in parts}
    assert names == {"classify", "tower.project", *blocks}


def test_every_weight_gets_a_gradient(model):
    logits, _ = trained_head(model)(torch.randn(4, 20, 8))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    without = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # a key's bias moves all scores of a query alike, so softmax does not see it
    assert all(name.endswith("k_proj.bias") for name in without)


def test_clips_do_not_see_each_other(model):
    features = torch.randn(6, 30, 8)
    whole, _ = trained_head(model)(features)
    torch.testing.assert_close(model(features[2:4])[0], whole[2:4])


def test_bands_are_standardised_by_what_was_given_first(model):
    scale = torch.linspace(1.0, 8.0, 8)
    features = torch.randn(50, 30, 8) * scale + 100.0
    model.standardise(features)
    torch.testing.assert_close(model.mean, features.mean((0, 1)))
    torch.testing.assert_close(model.scale, features.flatten(0, 1).std(0))
    plain = SpeechEncoder(classes=5, bands=8, width=16, layers=2, heads=2)
    state = {**model.state_dict(), "mean": torch.zeros(8), "scale": torch.ones(8)}
    plain.load_state_dict(state)
    standard = (features - features.mean((0, 1))) / features.flatten(0, 1).std(0)
    torch.testing.assert_close(model(features)[1], plain(standard)[1], rtol=1e-4, atol=1e-4)


def test_silence_changes_nothing(model):
    words = torch.randn(5, 11, 8)
    model.standardise(words)
    mean = model.mean.clone()
    silence = torch.full((5, 30, 8), -13.8)
    padded = torch.cat([words, silence], dim=1)
    trained_head(model)
    torch.testing.assert_close(model(padded)[0], model(words)[0])
    model.standardise(padded)
    assert torch.equal(model.mean, mean)


def test_a_clip_of_nothing_has_an_answer(model):
    model.standardise(torch.zeros(3, 4, 8))
    trained_head(model)
    late = torch.zeros(1, 9, 8)
    late[0, 3] = torch.randn(8)
    for features in (torch.zeros(1, 9, 8), late):
        assert model(features)[0].isfinite().all()


def test_outputs_that_no_loss_asked_for_stay_below_the_best_learnt_one(model):
    features, labels = torch.randn(24, 20, 8), torch.arange(24) % 2 + 1
    assert model(features)[0].abs().max() == 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        logits = model(features)[0][:, 1:3]
        nn.functional.cross_entropy(logits, labels - 1).backward()
        optimizer.step()
        optimizer.zero_grad()
    logits, _ = model(torch.randn(200, 20, 8))
    assert logits[:, [0, 3, 4]].abs().max() == 0
    assert set(logits.argmax(1).tolist()) <= {1, 2}


def test_it_tells_rising_from_falling_whose_averages_are_alike(model):
    frames, clips = torch.arange(24), 32
    rising = torch.eye(8)[frames % 8]  # (frames, bands)
    falling = torch.eye(8)[-frames % 8]
    torch.testing.assert_close(rising.mean(0), falling.mean(0))
    labels = torch.arange(clips) % 2
    features = torch.stack([rising, falling])[labels]
    features = features + 0.1 * torch.randn(clips, 24, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for _ in range(30):
        nn.functional.cross_entropy(model(features)[0], labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (model(features)[0].argmax(1) == labels).all()
