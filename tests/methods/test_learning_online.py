"""Digits in one pass with twenty remembered: OnPro and DualMix keep more than plain replay.

What is asserted is what five seeds of the recipe showed with a wide margin. With fifty remembered
the methods come close, and nothing is asserted.
"""

import functools
import random
import statistics

import pytest
import torch

from speechcl.backbones import ConvNet
from speechcl.brains import ClassificationBrain
from speechcl.data.class_streams import class_stream, in_groups
from speechcl.data.corpora.small_images import image_set
from speechcl.engine import Engine, Training
from speechcl.methods import ER, Chain, Contrast, DualMix, OnPro
from speechcl.views import digit_views

pytestmark = pytest.mark.slow  # three runs of three methods: three minutes

SEEDS = (1, 2, 3)
METHODS = {
    "ER": lambda seed: ER(capacity=20, replay=32, seed=seed, online=True),
    "ER DualMix": lambda seed: Chain(
        [
            ER(capacity=20, replay=32, seed=seed, online=True),
            DualMix(digit_views(), seed=seed),
        ]
    ),
    "OnPro": lambda seed: OnPro(
        digit_views(), capacity=20, replay=32, seed=seed, contrast=Contrast(32, instances=0.2)
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("digits"), image_set("digits", "", repeats=10)
    summaries = {}
    for name, make in METHODS.items():
        for seed in SEEDS:
            names = list(data.classes.names)
            random.Random(seed).shuffle(names)
            torch.manual_seed(seed)
            engine = Engine(
                brain=ClassificationBrain,
                modules={"model": ConvNet(10)},
                method=make(seed),
                stream=class_stream(data, in_groups(names, 2)),
                training=Training(functools.partial(torch.optim.Adam, lr=0.004), 1, 10, seed),
                folder=folder / name / str(seed),
                run_opts={"noprogressbar": True, "device": "cpu"},
            )
            summaries[name, seed] = engine.run()["summary"]
    return {
        name: {
            figure: statistics.mean(summaries[name, seed][figure] for seed in SEEDS)
            for figure in ("average", "forgetting")
        }
        for name in METHODS
    }


def test_onpro_keeps_more_and_forgets_far_less(found):
    assert found["OnPro"]["average"] > found["ER"]["average"] + 4
    assert found["OnPro"]["forgetting"] < found["ER"]["forgetting"] - 15


def test_dualmix_keeps_more_and_forgets_less(found):
    assert found["ER DualMix"]["average"] > found["ER"]["average"]
    assert found["ER DualMix"]["forgetting"] < found["ER"]["forgetting"]
