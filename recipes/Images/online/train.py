"""Learn images in one pass, two new classes in every task, with a small memory or none.

Example: python recipes/Images/online/train.py recipes/Images/online/hparams/onpro.yaml \
    --capacity 200
"""

import sys

from speechcl.data.corpora.small_images import image_set
from speechcl.experiment import Experiment, run_recipe
from speechcl.online_recipes import learn_online


def main(argv):
    """Run one method with one seed."""
    experiment = Experiment(argv)
    hparams = experiment.hparams
    data = image_set(hparams["corpus"], hparams["data_folder"] or "", hparams["repeats"])
    if len(data.classes.names) != hparams["classes"]:
        raise ValueError(
            f"classes is {hparams['classes']}, but {hparams['corpus']} has "
            f"{len(data.classes.names)}: set classes to that"
        )
    return learn_online(experiment, data, {"recipe": "Images/online"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
