"""The sizes of the task that is tested on, and of the one that is trained on."""

from dataclasses import dataclass

from metalab.check import at_least
from metalab.errors import UserError


@dataclass(frozen=True)
class Task:
    """The task that is tested on, and, where it differs, the one that is trained on."""

    way: int
    shot: int
    query: int
    train_way: int | None
    train_shot: int | None
    train_query: int | None
    unlabelled: int = 0
    distractors: int = 0
    support: int | None = None

    @property
    def fixed(self) -> bool:
        """Whether every episode has this way and these shots; else they are the most that are drawn."""
        return self.support is None

    def __post_init__(self) -> None:
        least = {"way": 2, "shot": 1, "query": 1, "train_way": 2, "train_shot": 1, "train_query": 1}
        least |= {"unlabelled": 0, "distractors": 0, "support": 5}
        at_least("task", self, least)
        if not self.fixed and (self.unlabelled or self.distractors):
            raise UserError(
                f"task.unlabelled={self.unlabelled} task.distractors={self.distractors}: task=variable has none; "
                "type 0 for both, or task=fixed"
            )
