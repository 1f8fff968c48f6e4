"""Finds and chooses the clips of spoken words."""

from speechcl.data.corpora.keywords import choose_words, find_keywords, open_words


def prepare(data_folder, folder: str, words: list[str], clips_per_word: int | None):
    """Return the manifest rows of the words' clips; every clip that is used is looked for.

    They come in the corpus's order and do not hang on the run's seed, so that features are found
    again whatever the order of learning.
    """
    rows = choose_words(find_keywords(data_folder), words, clips_per_word)
    return open_words(rows, folder)
