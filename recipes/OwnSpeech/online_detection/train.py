"""Learn attacks as they come, each clip once, on spoofed copies of your own genuine speech.

Example: python recipes/OwnSpeech/online_detection/train.py \
    recipes/OwnSpeech/online_detection/hparams/er.yaml --data_folder my_recordings
"""

import sys

from speechcl.detection_recipes import learn_own_speech
from speechcl.experiment import run_recipe


def main(argv):
    """Run one method with one seed."""
    return learn_own_speech(argv, "OwnSpeech/online_detection")


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
