"""Enrol speakers of ESLTTS, one after another, beside a trained voice model.

Example: python recipes/ESLTTS/adaptation/train.py recipes/ESLTTS/adaptation/hparams/usat.yaml \
    --data_folder "/data/ESLTTS Dataset" --base_folder my_base/model
"""

import sys

from speechcl.data.voice_corpora import read_esltts
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import enrol_corpus


def main(argv):
    """Prepare the clips of the speakers, enrol them."""
    experiment = Experiment(argv)
    return enrol_corpus(experiment, read_esltts, {"recipe": "ESLTTS/adaptation"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
