"""Fine-tune any transformers model on one task after another.

Example: python recipes/HuggingFace/finetune/train.py recipes/HuggingFace/finetune/hparams/er.yaml \
    --kind classification --data_csv reviews.csv --model_folder checkpoints/bert-base-uncased
"""

import sys

from speechcl.experiment import Experiment, run_recipe
from speechcl.transformer_recipes import learn_examples


def main(argv):
    """Run one method with one seed."""
    return learn_examples(Experiment(argv), {"recipe": "HuggingFace/finetune"})


if __name__ == "__main__":
    sys.exit(run_recipe(main, sys.argv[1:]))
