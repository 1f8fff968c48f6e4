"""Crops and augmentation are a function of seed, epoch and clip, whoever draws them."""

import functools
import pickle

import numpy
import pytest
import soundfile
import torch
from torch import nn
from torch.utils.data import DataLoader

from speechcl.brains import DetectionBrain
from speechcl.checkpoints import seed_everything
from speechcl.data.packed import pack_audio
from speechcl.data.pool import seed_for
from speechcl.data.waveforms import WaveformSet
from speechcl.engine import Engine, Training
from speechcl.methods import ER, FineTune, Joint
from speechcl.task import make_stream
from tests.toy import same, weights

SAMPLES = 400


def noisy(waveform, seed):
    """Add noise from the seed alone, as every augmentation must."""
    return waveform + torch.randn(len(waveform), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pack_and_rows(tmp_path_factory):
    """24 clips of 0.02 s to 0.066 s; every fourth, quieter than the rest, is genuine."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for k in range(24):
        genuine = k % 4 == 0
        scale = 0.2 if genuine else 0.6
        waveform = numpy.random.default_rng(k).uniform(-scale, scale, 320 + 32 * k)
        soundfile.write(folder / f"{k}.wav", waveform, 16000)
        label, attack = ("bonafide", "-") if genuine else ("spoof", f"attack {k % 2}")
        rows.append({"ID": f"c{k}", "wav": str(folder / f"{k}.wav"), "speaker": f"s{k % 6}"})
        rows[-1] |= {"label": label, "attack": attack}
    return pack_audio(rows, folder), rows


@pytest.fixture
def make(pack_and_rows):
    return functools.partial(WaveformSet, *pack_and_rows, SAMPLES)


def waves(data, epoch=1):
    data.set_epoch(epoch)
    return data.__getitems__(list(range(len(data))))["features"]


# ---- what a batch holds
def test_without_options_it_is_the_first_samples_of_each_clip(make, pack_and_rows):
    pack, rows = pack_and_rows
    data = make()
    assert len(data) == 24
    batch = data.__getitems__([20, 0, 3])
    assert batch["features"].shape == (3, SAMPLES)
    assert batch["label"].tolist() == [1, 1, 0]
    assert torch.equal(batch["features"][0], pack.read(20)[:SAMPLES])
    assert torch.equal(batch["features"][1], pack.read(0).repeat(2)[:SAMPLES])
    assert torch.equal(waves(data, epoch=1), waves(data, epoch=2))


def test_a_batch_is_its_items(make):
    data = make(augment=noisy, random_crop=True)
    batch = data.__getitems__([4, 0, 4])
    for name in ("features", "label"):
        assert torch.equal(batch[name], torch.stack([data[i][name] for i in (4, 0, 4)]))
    assert data.collate(batch) is batch


def test_what_the_manifest_says_stands_beside_it(make, pack_and_rows):
    pack, rows = pack_and_rows
    data = make()
    assert [row["ID"] for row in data.rows] == [row["ID"] for row in rows]
    assert data.labels.tolist() == [int(k % 4 == 0) for k in range(24)]
    assert data.is_bonafide.tolist() == [k % 4 == 0 for k in range(24)]
    assert data.speakers.tolist() == [f"s{k % 6}" for k in range(24)]
    assert data.nbytes == sum(2 * (320 + 32 * k) for k in range(24))


def test_rows_find_their_clips_in_any_order(pack_and_rows):
    pack, rows = pack_and_rows
    data = WaveformSet(pack, [rows[9], rows[2]], SAMPLES)
    assert torch.equal(data[0]["features"], pack.read_batch([9], [0], SAMPLES)[0])
    assert torch.equal(data[1]["features"], pack.read_batch([2], [0], SAMPLES)[0])
    assert data.nbytes == 2 * (320 + 32 * 9 + 320 + 32 * 2)


# ---- what is drawn
def test_a_crop_is_a_slice_of_its_clip_and_any_can_come(make, pack_and_rows):
    pack, _ = pack_and_rows
    data, heard = make(random_crop=True), set()
    slices = pack.read(4).unfold(0, SAMPLES, 1)  # 448 samples: 49 slices
    for epoch in range(400):
        data.set_epoch(epoch)
        (start,) = (slices == data[4]["features"]).all(1).nonzero().flatten().tolist()
        heard.add(start)
    assert len(slices) == 49
    assert heard == set(range(49))


def test_short_clips_are_repeated_from_their_beginning(make):
    cropped, plain = waves(make(random_crop=True)), waves(make())
    assert torch.equal(cropped[:3], plain[:3])  # 320, 352 and 384 samples
    assert all(not torch.equal(a, b) for a, b in zip(cropped[8:], plain[8:], strict=True))


def test_every_clip_and_epoch_is_augmented_with_a_seed_of_its_own(make):
    seeds = []

    def listen(waveform, seed):
        seeds.append(seed)
        return waveform

    data = make(augment=listen)
    for epoch in (1, 2):
        waves(data, epoch)
    waves(make(augment=listen, seed=1))
    assert len(set(seeds)) == len(seeds) == 72
    assert seeds[24] == seed_for(0, 2, "c0", "augment")  # not the crop's


@pytest.mark.parametrize("options", [{"augment": noisy}, {"random_crop": True}])
def test_epochs_and_seeds_differ_and_repeat(make, options):
    first, second = waves(make(**options), 1), waves(make(**options), 2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, waves(make(seed=5, **options), 1))
    again = make(**options)
    assert torch.equal(waves(again, 2), second)
    assert torch.equal(waves(again, 1), first)


def test_order_subsets_and_global_randomness_change_nothing(make):
    data = make(augment=noisy, random_crop=True)
    expected = waves(data, 3)
    torch.manual_seed(77)
    numpy.random.seed(77)
    order = torch.randperm(24).tolist()
    assert torch.equal(data.__getitems__(order)["features"], expected[order])
    part = data.subset([20, 3, 11])
    assert torch.equal(waves(part, 3), expected[[20, 3, 11]])
    assert part.labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_draw_alike_in_every_epoch(make, workers):
    data = make(augment=noisy, random_crop=True)
    loader = DataLoader(data, batch_size=5, num_workers=workers, collate_fn=data.collate)
    for epoch in (1, 2):
        expected = waves(make(augment=noisy, random_crop=True), epoch)
        data.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["features"] for batch in loader]), expected)


def test_pickled_it_draws_alike(make):
    data = make(augment=noisy, random_crop=True)
    data.set_epoch(4)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[7]["features"], data[7]["features"])


def test_plain_is_neither_cropped_nor_augmented(make):
    data = make(augment=noisy, random_crop=True)
    expected = waves(data, 2)
    assert torch.equal(waves(data.plain(), 2), waves(make()))
    assert torch.equal(waves(data, 2), expected)


# ---- sums
def test_a_sum_draws_like_its_parts_in_every_epoch(make):
    data = make(augment=noisy, random_crop=True, seed=3)
    both = data.subset([1, 2, 3]) + data.subset([9, 8])
    assert [row["ID"] for row in both.rows] == ["c1", "c2", "c3", "c9", "c8"]
    for epoch in (1, 2):
        assert torch.equal(waves(both, epoch), waves(data, epoch)[[1, 2, 3, 9, 8]])


@pytest.mark.parametrize(
    "options",
    [{"samples": 300}, {"augment": noisy}, {"random_crop": True}, {"seed": 1}],
)
def test_sets_of_other_settings_do_not_add_up(pack_and_rows, options):
    one = WaveformSet(*pack_and_rows, samples=SAMPLES)
    other = WaveformSet(*pack_and_rows, **{"samples": SAMPLES, **options})
    with pytest.raises(ValueError, match="do not add up"):
        one + other


def test_sets_of_two_packs_do_not_add_up(make, pack_and_rows, tmp_path):
    _, rows = pack_and_rows
    other = WaveformSet(pack_audio(rows[:3], tmp_path), rows[:3], SAMPLES)
    with pytest.raises(ValueError, match="pack their clips together"):
        make() + other


# ---- refused
def test_a_clip_that_the_pack_lacks_is_named(pack_and_rows):
    pack, rows = pack_and_rows
    unknown = {"ID": "elsewhere", "label": "spoof"}
    with pytest.raises(ValueError, match="lacks 1 of 25 clips, for example 'elsewhere'"):
        WaveformSet(pack, [*rows, unknown], SAMPLES)


def test_no_samples_are_refused(pack_and_rows):
    with pytest.raises(ValueError, match="samples is 0"):
        WaveformSet(*pack_and_rows, samples=0)


def test_an_augmentation_that_changes_the_length_is_named(make):
    data = make(augment=lambda waveform, seed: waveform[1:])
    with pytest.raises(ValueError, match=r"\(400,\) samples of clip 'c3' into \(399,\)"):
        data.__getitems__([3])


# ---- trained on
class TinyNet(nn.Module):
    """Level and its spread over short frames, then two linear layers."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 8)
        self.classify = nn.Linear(8, 2)

    def forward(self, x):
        embedding = torch.tanh(self.hidden(x.unfold(1, 20, 20).abs().mean(2)))
        return self.classify(embedding), embedding


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test may catch it."""


class DyingSGD(torch.optim.SGD):
    """Raises at its so-manieth step; steps are counted over the whole process."""

    steps, last = 0, None

    def step(self, closure=None):
        value = super().step(closure)
        DyingSGD.steps += 1
        if DyingSGD.steps == DyingSGD.last:
            raise Killed
        return value


def engine_of(folder, data, method, workers=0):
    """Two tasks of 12 clips, batches of 4: 3 steps an epoch, 9 a task."""
    half = [[k for k in range(24) if k // 4 % 2 == task] for task in (0, 1)]
    tasks = [(f"task {k}", data.subset(half[k]), data.plain().subset(half[k])) for k in (0, 1)]
    torch.manual_seed(0)
    return Engine(
        brain=DetectionBrain,
        modules={"model": TinyNet()},
        method=method,
        stream=make_stream(tasks),
        training=Training(
            functools.partial(DyingSGD, lr=0.1, momentum=0.9),
            epochs=3,
            batch_size=4,
            workers=workers,
            checkpoint_interval_s=0.0,
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", "ckpt_interval_steps": 2},
    )


@pytest.mark.parametrize(
    ("method", "last", "workers"),
    [
        (FineTune, 6, 0),
        (FineTune, 6, 2),
        (FineTune, 9, 0),  # at the last step of a task
        (Joint, 15, 2),
        (functools.partial(ER, capacity=6, replay=2), 15, 0),
    ],
)
def test_a_resume_inside_an_epoch_is_bit_for_bit(make, method, last, workers, tmp_path):
    def run_of(name, workers):
        data = make(augment=noisy, random_crop=True)
        return engine_of(tmp_path / name, data, method(), workers)

    whole = run_of("whole", workers=0)
    expected = whole.run()
    DyingSGD.steps, DyingSGD.last = 0, last
    with pytest.raises(Killed):
        run_of("killed", workers).run()
    DyingSGD.last = None
    seed_everything(last)  # a new process starts with other random states
    resumed = run_of("killed", workers)
    found = resumed.run()
    assert found["matrix"] == expected["matrix"]
    assert same(weights(resumed), weights(whole))
    assert same(resumed.method.state_dict(), whole.method.state_dict())


def test_what_is_remembered_is_plain_and_alike_after_a_kill(make, tmp_path, monkeypatch):
    def run_of(name):
        data = make(augment=noisy, random_crop=True)
        return engine_of(tmp_path / name, data, ER(capacity=6, replay=2))

    def die(*arguments):
        raise Killed

    whole = run_of("whole")
    expected = whole.run()
    with monkeypatch.context() as patch:
        patch.setattr(ER, "after_task", die)  # after the last step, before anything is remembered
        with pytest.raises(Killed):
            run_of("killed").run()
    resumed = run_of("killed")
    assert resumed.run()["matrix"] == expected["matrix"]
    assert same(weights(resumed), weights(whole))
    assert same(resumed.method.state_dict(), whole.method.state_dict())
    clips = waves(make())
    for kept in whole.method.memory.sample(6)["features"]:
        assert (clips == kept).all(1).any()


def test_every_epoch_of_training_hears_other_crops(make, tmp_path):
    heard = []

    class Listening(WaveformSet):
        def set_epoch(self, epoch):
            heard.append((len(self), epoch))
            super().set_epoch(epoch)

        def _with(self, rows):
            return Listening(self.pack, rows, **self._settings())

    data = make(random_crop=True)
    engine_of(tmp_path, Listening(data.pack, data.rows, SAMPLES, random_crop=True), Joint()).run()
    assert heard == [(12, 1), (12, 2), (12, 3), (24, 1), (24, 2), (24, 3)]
