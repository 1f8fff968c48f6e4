"""Enrol speakers of L2-ARCTIC, one after another, beside a trained voice model.

Example: python recipes/L2ARCTIC/adaptation/train.py recipes/L2ARCTIC/adaptation/hparams/usat.yaml \
    --data_folder /data/l2arctic --base_folder my_base/model
"""

import sys

from speechcl.data import cap_per_speaker
from speechcl.data.voice_corpora import read_l2arctic
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import enrol_corpus


def read(folder, suitcase, clips_per_speaker):
    """List some clips of each speaker, who have recorded an hour."""
    return cap_per_speaker(read_l2arctic(folder, suitcase), clips_per_speaker)


def main(argv):
    """Prepare the clips of the speakers, enrol them."""
    experiment = Experiment(argv)
    options = {name: experiment.hparams[name] for name in ("suitcase", "clips_per_speaker")}
    return enrol_corpus(experiment, read, {"recipe": "L2ARCTIC/adaptation"}, **options)


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
