"""SLM: slots and keys a task, none of which later tasks touch, and retrieval for each input."""

import copy
import functools
import statistics
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from speechcl.adapters import adapter_layers, attach, extract
from speechcl.backbones.huggingface import (
    TextClassifier,
    load_tokenizer,
    load_transformer,
)
from speechcl.brains.text_classification import TextClassificationBrain
from speechcl.data.text_tasks import example_stream, read_examples
from speechcl.data.token_sets import classification_set
from speechcl.engine import Engine, Training
from speechcl.memory import KeyRetriever, StatisticsEncoder
from speechcl.memory.query_encoders import FrozenEncoder, text_encoder
from speechcl.methods import SLM, LoRA
from speechcl.methods.slm import Retrieving, collect_queries
from tests import tiny_transformers as tiny
from tests.methods import mini_clip
from tests.toy import ToyNet, same, toy_engine

TARGETS = ["convolution", "hidden"]
SLOTS = 2


def retriever():
    return KeyRetriever(groups=1, slots=SLOTS, retrieved=2)


def made(train=(), **options):
    options = {"encoder": StatisticsEncoder(), "retriever": retriever(), **options}
    return SLM(TARGETS, train, rank=2, key_steps=5, **options)


def ready(over_batch=False, tasks=3):
    """A model with keys and slots of some tasks, none of them zero."""
    torch.manual_seed(0)
    method, modules = made(over_batch=over_batch), nn.ModuleDict({"model": ToyNet()})
    for count in range(1, tasks + 1):
        method.build(modules, {"tasks": count, "width": 8, "growing": True})
        for layer in layers(modules):
            layer.new_up.data.normal_()
    method.build(modules, {"tasks": tasks, "width": 8, "growing": False})
    root = modules["model"].eval()
    keys = torch.randn(root.retriever.keys.shape)
    root.retriever.keys.copy_(nn.functional.normalize(keys, dim=2))
    return method, root


def layers(modules):
    bank = adapter_layers(modules["model"].model).values()
    return [layer for slots in bank for layer in slots.values()]


def inputs(seed, items=6):
    return torch.randn(items, 8, generator=torch.Generator().manual_seed(seed))


# ---- what is retrieved
@torch.no_grad()
def test_an_input_does_not_hear_its_neighbours_unless_they_share_a_mixture():
    one, other = inputs(1), inputs(2)
    other[3] = one[3]
    _, alone = ready()
    assert (alone(one)[0][3] - alone(other)[0][3]).abs().max() < 1e-6
    _, shared = ready(over_batch=True)  # by construction: it averages over the batch
    assert (shared(one)[0][3] - shared(other)[0][3]).abs().max() > 1e-3
    assert (alone(one[:1])[0] - shared(one[:1])[0]).abs().max() < 1e-6, "a batch of one"


@pytest.mark.parametrize("over_batch", [False, True])
@torch.no_grad()
def test_the_model_is_given_what_the_retriever_finds(over_batch):
    _, root = ready(over_batch)
    x = inputs(1)
    found = root(x)[0]
    retrieve = root.retriever.over_batch if over_batch else root.retriever
    weights = retrieve(StatisticsEncoder()(x))
    down = [layer.down().clone() for layer in layers({"model": root})]
    for number, one in enumerate(weights):
        plain = copy.deepcopy(root.model)
        places = [getattr(plain, name) for name in TARGETS]
        for place, reads in zip(places, down, strict=True):
            layer = place.adapters["@default"]["weight"]
            dense = (layer.up() * one.repeat_interleave(2)) @ reads
            place._parameters["weight"].data += dense.view_as(place._parameters["weight"])
            place.serving = ()
        assert (plain(x[number : number + 1])[0] - found[number]).abs().max() < 1e-5


