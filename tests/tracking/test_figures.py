"""Pictures: what is drawn, and what is said to be left out."""

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from metalab.tracking import figures


def draw(way, shot, query, channels=1, wrong=()):
    support_y, query_y = torch.arange(way).repeat_interleave(shot), torch.arange(way).repeat(query)
    predicted = query_y.clone()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % way
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(way * (shot + query), channels, 12, 12, generator=generator)
    return figures.episode(x[: way * shot], support_y, x[way * shot :], query_y, predicted, "A title")


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def within(figure):
    """Say whether every word is inside the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts if text.get_text()]
    return all(b.x0 >= 0 and b.x1 <= figure.bbox.width and b.y0 >= 0 and b.y1 <= figure.bbox.height for b in boxes)


@pytest.mark.parametrize(
    ("way", "shot", "query", "channels"), [(5, 1, 15, 1), (20, 5, 5, 3), (2, 1, 1, 3), (5, 10, 1, 1)]
)
def test_every_word_is_inside(way, shot, query, channels):
    assert within(draw(way, shot, query, channels))


def test_without_a_support_there_are_images_alone():
    figure = draw(3, 0, 12)
    assert within(figure)
    words = " ".join(texts(figure))
    assert "support" not in words
    assert "quer" not in words
    assert "36 of 36 images right (100.0 %)" in words
    assert "shown: 10 of 12 images a class" in words


def test_right_and_wrong_are_told_apart():
    figure = draw(5, 1, 2, wrong=[6])  # the second query of class 1 is taken for class 2
    words = texts(figure)
    assert [word for word in words if word.startswith("✗")] == ["✗ 2"]
    assert sorted(word for word in words if word.startswith("✓")) == [
        "✓ 0",
        "✓ 0",
        "✓ 1",
        "✓ 2",
        "✓ 2",
        "✓ 3",
        "✓ 3",
        "✓ 4",
        "✓ 4",
    ]
    assert "9 of 10 queries right (90.0 %)" in words
    assert "A title" in words
    edges = [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches]
    assert edges.count(figures.WRONG) == 1
    assert edges.count(figures.RIGHT) == 9
    assert edges.count(figures.GREY) == 5


def test_a_row_holds_its_own_class():
    y = torch.tensor([1, 0])
    x = torch.stack([torch.full((1, 4, 4), 0.25), torch.full((1, 4, 4), 0.75)])
    images = figures.episode(x, y, x, y, y, "t").axes[0].images
    by_row = {}
    for image in images:
        by_row.setdefault(round(image.get_extent()[3], 2), set()).add(float(np.asarray(image.get_array()).max()))
    assert [values for _, values in sorted(by_row.items())] == [{0.75}, {0.25}]


def test_what_is_left_out_is_said():
    figure = draw(20, 6, 15)
    assert "shown: 10 of 20 classes, 5 of 6 support images a class, 10 of 15 queries a class" in texts(figure)
    assert len(figure.axes[0].images) == 10 * (5 + 10)
    assert "300 of 300 queries right (100.0 %)" in texts(figure)  # of all, not of those drawn
    assert not [text for text in texts(draw(5, 1, 3)) if text.startswith("shown")]


def test_colour_images_keep_their_colours():
    red = torch.zeros(2, 3, 4, 4)
    red[:, 0] = 1
    y = torch.arange(2)
    image = figures.episode(red, y, red, y, y, "t").axes[0].images[0]
    assert np.asarray(image.get_array())[0, 0].tolist() == [1.0, 0.0, 0.0]


def test_adaptation_curve_is_in_per_cent_with_chance():
    figure = figures.adaptation_curve([0.2, 0.5, 0.6], [0.01, 0.02, 0.03], "Adaptation", 5)
    curve, chance = figure.axes[0].lines
    assert np.asarray(curve.get_xdata()).tolist() == [0, 1, 2]
    assert np.asarray(curve.get_ydata()) == pytest.approx([20, 50, 60])
    assert np.asarray(chance.get_ydata()) == pytest.approx([20, 20])
    band = np.asarray(figure.axes[0].collections[0].get_paths()[0].vertices)
    assert band[:, 1].min() == pytest.approx(19)
    assert band[:, 1].max() == pytest.approx(63)
    assert texts(figure) == ["60.0 %", "chance 20.0 %"]
    assert within(figure)


def test_a_metric_method_is_one_point():
    figure = figures.adaptation_curve([0.94], [0.01], "Adaptation", 20)
    FigureCanvasAgg(figure).draw()
    assert [tick for tick in figure.axes[0].get_xticks() if -0.5 <= tick <= 0.5] == [0]
    assert texts(figure) == ["94.0 %", "chance 5.0 %"]


def test_a_confidence_band_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="broadcast"):
        figures.adaptation_curve([0.2, 0.5, 0.6], [0.01, 0.02], "t", 5)
