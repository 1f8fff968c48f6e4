"""Train a voice model on speakers that espeak-ng plays.

Example: python recipes/Embedded/tts/train.py recipes/Embedded/tts/hparams/train.yaml
"""

import sys

from speechcl.data.embedded_voices import STAND_IN, build_embedded_voices
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import learn_voice


def main(argv):
    """Speak the corpus, train, write the model and samples."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    rows = experiment.on_main(
        build_embedded_voices,
        folder=hparams["corpus_folder"],
        speakers=hparams["speakers"],
        sentences=hparams["sentences"],
        rate_hz=experiment.base["model"].config.rate_hz,
        workers=hparams["workers"],
    )
    return learn_voice(experiment, rows, {"recipe": "Embedded/tts", "notes": [STAND_IN]})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