@pytest.mark.parametrize("over_batch", [False, True])
@torch.no_grad()
def test_a_known_task_is_served_by_its_own_slots_as_if_there_were_no_others(over_batch):
    method, root = ready(over_batch)
    x = inputs(1)
    free, unmoved = root(x)[0], []
    for task in range(3):
        method.before_eval(SimpleNamespace(index=task))
        found = root(x)[0]
        alone = copy.deepcopy(root)
        own = slice(task * SLOTS, (task + 1) * SLOTS)
        alone.retriever.keys = alone.retriever.keys[:, own]
        for layer in layers({"model": alone}):
            terms = slice(own.start * 2, own.stop * 2)
            layer.kept_down = nn.Parameter(layer.kept_down[terms], requires_grad=False)
            layer.kept_up = nn.Parameter(layer.kept_up[:, terms], requires_grad=False)
        alone.tasks[False] = None
        assert (alone(x)[0] - found).abs().max() < 1e-6
        unmoved.append(torch.allclose(found, free, atol=1e-4))
    assert not all(unmoved)
    method.before_eval(None)
    assert torch.equal(root(x)[0], free)
    method.before_eval(SimpleNamespace(index=3))  # not learnt yet
    assert torch.equal(root(x)[0], free)


@pytest.mark.parametrize(("help_from_old", "owners"), [(False, {2}), (True, {0, 1, 2})])
def test_training_retrieves_own_slots_or_old_ones_too(help_from_old, owners, monkeypatch):
    method = made(help_from_old=help_from_old)
    modules = nn.ModuleDict({"model": ToyNet()})
    method.build(modules, {"tasks": 3, "width": 8, "growing": True})
    root = modules["model"].train()
    torch.manual_seed(0)
    root.retriever.keys.normal_()
    seen = []
    inner = KeyRetriever.forward

    def watched(self, *given):
        weights = inner(self, *given)
        seen.append(self.by_task(weights).sum(0).nonzero().flatten().tolist())
        return weights

    monkeypatch.setattr(KeyRetriever, "forward", watched)
    for layer in layers(modules):
        layer.new_up.data.normal_()
    root(inputs(1, 60))[0].square().sum().backward()
    assert set(seen[0]) == owners
    assert layers(modules)[1].new_down.grad.abs().sum() > 0
    assert not any(one.requires_grad for one in root.retriever.buffers())
    assert not list(root.retriever.parameters()), "keys are no parameters: they get no gradient"


# ---- what a task begins with
def test_queries_are_those_of_all_items_in_order_however_often_the_model_runs():
    root, x = Retrieving(ToyNet(), StatisticsEncoder(), retriever()), inputs(1)
    halves = SimpleNamespace(compute_forward=lambda batch, stage: [root(one) for one in batch])
    engine = SimpleNamespace(
        collect=lambda task, hear: [hear(halves, x[k : k + 3].split(2)) for k in (0, 3)]
    )
    assert torch.equal(collect_queries(root, None, engine), x)
    assert root.heard is None
    halves.compute_forward = lambda batch, stage: root()
    with pytest.raises(TypeError):
        collect_queries(root, None, engine)
    assert root.heard is None, "or all queries from then on would be kept"


def test_keys_are_learnt_in_so_many_steps_whatever_was_evaluated_before(tmp_path, monkeypatch):
    steps, inner = [], KeyRetriever.learn

    def watched(self, queries, **options):
        steps.append(options["least_steps"])
        return inner(self, queries, **options)

    monkeypatch.setattr(KeyRetriever, "learn", watched)
    method = made()
    engine = toy_engine(tmp_path, method, tasks=2, epochs=1)
    for task in engine.stream:
        engine.learn(task)
        assert method.wrapped[0].tasks[False] is None, "validation retrieves from all slots"
        method.before_eval(task)
    assert steps == [5, 5]


# ---- what later tasks do
class Watched(SLM):
    """Notes what the optimizer holds."""

    held: list

    def param_groups(self, modules):
        found = super().param_groups(modules)
        names = {id(p): name for name, p in modules.named_parameters()}
        self.held = sorted(names[id(p)].removeprefix("model.model.") for p in found)
        return found


