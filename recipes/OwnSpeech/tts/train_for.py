"""Train for so many minutes, then stop and leave the weights so far; the same command goes on.

For machines that are lent by the minute. A run goes on exactly where its last checkpoint stands, at
most an epoch or half a minute back. Where the run folder cannot stay, carry the weights: another
run begins with them by --start, with new judges and a learning rate that starts anew.

Example: python recipes/OwnSpeech/tts/train_for.py 9 recipes/OwnSpeech/tts/hparams/train.yaml \
    --data_folder packed/ --output_folder run/ --device cuda:0
"""

import shutil
import signal
import sys

import torch

from speechcl.data.voice_corpora import read_own_speech
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import learn_corpus

SHARD_MB = 14  # small enough for the places that take files up to 16 MiB


def main(argv):
    """Train until the time is up; write the weights to ``so_far`` in the run folder."""
    minutes = _minutes(argv[:1])
    experiment = Experiment(argv[1:])
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        return learn_corpus(experiment, read_own_speech, {"recipe": "OwnSpeech/tts"})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if experiment.folder.is_dir():
            folder = experiment.folder / "so_far"
            shutil.rmtree(folder, ignore_errors=True)
            model = experiment.base["model"]
            model.save(folder, dtype=torch.float16, shard_mb=SHARD_MB)
            print(f"weights so far: {folder}")


def _minutes(given):
    try:
        minutes = float(*given)
    except (ValueError, TypeError):
        minutes = 0.0
    if not minutes > 0:
        raise ValueError("say first for how many minutes: train_for.py 9 hparams/train.yaml ...")
    return minutes


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
