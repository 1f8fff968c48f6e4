"""What each method does, in one plain sentence for readers of a report."""

from __future__ import annotations

METHODS = {
    "finetune": "trains on each new task alone and does nothing against forgetting: the baseline.",
    "joint": "trains on the data of all tasks so far together: what could be reached if all old "
    "data could be kept.",
    "ewc": "holds those weights near their old values that mattered most for earlier tasks.",
    "si": "like EWC, but rates the weights along the way while they are being trained.",
    "lwf": "asks the new model to answer as the old one did, on the new data.",
    "er": "keeps a few clips of every task and mixes them into later training.",
    "derpp": "replays kept clips and asks for the answers that the model gave to them at the time.",
    "erace": "replays kept clips and lets new clips compete only with the classes they come with.",
    "scr": "replays kept clips and pulls the features of each class together.",
    "gdumb": "keeps a balanced set of clips and trains a new model on it alone.",
    "owm": "lets weights change only in directions that earlier tasks did not use; keeps one "
    "matrix per layer, no audio.",
    "rawm": "turns each update away from what earlier tasks used, the further the fewer genuine "
    "clips it sees, and asks for the answers of the old model; keeps no audio.",
    "rwm": "lets genuine speech, which sounds alike in all tasks, change what earlier tasks used, "
    "and keeps what spoofs ask for clear of it; keeps one matrix per layer, no audio.",
    "onpro": "replays kept clips and keeps the average features of the classes apart.",
    "dualmix": "mixes kept and new clips with each other before training on them.",
    "lora": "trains small low-rank additions and leaves the weights themselves alone.",
    "codyra": "trains low-rank additions, prunes what a task does not need, and merges the rest.",
    "mora": "adds rank-one experts with each task and freezes those of earlier tasks.",
    "osft": "freezes the strongest directions of every weight matrix and trains the others.",
    "chain": "lets several methods act together, each on what those before it have made.",
    "slm": "keeps small weight increments per task and picks them by the likeness of the input.",
}


def describe_method(method: str) -> str | None:
    """Say in one sentence what a method does.

    Arguments
    ---------
    method : str
        Its name; case and punctuation do not matter.

    Returns
    -------
    str or None
        None for a method without a description.

    Example
    -------
    >>> describe_method("Fine-Tune")[:32]
    'trains on each new task alone an'
    """
    return METHODS.get(_plain(method))


def is_method(method: str, name: str) -> bool:
    """Tell whether a method goes by a name, whatever its case and punctuation.

    Arguments
    ---------
    method, name : str
        The names to compare.

    Returns
    -------
    bool

    Example
    -------
    >>> is_method("ER-ACE", "erace")
    True
    """
    return _plain(method) == _plain(name)


def _plain(method: str) -> str:
    return "".join(filter(str.isalnum, method.lower().replace("++", "pp")))
