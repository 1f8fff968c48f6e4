"""Learn attacks as they come, each clip once, on spoofed copies of your own genuine speech.

Example: python recipes/OwnSpeech/online_detection/train.py \
    recipes/OwnSpeech/online_detection/hparams/er.yaml --data_folder my_recordings
"""

import sys

from speechcl.detection_recipes import learn_attacks, own_speech
from speechcl.experiment import Experiment, run_recipe


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    rows = experiment.on_main(
        own_speech,
        data_folder=hparams["data_folder"],
        folder=hparams["corpus_folder"],
        attacks=hparams["attacks"],
        clips_per_speaker=hparams["clips_per_speaker"],
        workers=hparams["workers"],
    )
    return learn_attacks(experiment, rows, {"recipe": "OwnSpeech/online_detection"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