def test_former_slots_keys_and_the_base_are_bit_identical(tmp_path):
    encoder = FrozenEncoder(nn.Linear(8, 6))
    method = Watched(TARGETS, encoder=encoder, retriever=retriever(), rank=2, key_steps=5)
    model = ToyNet()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reads = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    engine = toy_engine(tmp_path, method, model=model)
    former, keys = [], torch.zeros(1, 0, 7)
    for task in engine.stream:
        engine.learn(task)
        root = engine.modules["model"]
        for layer, (down, up) in zip(layers(engine.modules), former, strict=False):
            assert torch.equal(layer.down()[: len(down)], down)
            assert torch.equal(layer.up()[:, : up.shape[1]], up)
        assert torch.equal(root.retriever.keys[:, : keys.shape[1]], keys)
        former = [(one.down().clone(), one.up().clone()) for one in layers(engine.modules)]
        keys = root.retriever.keys.clone()
        slices = [f"{layer}.adapters.@default.weight.new_" for layer in TARGETS]
        assert method.held == sorted(s + e for s in slices for e in ("down", "up"))
    assert all(up.unflatten(1, (3, 4)).abs().sum((0, 2)).min() > 0 for _, up in former)
    assert keys.norm(dim=2).allclose(torch.ones(1, 6))
    after = root.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in base.items())
    assert same(root.encoder.state_dict(), reads)
    assert not any(p.requires_grad for p in engine.modules.parameters())


def test_bank_and_keys_of_three_tasks_serve_the_model_they_were_made_for(tmp_path):
    engine = toy_engine(tmp_path / "run", made())
    engine.run()
    learnt = engine.modules["model"].eval()
    extract(learnt.model).save(tmp_path / "bank.safetensors")
    torch.save(learnt.retriever.state_dict(), tmp_path / "keys.pt")
    torch.manual_seed(0)
    x, fresh, keys = inputs(1, 20), ToyNet(), retriever()
    attach(fresh, tmp_path / "bank.safetensors")
    keys.build(learnt.retriever.structure())
    keys.load_state_dict(torch.load(tmp_path / "keys.pt"))
    model = Retrieving(fresh, StatisticsEncoder(), keys).eval()
    assert torch.equal(keys(x), learnt.retriever(x))
    assert (model(x)[0] - learnt(x)[0]).abs().max() <= 1e-6
    assert not torch.allclose(ToyNet().eval()(x)[0], learnt(x)[0], atol=1e-3)


def test_memory_is_that_of_slots_and_keys(tmp_path):
    results = toy_engine(tmp_path, made(), tasks=2).run()
    terms = 2 * SLOTS * 2  # tasks, slots, rank
    atoms = (3 * 1 + 3) + (16 + 24)  # inputs and outputs of both layers
    keys = 2 * SLOTS * 9 + 2 * 8  # channels and a constant; mean and deviation
    assert results["memory_bytes"] == 4 * (terms * atoms + keys)


def test_build_brings_a_model_to_any_structure():
    for tasks, growing, sizes in [(1, True, [0, 4]), (3, True, [8, 4]), (3, False, [12, 0])]:
        method, modules = made(), nn.ModuleDict({"model": ToyNet()})
        structure = {"tasks": tasks, "width": 8, "growing": growing}
        method.build(modules, structure)
        method.build(modules, structure)
        assert method.structure() == structure
        layer = layers(modules)[1]
        assert [len(layer.kept_down), len(layer.new_down)] == sizes
        assert modules["model"].retriever.tasks == tasks
        assert isinstance(modules["model"].model, ToyNet), "wrapped once"


