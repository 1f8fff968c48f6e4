"""Enrol speakers that espeak-ng plays, one after another, beside a trained voice model.

Example: python recipes/Embedded/enrolment/train.py recipes/Embedded/enrolment/hparams/usat.yaml
"""

import sys

from speechcl.backbones.usat.files import read_config
from speechcl.data.embedded_voices import STAND_IN, build_embedded_voices
from speechcl.experiment import Experiment, run_recipe
from speechcl.voice_recipes import enrol_speakers


def main(argv):
    """Speak the corpus, leave out whom the base knows, enrol the others."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    rows = experiment.on_main(
        build_embedded_voices,
        folder=hparams["corpus_folder"],
        speakers=hparams["known_speakers"] + hparams["speakers"],
        sentences=hparams["sentences"],
        rate_hz=read_config(hparams["base_folder"]).rate_hz,
        workers=hparams["workers"],
    )
    known = list(dict.fromkeys(row["speaker"] for row in rows))[: hparams["known_speakers"]]
    new = [row for row in rows if row["speaker"] not in known]
    return enrol_speakers(experiment, new, {"recipe": "Embedded/enrolment", "notes": [STAND_IN]})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
