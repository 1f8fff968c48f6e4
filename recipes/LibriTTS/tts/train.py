"""Train a voice model on LibriTTS.

Example: python recipes/LibriTTS/tts/train.py recipes/LibriTTS/tts/hparams/train.yaml \
    --data_folder /data/LibriTTS
"""

import sys

from speechcl.data.voice_corpora import read_libritts
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import learn_corpus


def main(argv):
    """Prepare the corpus, train, write the model and samples."""
    experiment = Experiment(argv)
    return learn_corpus(
        experiment, read_libritts, {"recipe": "LibriTTS/tts"}, parts=experiment.hparams["parts"]
    )


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
