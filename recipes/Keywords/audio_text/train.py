"""Teach new words to a model that compares clips with names; words of no task yet take part, too.

Example: python recipes/Keywords/audio_text/train.py \
    recipes/Keywords/audio_text/hparams/codyra.yaml --data_folder /data/speech_commands_v0.02 \
    --classes "[yes, no, up, down]"
"""

import sys

from keywords_prepare import prepare

from speechcl.classification_recipes import learn_words
from speechcl.experiment import Experiment, run_recipe


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    rows = experiment.on_main(
        prepare,
        data_folder=hparams["data_folder"],
        folder=hparams["corpus_folder"],
        words=hparams["classes"],
        clips_per_word=hparams["clips_per_word"],
    )
    return learn_words(experiment, rows, {"recipe": "Keywords/audio_text"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
