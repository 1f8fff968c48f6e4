"""Learn spoken words in one pass, two new ones in every task, with a small memory or none.

Example: python recipes/Keywords/online/train.py recipes/Keywords/online/hparams/onpro.yaml \
    --data_folder /data/speech_commands_v0.02 --classes "[yes, no, up, down]"
"""

import sys

from speechcl.classification_recipes import word_set
from speechcl.data.corpora.keywords import choose_words, find_keywords, open_words
from speechcl.experiment import Experiment, run_recipe
from speechcl.online_recipes import learn_online


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    rows = choose_words(
        find_keywords(hparams["data_folder"]), hparams["classes"], hparams["clips_per_word"]
    )
    rows = experiment.on_main(open_words, rows=rows, folder=hparams["corpus_folder"])
    return learn_online(experiment, word_set(experiment, rows), {"recipe": "Keywords/online"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
