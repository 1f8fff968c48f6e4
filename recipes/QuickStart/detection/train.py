"""Learn three attacks one after another, on a corpus that is built on the spot.

Example: python recipes/QuickStart/detection/train.py recipes/QuickStart/detection/hparams/rwm.yaml
"""

import sys

from quickstart_prepare import NOTE, prepare

from speechcl.detection_recipes import learn_attacks
from speechcl.experiment import Experiment, run_recipe


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    rows = experiment.on_main(
        prepare,
        folder=hparams["corpus_folder"],
        attacks=hparams["attacks"],
        voices=hparams["voices"],
        sentences=hparams["sentences"],
        workers=hparams["workers"],
    )
    return learn_attacks(experiment, rows, {"recipe": "QuickStart/detection", "notes": [NOTE]})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
