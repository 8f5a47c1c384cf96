import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalab.models.layers import BatchStatNorm, Normalize, convert, running_statistics, support_statistics


@pytest.fixture
def norm() -> BatchStatNorm:
    torch.manual_seed(0)
    layer = BatchStatNorm(3).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def test_the_first_images_give_the_statistics_and_the_others_do_not_matter(norm):
    x = torch.randn(9, 3, 4, 4, dtype=torch.float64)
    other = torch.cat([x[:4], x[4:5], torch.randn(4, 3, 4, 4, dtype=torch.float64)])
    alone = norm(x[:4])
    with support_statistics(4):
        assert (norm(x)[:4] - alone).abs().max() < 1e-12
        assert torch.equal(norm(x)[4], norm(other)[4])
    assert not torch.allclose(norm(x)[4], norm(other)[4])


def test_running_statistics_are_those_of_the_buffers(norm):
    x = torch.randn(9, 3, 4, 4, dtype=torch.float64)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False)
    with running_statistics():
        assert (norm(x) - expected).abs().max() < 1e-12


def test_a_forward_never_changes_a_buffer(norm):
    before = {n: b.clone() for n, b in norm.named_buffers()}
    norm(torch.randn(5, 3, 2, 2, dtype=torch.float64))
    assert all(torch.equal(before[n], b) for n, b in norm.named_buffers())


def test_convert_replaces_every_batch_norm_and_keeps_its_weights():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)))
    x = torch.rand(6, 1, 3, 3)
    nn.init.normal_(net[1].weight)  # type: ignore[arg-type]
    expected = net(x)
    converted = convert(net)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in converted.modules())
    assert (converted(x) - expected).abs().max() < 1e-5


def test_normalize_is_per_channel():
    x = torch.full((2, 2, 1, 1), 0.5)
    assert Normalize([0.5, 0.25], [1.0, 0.5])(x)[0].flatten().tolist() == [0.0, 0.5]
