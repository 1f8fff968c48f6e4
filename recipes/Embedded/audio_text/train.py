"""Train the audio-text model on words that espeak-ng speaks.

Example: python recipes/Embedded/audio_text/train.py \
    recipes/Embedded/audio_text/hparams/pretrain.yaml
"""

import json
import math
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from tqdm import tqdm
from word_batches import WordBatches

from speechcl.backbones.audio_text import PUBLISHED
from speechcl.brains.audio_text import zero_shot_accuracy
from speechcl.contrastive import contrastive_loss
from speechcl.data.files import atomic_path
from speechcl.data.spoken_words import TEST_SPEAKERS, speak_words

LARGEST_SCALE = math.log(100)  # as in CLIP


def main(argv):
    """Speak, train, measure, save."""
    file, _, overrides = sb.parse_arguments(argv)
    with Path(file).open(encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    torch.set_num_threads(1)
    words, hold = (
        Path(hparams[name] or PUBLISHED / f"{name}.txt").read_text(encoding="utf-8").split()
        for name in ("words", "hold")
    )
    options = {"folder": hparams["corpus_folder"], "workers": hparams["workers"]}
    clips = speak_words(words, hparams["clips_per_word"], seed=0, **options)
    batches = WordBatches(clips, hparams["batch_size"], hparams["seed"])
    start = time.process_time()
    train(hparams, batches)
    measured = {"train_cpu_seconds": round(time.process_time() - start)}
    measured |= measure(hparams["model"], words, hold, options)
    folder = Path(hparams["output_folder"])
    hparams["model"].save(folder)
    with atomic_path(folder / "measured.json") as temporary:
        temporary.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured))
    return measured


def train(hparams, batches):
    """Take the steps, with a warm-up and a cosine down to 0."""
    model, steps, warm_up = hparams["model"], hparams["steps"], hparams["warm_up"]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    options = {"lr": hparams["lr"], "weight_decay": hparams["weight_decay"]}
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: min(1.0, (n + 1) / warm_up) * (1 + math.cos(math.pi * n / steps)) / 2,
    )
    model.train()
    bar = tqdm(range(steps), desc="contrastive training", unit="step")
    for _ in bar:
        loss = contrastive_loss(*model(*batches.draw()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def measure(model, words, hold, options):
    """Test on voices unheard: among all words, and words of no training among themselves."""
    options = {"speakers": TEST_SPEAKERS, "seed": 1, **options}
    front_end, every = model.front_end(), [*words, *hold]
    known = speak_words(words, 1, **options).features(front_end, every)
    unheard = speak_words(hold, 20, **options)
    return {
        "words": len(words),
        "trained_words_among_all": zero_shot_accuracy(model, known),
        "hold_among_all": zero_shot_accuracy(model, unheard.features(front_end, every)),
        "hold_among_hold": zero_shot_accuracy(model, unheard.features(front_end)),
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(1)
