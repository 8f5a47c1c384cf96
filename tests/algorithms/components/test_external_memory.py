"""MANN's memory by hand."""

import torch

from metalab.algorithms.components.external_memory import State, memory_step, start_state


def row(*values):
    return torch.tensor([[list(values)]], dtype=torch.float64)


def test_the_memory_by_hand():
    """Two rows of two numbers, one head, two steps; every number below is worked out on paper."""
    start = State(
        torch.zeros(1, 1),
        torch.zeros(1, 1),
        torch.tensor([[[3.0, 4.0], [0.0, 2.0]]], dtype=torch.float64),
        row(1.0, 0.0),
        torch.tensor([[0.5, 1.0]], dtype=torch.float64),
        torch.zeros(1, 2),
    )
    # Row 0 is least used: it is zeroed. The gate 0.75 writes 0.75 where the head read (row 0) and 0.25 to the least
    # used (row 0, too): row 0 becomes the content (1, 0), row 1 stays (0, 2).
    state = memory_step(start, row(0.0, 1.0), row(1.0, 0.0), row(0.75), 0.95, 1.0)
    assert torch.allclose(state.rows, torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]).double())
    # The key (0, 1) has cosine 0 with row 0 and 1 with row 1; read after the writing: softmax(0, 1).
    e = torch.e
    assert torch.allclose(state.weights, row(1 / (1 + e), e / (1 + e)))
    assert torch.allclose(state.read, torch.tensor([[1 / (1 + e), 2 * e / (1 + e)]]).double())
    # usage = 0.95 usage + what was read + what was written
    usage = torch.tensor([[0.475 + 1 / (1 + e) + 1, 0.95 + e / (1 + e)]]).double()
    assert torch.allclose(state.usage, usage)
    # Now row 1 is least used (1.681 against 1.744): it is zeroed, and gets half of the content and half of what the
    # head's last weights say; row 0 gets its half of those.
    again = memory_step(state, row(1.0, 0.0), row(0.0, 4.0), row(0.5), 0.95, 1.0)
    w0, w1 = 1 / (1 + e), e / (1 + e)
    assert torch.allclose(again.rows, torch.tensor([[[1.0, 2 * w0], [0.0, 2 * w1 + 2]]]).double())


def test_the_least_used_row_is_that_of_the_step_before_and_heads_take_different_rows():
    rows = torch.ones(4, 2).double()
    state = start_state(rows, 1, 2)._replace(usage=torch.tensor([[0.3, 0.1, 0.9, 0.2]]).double())
    contents = torch.tensor([[[5.0, 0.0], [0.0, 7.0]]]).double()
    after = memory_step(state, contents, contents, torch.zeros(1, 2, 1).double(), 0.95, 1.0)
    expected = torch.tensor([[[1.0, 1.0], [5.0, 0.0], [1.0, 1.0], [1.0, 8.0]]]).double()  # only row 1 was zeroed
    assert torch.allclose(after.rows, expected)


def test_fresh_rows_are_taken_one_after_another():
    state = start_state(torch.full((5, 2), 1e-6).double(), 1, 1)
    for step in range(4):
        content = row(1.0 + step, 1.0)
        state = memory_step(state, content, content, row(0.0), 0.95, 1.0)
    assert torch.allclose(state.rows[0, :4, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