def test_layers_out_of_reach_are_named_before_any_training(tmp_path):
    model = ToyNet()
    model.unused = nn.Linear(2, 2)
    parts = {"encoder": StatisticsEncoder(), "retriever": retriever()}
    engine = toy_engine(tmp_path, SLM(["hidden", "unused"], **parts, key_steps=5), model=model)
    with pytest.raises(ValueError, match="does not depend on the adapter of unused"):
        engine.run()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key_steps": -1}, "key_steps is -1: give a whole number of at least 0"),
        ({"key_steps": 0.5}, "key_steps is 0.5: give a whole number of at least 0"),
        ({"encoder_inputs": 0}, "encoder_inputs is 0: give a whole number of at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        SLM(TARGETS, encoder=StatisticsEncoder(), retriever=retriever(), **options)


# ---- the wrapper
def test_attributes_are_those_of_the_model():
    root = Retrieving(ToyNet(), StatisticsEncoder(), retriever())
    assert root.hidden is root.model.hidden
    with pytest.raises(AttributeError, match="'ToyNet' object has no attribute 'nothing'"):
        root.nothing  # noqa: B018
    assert not hasattr(Retrieving.__new__(Retrieving), "hidden"), "while it is copied"


@torch.no_grad()
def test_a_copy_retrieves_for_itself():
    _, root = ready()
    twin, x = copy.deepcopy(root), inputs(1)
    expected = root(x)[0]
    assert torch.equal(twin(x)[0], expected)
    twin.retriever.keys.zero_()
    assert torch.equal(root(x)[0], expected)
    assert not torch.equal(twin(x)[0], expected)


def test_the_encoder_never_trains():
    encoder = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    encoder.register_forward_hook(lambda *given: recorded.append(torch.is_grad_enabled()))
    recorded: list[bool] = []
    root = Retrieving(ToyNet(), encoder, retriever()).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    root(inputs(1))
    assert root.model.training
    assert recorded == [False], "no graph of the encoder is kept"
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert same(before, encoder.state_dict())


@torch.no_grad()
def test_without_slots_the_model_is_what_it_was():
    model = ToyNet().eval()
    root = Retrieving(model, StatisticsEncoder(), retriever()).eval()
    assert torch.equal(root(inputs(1))[0], model(inputs(1))[0])


def test_the_encoder_is_given_the_first_inputs_however_they_come():
    class Notes(nn.Module):
        def forward(self, *given):
            self.given = given
            return torch.zeros(1, 8)

    class Model(nn.Module):
        def forward(self, ids, mask, other=None):
            return ids

    a, b, c = (torch.full((1, 8), float(value)) for value in range(3))
    for count in (1, 2):
        notes = Notes()
        root = Retrieving(Model(), notes, retriever(), encoder_inputs=count)
        root(a, mask=b, other=c)
        assert [float(one[0, 0]) for one in notes.given] == [0.0, 1.0][:count]


def test_keywords_are_taken_in_the_order_of_the_model():
    class Notes(nn.Module):
        def forward(self, *given):
            self.given = given
            return torch.zeros(1, 8)

    class Model(nn.Module):
        def forward(self, ids=None, mask=None, kinds=None):
            return ids

    class Open(nn.Module):
        def forward(self, *given, **named):
            return given

    ids, kinds, mask = (torch.full((1, 8), float(value)) for value in range(3))
    for model in (Model(), Open()):
        notes = Notes()
        root = Retrieving(model, notes, retriever(), encoder_inputs=2)
        if isinstance(model, Model):  # a tokenizer of BERT gives them in another one
            root(kinds=kinds, ids=ids, mask=mask)
        else:
            root(ids, mask=mask)
        assert [float(one[0, 0]) for one in notes.given] == [0.0, 2.0]


# ---- a transformer, whose encoder needs the mask
def test_a_text_classifier(tmp_path):
    source = tiny.bert(tmp_path / "bert")
    tokenizer = load_tokenizer(source)
    rows = read_examples(tiny.labelled_table(tmp_path / "texts.csv", 32), "classification")
    data = classification_set(rows, tokenizer, 16, "union")
    torch.manual_seed(0)
    model = load_transformer(source, "classification", tokenizer, len(data.classes.names))
    method = SLM(
        "*.attention.output.dense",
        "*classifier*",
        encoder=text_encoder(source, local_files_only=True),
        retriever=KeyRetriever(groups=2, slots=2, retrieved=2),
        rank=2,
        encoder_inputs=2,
        key_steps=20,
    )
    engine = Engine(
        brain=TextClassificationBrain,
        modules={"model": TextClassifier(model)},
        method=method,
        stream=example_stream(data),
        training=Training(functools.partial(torch.optim.AdamW, lr=0.003), epochs=1, batch_size=8),
        folder=tmp_path / "run",
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    results = engine.run()
    assert all(0 <= value <= 100 for row in results["matrix"] for value in row)
    root = engine.modules["model"].eval()
    assert [len(layer.up()) for layer in layers(engine.modules)] == [16, 16]
    for layer in layers(engine.modules):  # each task has learnt something
        assert layer.kept_up.unflatten(1, (2, 4)).any(dim=2).any(dim=0).all()
    ids, mask = torch.tensor([[2, 5, 6, 3]]), torch.ones(1, 4, dtype=torch.int64)
    wide, wide_mask = (nn.functional.pad(one, (0, 5)) for one in (ids, mask))
    with torch.no_grad():
        found, padded = root(ids, mask)[0], root(wide, wide_mask)[0]
    assert (found - padded).abs().max() < 1e-5, "padding is not retrieved by"


# ---- in a world where there is much to forget
class Hidden(nn.Module):
    """The hidden layer of the model as it was before all tasks."""

    def __init__(self, seed):
        super().__init__()
        start = mini_clip.childhood(seed, mini_clip.STRONG)
        model = mini_clip.MiniClip(start.world.new())
        model.load_state_dict(start.weights)
        self.hear = model.hear

    def forward(self, x):
        return nn.functional.gelu(self.hear(x))


class Noise(nn.Module):
    """Queries that say nothing of the inputs, though the same for the same batch."""

    def forward(self, x):
        seed = int(1e4 * x.abs().sum()) % 2**31
        return torch.randn(len(x), 96, generator=torch.Generator().manual_seed(seed))


def live(encoder, seed, folder):
    """Return the outcome, and how many clips retrieve most from the slots of their own task."""
    method = SLM(
        mini_clip.TARGETS,
        encoder=encoder,
        retriever=KeyRetriever(groups=2, slots=4, retrieved=4),
        rank=4,
    )
    outcome = mini_clip.live(method, folder, seed=seed)
    root, right = outcome.engine.modules["model"].eval(), []
    for task in outcome.engine.stream:
        shares = root.retriever.by_task(root.retriever(root.encoder(task.test.features)))
        right.append(float((shares.argmax(1) == task.index).float().mean()))
    return outcome, statistics.mean(right)


def oracle(outcome):
    """The accuracy on all tasks in the end if each were known."""
    engine, found = outcome.engine, []
    for task in engine.stream:
        engine.method.before_eval(task)
        with torch.no_grad():
            logits = engine.modules["model"].eval()(task.test.features)[0]
        found.append(100 * float((logits.argmax(1) == task.test.labels).float().mean()))
    engine.method.before_eval(None)
    return statistics.mean(found)


@pytest.mark.slow
def test_it_forgets_far_less_than_merged_updates_and_by_retrieving_wrongly_alone(tmp_path):
    seeds = (1, 2)
    lora = [
        mini_clip.live(LoRA(mini_clip.TARGETS, rank=16), tmp_path / f"lora{seed}", seed=seed)
        for seed in seeds
    ]
    slm, right = zip(
        *(live(FrozenEncoder(Hidden(seed)), seed, tmp_path / f"slm{seed}") for seed in seeds),
        strict=True,
    )
    blind, chance = live(Noise(), 1, tmp_path / "blind")

    def mean(outcomes, field):
        return statistics.mean(getattr(one, field) for one in outcomes)

    assert mean(lora, "forgetting") > 15
    assert mean(slm, "forgetting") < 5
    assert mean(slm, "last") > mean(lora, "last") + 5
    assert mean(slm, "hold") > mean(lora, "hold") + 5
    assert min(right) > 0.85
    for one in slm:  # slots do not change: what was learnt is there, if it is retrieved
        assert oracle(one) > one.last + 1
        assert one.drift == 0
    # and without queries that tell the tasks apart nothing is left of it
    assert 0.1 < chance < 0.3
    assert blind.last < slm[0].last - 10
    assert blind.forgetting > slm[0].forgetting + 4
