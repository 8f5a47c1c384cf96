"""MANN beside a plain torch loop: torch's own LSTM cell, and a memory that is written and read head by head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.memory_based.mann import MANN
from metalab.engines.learn2learn import TaskLearner
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.models.pixels import Pixels

WAY, PRESENTATIONS, SIDE = 5, 10, 6
HIDDEN, SLOTS, WIDTH, READS, DECAY = 20, 12, 8, 4, 0.95  # fewer rows than are written: some are taken again


def plain_mann(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The answers [N,K] to one sequence (Santoro et al. 2016, sec. 3), one image, one head, one row after another."""
    mine = dict(net.named_parameters())
    behind = mine["controller.state.weight"]  # what was read is an input of the cell, as the image and the label are
    cell = nn.LSTMCell(x[0].numel() + WAY + READS * WIDTH, HIDDEN).double()
    weights = {
        "weight_ih": torch.cat([mine["controller.given.weight"], behind[:, HIDDEN:]], 1),
        "weight_hh": behind[:, :HIDDEN],
        "bias_ih": mine["controller.given.bias"],
        "bias_hh": mine["controller.state.bias"],
    }
    h, c, read = x.new_zeros(1, HIDDEN), x.new_zeros(1, HIDDEN), x.new_zeros(1, READS * WIDTH)
    rows = [torch.full((WIDTH,), 1e-6, dtype=x.dtype) for _ in range(SLOTS)]
    last = [x.new_zeros(SLOTS) for _ in range(READS)]  # where each head read
    usage, label, answers = [1e-4 * slot for slot in range(SLOTS)], x.new_zeros(1, WAY), []
    for image, own in zip(x, y, strict=True):
        given = torch.cat([image.view(1, -1), label, read], 1)
        h, c = torch.func.functional_call(cell, weights, (given, (h, c)))
        asked = F.linear(h, mine["heads.weight"], mine["heads.bias"]).view(READS, 2 * WIDTH + 1)
        least = sorted(range(SLOTS), key=lambda slot: torch.as_tensor(usage[slot]).item())[:READS]
        rows[least[0]] = torch.zeros(WIDTH, dtype=x.dtype)
        used = [x.new_zeros(()) for _ in range(SLOTS)]
        for head in range(READS):
            content, gate = asked[head, WIDTH:-1].tanh(), asked[head, -1].sigmoid()
            for slot in range(SLOTS):
                share = gate * last[head][slot] + (1 - gate) * (slot == least[head])
                rows[slot] = rows[slot] + share * content
                used[slot] = used[slot] + share
        for head in range(READS):
            key = asked[head, :WIDTH].tanh()
            alike = torch.stack([F.cosine_similarity(key, row, 0, 1e-30) for row in rows])
            last[head] = alike.exp() / alike.exp().sum()
        usage = [DECAY * usage[s] + sum(last[head][s] for head in range(READS)) + used[s] for s in range(SLOTS)]
        read = torch.cat([last[head] @ torch.stack(rows) for head in range(READS)])[None]
        answers.append(F.linear(torch.cat([h, read], 1), mine["head.weight"], mine["head.bias"]))
        label = F.one_hot(own, WAY)[None].to(x.dtype)
    return torch.cat(answers)


def test_fifty_steps_and_their_gradients_are_a_plain_loops():
    torch.manual_seed(0)
    algorithm = MANN(WAY, HIDDEN, SLOTS, WIDTH, READS, DECAY, 1.0, False)
    parts = algorithm.parts(nn.ReLU(), SIDE**2)
    net = Net(Normalize([0.0], [1.0]), Pixels(SIDE).build(1, SIDE), nn.Sequential(), parts).double()
    with torch.no_grad():  # keys, contents and gates that differ
        net.get_parameter("heads.weight").mul_(4)
    x = torch.rand(WAY * PRESENTATIONS, 1, SIDE, SIDE, dtype=torch.float64)
    y = torch.arange(WAY).repeat(PRESENTATIONS)[torch.randperm(WAY * PRESENTATIONS)]
    plain, ours = plain_mann(net, x, y), algorithm.answers(TaskLearner(net, True), x, y)  # type: ignore[arg-type]
    assert torch.allclose(ours, plain, atol=1e-10)
    names = [n for n, p in net.named_parameters()]
    expected = torch.autograd.grad(F.cross_entropy(plain, y), list(net.parameters()))
    found = torch.autograd.grad(F.cross_entropy(ours, y), list(net.parameters()))
    for name, a, b in zip(names, found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10), name
        assert b.abs().max() > 1e-6, name
