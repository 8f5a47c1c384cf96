"""What is kept and what is forgotten, of matrices that are worked by hand."""

import pytest

from metalab.evaluation.transfer.forgetting import so_far, summarize

HAND = [[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 1.0]]  # row: after which phase, column: on whose data


def test_a_matrix_by_hand():
    found = summarize(HAND)
    assert found.average == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert found.backward_transfer == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)


def test_the_best_since_a_phase_was_trained_counts_and_not_the_accuracy_right_after_it():
    found = summarize([[0.5, 0.9, 0.0], [0.8, 0.4, 0.0], [0.6, 0.3, 0.9]])
    assert found.backward_transfer == pytest.approx(((0.6 - 0.5) + (0.3 - 0.4)) / 2)
    assert found.forgetting == pytest.approx(((0.8 - 0.6) + (0.4 - 0.3)) / 2)  # 0.9 was before phase 1


def test_rows_so_far_and_what_is_not_measured():
    first = summarize([[0.9, None, None]])
    assert first == (0.9, None, None)
    second = summarize([[0.9, None, None], [None, 0.8, 0.5]])
    assert second == (0.8, None, None)
    third = summarize([[0.9, None, None], [0.7, 0.8, None], [None, 0.9, 0.5]])
    assert third.average == pytest.approx(0.7)
    assert third.backward_transfer == pytest.approx(0.1)
    assert third.forgetting == pytest.approx(-0.1)


def test_all_classes_count_by_their_images():
    assert so_far([0.5, 1.0], [30, 10]) == pytest.approx((15 + 10) / 40)
    assert so_far([0.5, None], [30]) is None
