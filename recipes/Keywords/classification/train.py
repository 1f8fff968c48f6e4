"""Learn spoken words task by task: new words in every task, or the same words in a new domain.

Example: python recipes/Keywords/classification/train.py \
    recipes/Keywords/classification/hparams/er.yaml --data_folder /data/speech_commands_v0.02 \
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
    return learn_words(experiment, rows, {"recipe": "Keywords/classification"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
