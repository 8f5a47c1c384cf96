"""The words behind `metalab data VERB`, looked at before anything is read or made."""

from metalab.quoting import readable


def checked(verb: str, words: list[str]) -> list[str]:
    """Return the words with quotes where Hydra needs them."""
    return [readable(word, multirun=False) for word in words]
