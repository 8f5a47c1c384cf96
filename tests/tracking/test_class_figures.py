"""The pictures of classes: what is drawn where, and what stays readable."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from metalab.tracking import figures
from metalab.tracking.class_figures import confusion_matrix, reliability_diagram
from metalab.tracking.class_report import LARGEST, Confusion, classification_text
from metalab.tracking.episode_sheet import FRAME, SheetEpisode, episode_sheet


def test_a_row_of_the_matrix_is_a_true_class_and_numbers_stand_in_few_cells():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 5]])
    axes = confusion_matrix(counts, ["a", "b", "c" * 99], "title").axes[0]
    shown = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert shown == {((0, 0), "3"), ((1, 0), "1"), ((1, 2), "2"), ((2, 2), "5")}  # column, row
    assert np.asarray(axes.images[0].get_array())[2].tolist() == [0, pytest.approx(2 / 7), pytest.approx(5 / 7)]
    assert len(axes.get_yticklabels()[2].get_text()) == 28


def test_100_classes_can_be_read():
    figure = confusion_matrix(np.eye(100, dtype=int), [f"class {k}" for k in range(100)], "title")
    axes = figure.axes[0]
    assert not axes.texts
    high = figures.pixels(figure).shape[0]
    first, second = (axes.get_yticklabels()[k].get_window_extent() for k in (0, 1))
    assert first.y0 >= second.y1 - 1  # no label lies on the next
    assert 1500 < high < 2600


def test_too_many_classes_have_no_picture_and_a_prediction_of_no_class_no_column():
    one = np.array([0, 1]), np.array([1, -1]), np.array([4, 2])
    assert Confusion(["a", "b"], *one).matrix().tolist() == [[0, 4], [0, 0]]
    assert list(Confusion(["a", "b"], *one).picture("2 images")) == ["confusion"]
    assert Confusion([f"{k}" for k in range(LARGEST + 1)], *one).picture("2 images") == {}


def test_the_diagram_has_a_bar_a_bin_and_empty_bins_have_none():
    nan = float("nan")
    above, below = reliability_diagram(
        np.array([0, 3, 1]), np.array([nan, 0.5, 0.9]), np.array([nan, 0.25, 1.0]), "title"
    ).axes
    assert heights(above) == [0, 0.25, 1.0]
    assert heights(below) == [0, 0.75, 0.25]


@pytest.mark.parametrize("side", [8, 28, 84, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_wrong_queries_come_first_and_are_framed(side, channels):
    support = np.full((2, channels, side, side), 0.5, np.float32)
    query = np.stack([np.full((channels, side, side), i / 10, np.float32) for i in range(4)])
    episode = SheetEpisode(
        "one", ["a", "b"], support, np.arange(2), query, np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1])
    )
    sheet = episode_sheet([episode] * 3, "title")
    wrong = (sheet == (0xD6, 0x27, 0x28)).all(2)
    right = (sheet == (0x1B, 0x8A, 0x3A)).all(2)
    columns = [np.flatnonzero(mask.sum(0) > 4 * FRAME).min() for mask in (wrong, right)]
    assert columns[0] < columns[1]
    assert sheet[..., 0].shape[0] > sheet.shape[1] / 4


def test_of_very_many_classes_the_screen_has_the_averages():
    true = np.arange(101).repeat(2)
    text = classification_text(true, true, [f"class {k}" for k in range(101)])
    assert "class 5" not in text
    assert "precision" in text.splitlines()[0]
    assert "weighted avg" in text
    assert "class 5" in classification_text(true[:20], true[:20], [f"class {k}" for k in range(10)])


def heights(axes: Axes) -> list[float]:
    """Return how high the bars of a picture are."""
    return [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
