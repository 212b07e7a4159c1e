"""The networks for `scenes` and `scenes-2`: shapes, and independence of how a batch is cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlbench.models.scenes_net import ScenesNet, ScenesNet2

both = pytest.mark.parametrize("network", [ScenesNet, ScenesNet2])


@both
def test_images_become_non_negative_maps_of_64_channels_and_8_by_8(network):
    torch.manual_seed(0)
    maps = network()(torch.randn(3, 3, 64, 64))
    assert maps.shape == (3, network().out_channels, 8, 8)
    assert (maps >= 0).all()
    assert (maps > 0).any()


@both
def test_maps_of_a_picture_do_not_depend_on_the_rest_of_its_batch(network):
    torch.manual_seed(0)
    net = network().double().train()  # in single precision the order of a sum depends on the batch
    images = torch.randn(6, 3, 64, 64, dtype=torch.float64)
    together = net(images)
    apart = torch.cat([net(images[:1]), net(images[1:])])
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-10)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


@both
def test_train_and_eval_mode_agree(network):
    torch.manual_seed(0)
    net = network()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net.train()(images), net.eval()(images), rtol=0, atol=0)


def test_same_seed_gives_the_same_weights_and_every_weight_gets_a_gradient():
    torch.manual_seed(3)
    first = ScenesNet()
    torch.manual_seed(3)
    second = ScenesNet()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    first(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in first.parameters())


@pytest.mark.parametrize("seeds", [(0, 1), (5, 5)])
def test_second_network_starts_from_one_set_of_weights_and_leaves_the_generator_alone(seeds):
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        made.append(ScenesNet2())
        drawn = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(3))
    for a, b in zip(*(network.parameters() for network in made), strict=True):
        assert torch.equal(a, b)
    made[0](torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made[0].parameters())


@both
def test_channels_last_gives_the_same_maps(network):
    torch.manual_seed(0)
    net = network()
    images = torch.randn(2, 3, 64, 64)
    plain = net(images)
    fast = net.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-4)
