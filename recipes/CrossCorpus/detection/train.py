"""Learn one public corpus after another.

Example: python recipes/CrossCorpus/detection/train.py \
    recipes/CrossCorpus/detection/hparams/rwm.yaml --data_folder /data/corpora
"""

import sys

from cross_corpus_prepare import find, prepare
from speechbrain.utils.distributed import if_main_process

from speechcl.data.corpora import describe
from speechcl.detection_recipes import learn_corpora
from speechcl.experiment import Experiment, run_recipe


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    found = find(
        hparams["data_folder"],
        hparams["corpora"],
        hparams["folders"],
        hparams["options"],
        hparams["speaker_split"],
        hparams["data_seed"],
    )
    rows = experiment.on_main(
        prepare,
        found=found,
        folder=hparams["corpus_folder"],
        clips_per_class=hparams["clips_per_class"],
        test_clips_per_class=hparams["test_clips_per_class"],
        seed=hparams["data_seed"],
    )
    if if_main_process():
        print(describe(found, rows))
    return learn_corpora(experiment, rows, {"recipe": "CrossCorpus/detection"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
