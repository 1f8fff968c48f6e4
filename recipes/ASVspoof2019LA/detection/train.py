"""Learn the attacks of ASVspoof 2019 LA one after another.

Example: python recipes/ASVspoof2019LA/detection/train.py \
    recipes/ASVspoof2019LA/detection/hparams/rwm.yaml --data_folder /data/LA
"""

import sys

from asvspoof2019la_prepare import find, prepare
from speechbrain.utils.distributed import if_main_process

from speechcl.data.corpora import describe
from speechcl.detection_recipes import learn_attacks
from speechcl.experiment import Experiment, run_recipe


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    found = find(
        hparams["data_folder"], hparams["attacks"], hparams["speaker_split"], hparams["data_seed"]
    )
    rows = experiment.on_main(
        prepare,
        found=found,
        folder=hparams["corpus_folder"],
        share_of_clips=hparams["share_of_clips"],
        seed=hparams["data_seed"],
    )
    if if_main_process():
        print(describe(found, rows))
    return learn_attacks(experiment, rows, {"recipe": "ASVspoof2019LA/detection"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
