"""Train a voice model on VCTK.

Example: python recipes/VCTK/tts/train.py recipes/VCTK/tts/hparams/train.yaml \
    --data_folder /data/VCTK-Corpus-0.92
"""

import sys

from speechcl.data.voice_corpora import read_vctk
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import learn_corpus


def main(argv):
    """Prepare the corpus, train, write the model and samples."""
    experiment = Experiment(argv)
    return learn_corpus(
        experiment, read_vctk, {"recipe": "VCTK/tts"}, mic=experiment.hparams["mic"]
    )


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
