"""Train a voice model on your own recordings with transcripts.

Example: python recipes/OwnSpeech/tts/train.py recipes/OwnSpeech/tts/hparams/train.yaml \
    --data_folder my_recordings
"""

import sys

from speechcl.data.voice_corpora import read_own_speech
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import learn_corpus


def main(argv):
    """Prepare the corpus, train, write the model and samples."""
    experiment = Experiment(argv)
    return learn_corpus(experiment, read_own_speech, {"recipe": "OwnSpeech/tts"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
