"""Train by metalab and by a plain torch loop on the same Omniglot episodes, with one ingredient changed at a time.

python scripts/plain_loops.py --root DATA/omniglot --seeds 0,1,2 --jobs 8 --out loops.json
python scripts/plain_loops.py --root DATA/omniglot plain metalab plain:init=metalab metalab:init=torch,normalize=none
python scripts/plain_loops.py --root DATA/omniglot --method maml --steps 100

A variant is a side, plain or metalab, with the ingredients (OWN, below) in which it differs from the side's own;
without any named, all of one change each are trained. The plain loops know no engine, net, norm or objective of
metalab's, only its images, its episodes and the settings of experiment=omniglot_protonet or omniglot_maml. Both sides
start from the same weights where init is the same, and are tested by the same lines on the same test episodes.
"""

import argparse
import copy
import json
import logging
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from metalab.config.experiment import read_config
from metalab.config.instantiate import build
from metalab.config.paths import conf_dir
from metalab.core.statistics import mean_ci95
from metalab.data.datasets.drawings import omniglot
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation.setup import load_net
from metalab.models.layers import BatchStatNorm, Normalize, running_statistics
from metalab.models.weight_init import RULES
from metalab.tracking import checkpoint
from metalab.training import train
from metalab.training.setup import on_device

OWN = {
    # weights: torch, metalab (Xavier) or he; metalab: mean 0 and deviation 1, none: pixels in [0, 1]; support and query
    # through the net together or apart; statistics of the test: ema or estimate; weights that are tested: last or best
    "plain": {"init": "torch", "normalize": "none", "passes": "together", "running": "ema", "select": "last"},
    "metalab": {"init": "torch", "normalize": "metalab", "passes": "apart", "running": "estimate", "select": "best"},
}
OF_MAML = {"init": "metalab"}  # in metalab's, whose experiment=omniglot_maml starts so, and omniglot_protonet as torch
BOTH = {"resize": "box", "eps": "1e-5", "affine": "yes"}  # a filter of Pillow's; of batch norm
FIXED = {"plain": {"select"}, "metalab": {"passes", "eps", "affine"}}  # what a side cannot change


def own(side: str, method: str) -> dict[str, str]:
    """Return the ingredients of a side as it is."""
    return OWN[side] | (OF_MAML if (side, method) == ("metalab", "maml") else {})


def variants(method: str) -> list[str]:
    """Return both sides as they are, with one ingredient changed, and with all of the other's that they can have."""
    named = []
    for side, other in (("plain", "metalab"), ("metalab", "plain")):
        keys = [k for k in OWN[side] if k not in FIXED[side] and (method == "protonet" or k in ("init", "normalize"))]
        there = own(other, method)
        changes = [f"{key}={there[key]}" for key in keys if there[key] != own(side, method)[key]]
        more = ["init=he", *(["resize=bicubic", "init=metalab"] if method == "protonet" else [])]
        named += [side, *(f"{side}:{change}" for change in [*changes, *more, ",".join(changes)])]
    return named


def ingredients(variant: str, method: str = "protonet") -> tuple[str, dict[str, str]]:
    """Return the side of a variant and all its ingredients; SystemExit where there is no such."""
    side, _, changes = variant.partition(":")
    changed = {change.partition("=")[0]: change.partition("=")[2] for change in changes.split(",") if change}
    if side not in OWN or not changed.keys() <= (OWN[side].keys() | BOTH.keys()) - FIXED[side]:
        raise SystemExit(
            f"plain_loops: {variant}: expected {' or '.join(OWN)}, then :key=value,key=value of OWN or BOTH"
        )
    return side, BOTH | own(side, method) | changed


def started(layer: Any, init: str) -> Any:
    """Return a convolution or linear layer with its weights as init says; torch: as they were made."""
    if init != "torch":
        (nn.init.xavier_uniform_ if init == "metalab" else RULES[init])(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


class Standardise(nn.Module):
    """Make pixels of mean 0 and deviation 1, by some of the training images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.std, self.mean = (t.item() for t in torch.std_mean(images[:: len(images) // 2000].float() / 255))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def plain_net(how: dict[str, str], filters: int, way: int | None, images: Tensor) -> nn.Sequential:
    """Return four blocks of filters, max-pooled; given a way, MAML's: strided, averaged, and a linear head."""
    layers: list[nn.Module] = [Standardise(images)] if how["normalize"] == "metalab" else []
    for i in range(4):
        conv = nn.Conv2d(filters if i else 1, filters, 3, stride=2 if way else 1, padding=1)
        norm = nn.BatchNorm2d(filters, float(how["eps"]), affine=how["affine"] == "yes", track_running_stats=not way)
        layers += [started(conv, how["init"]), norm, nn.ReLU(), nn.Identity() if way else nn.MaxPool2d(2)]
    if way:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), started(nn.Linear(filters, way), how["init"])]
    return nn.Sequential(*layers, nn.Flatten()).to(images.device)


def logits(support: Tensor, y: Tensor, query: Tensor, way: int) -> Tensor:
    """Return minus the squared distances of query features [N,D] to the mean of each class's support features [M,D]."""
    means = F.one_hot(y, way).T.to(support.dtype) @ support * way / len(y)
    return -(query[:, None] - means).square().sum(2)


def protonet_loss(net: nn.Module, how: dict[str, str], cfg: Any, episodes: Any) -> Tensor:
    """Return the loss of a meta-batch of one episode (Snell et al. 2017, algorithm 1)."""
    (xs, ys, _), (xq, yq, _) = episodes
    if how["passes"] == "together":
        support, query = net(torch.cat([xs[0], xq[0]])).split([xs.shape[1], xq.shape[1]])
    else:
        support, query = net(xs[0]), net(xq[0])
    return F.cross_entropy(logits(support, ys[0], query, cfg.task.train_way), yq[0])


Params = dict[str, Tensor]


def descended(call: Callable, params: Params, x: Tensor, y: Tensor, lr: float, steps: int) -> Params:
    """Return the parameters after steps of gradient descent (Finn et al. 2017, eq. 1), with their graph."""
    for _ in range(steps):
        grads = torch.autograd.grad(F.cross_entropy(call(params, x), y), list(params.values()), create_graph=True)
        params = {n: p - lr * g for (n, p), g in zip(params.items(), grads, strict=True)}
    return params


def maml_loss(net: nn.Module, how: dict[str, str], cfg: Any, episodes: Any) -> Tensor:
    """Return the mean loss of a meta-batch, batch norm by the batch; its gradient is left in the net."""
    (xs, ys, _), (xq, yq, _) = episodes
    params: Params = dict(net.named_parameters())
    call, total = partial(functional_call, net), torch.zeros((), device=xs.device)
    for t in range(len(ys)):
        adapted = descended(call, params, xs[t], ys[t], cfg.algo.lr, cfg.algo.steps)
        loss = F.cross_entropy(call(adapted, xq[t]), yq[t]) / len(ys)
        loss.backward(inputs=list(params.values()))
        total += loss.detach()
    return total


def train_plain(how: dict[str, str], cfg: Any, splits: Any, device: torch.device) -> tuple[nn.Module, list[float]]:
    """Train by a plain loop; return the net and the loss of each step."""
    way, task, maml = cfg.task.way, cfg.task, cfg.algo.name == "maml"
    sizes = (task.train_way or way, task.train_shot or task.shot, task.train_query or task.query)
    draw = EpisodeSampler(splits["train"], *sizes, cfg.train.meta_batch or 1, cfg.seed, "train", device)
    torch.manual_seed(cfg.seed)
    net = plain_net(how, cfg.backbone.filters, way if maml else None, splits["train"].images).to(device)
    adam, losses = torch.optim.Adam(net.parameters(), lr=cfg.optim.lr), []
    for step in range(cfg.train.steps):
        adam.zero_grad()
        loss = (maml_loss if maml else protonet_loss)(net, how, cfg, draw(step))
        if not maml:
            loss.backward()
        adam.step()
        losses.append(loss.detach())
    if how["running"] == "estimate" and not maml:  # the mean over some training episodes, passed as in training
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        draw = EpisodeSampler(splits["train"], *sizes, 1, cfg.seed, "running", device)
        with torch.no_grad():
            for step in range(max(1, 1000 // (sizes[0] * (sizes[1] + sizes[2])))):
                protonet_loss(net, how, cfg, draw(step))
    return net, torch.stack(losses).tolist()


def changed(how: dict[str, str], seed: int, make: Callable, *given: Any) -> nn.Module:
    """Return metalab's net with other weights, or with running averages as torch's batch norm keeps them."""
    net = make(*given)
    if how["init"] == "torch":
        torch.manual_seed(seed)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()

    def follow(own: BatchStatNorm, module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training and torch.is_grad_enabled():
            var, mean = torch.var_mean(inputs[0].detach(), (0, 2, 3))
            own.running_mean.lerp_(mean, 0.1)
            own.running_var.lerp_(var, 0.1)

    for norm in [m for m in net.modules() if isinstance(m, BatchStatNorm) and how["running"] == "ema"]:
        norm.register_forward_pre_hook(partial(follow, norm))
    return net


def train_metalab(how: dict[str, str], cfg: Any) -> tuple[nn.Module, list[float]]:
    """Train as `metalab train` does, but for what the variant changes; return the net and the losses it has logged."""
    cfg.train.weights = how["init"] if how["init"] in ("he", "orthogonal") else None
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        stack.enter_context(patch.object(train, "build_net", partial(changed, how, cfg.seed, train.build_net)))
        if how["normalize"] == "none":
            stack.enter_context(patch.object(train, "normalization", lambda images: Normalize([0.0], [1.0])))
        if how["running"] == "ema":
            stack.enter_context(patch.object(train, "estimate_running", lambda net, passes: None))
        train.run(cfg, Path(out))
        lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
        config = read_config(cfg)
        backbone = build(config.backbone, "backbone")
        net = load_net(config, backbone, checkpoint.load(Path(out) / f"{how['select']}.pt"))
    return net, [line["train/loss"] for line in lines if "train/loss" in line]


@torch.no_grad()
def tested(net: nn.Module, side: str, cfg: Any, split: Any, device: torch.device, count: int) -> dict[str, Any]:
    """Return accuracy and 95 % interval on the first test episodes, in percent, for each batch-norm mode."""
    task, results = cfg.task, {}
    draw = EpisodeSampler(split, task.way, task.shot, task.query, 1, 0, "test", device)
    call = (
        partial(functional_call, net)
        if side == "plain"
        else lambda params, x: functional_call(net, params, ("logits", x))
    )
    for mode in ("batch",) if cfg.algo.name == "maml" else ("running", "batch"):
        own = copy.deepcopy(net).train(mode == "batch")
        features = own if side == "plain" else lambda x, own=own: own("features", x).flatten(1)
        accuracy = []
        with running_statistics() if mode == "running" else nullcontext():
            for step in range(count):
                (xs, ys, _), (xq, yq, _) = draw(step)
                if cfg.algo.name == "maml":
                    with torch.enable_grad():
                        params: Params = dict(net.named_parameters())
                        params = descended(call, params, xs[0], ys[0], cfg.algo.lr, cfg.algo.test_steps)
                    scores = call(params, xq[0])
                else:
                    scores = logits(features(xs[0]), ys[0], features(xq[0]), task.way)
                accuracy.append((scores.argmax(1) == yq[0]).double().mean())
        results[mode] = [100 * value for value in mean_ci95(torch.stack(accuracy).cpu().numpy())]
    return results


def resized(name: str, make: Callable, raw: bytes, size: int, where: Path) -> tuple[np.ndarray, str]:
    """Return an image of Omniglot as `make` does, made smaller by another filter."""
    image, image_id = make(raw, 105, where)
    return np.asarray(Image.fromarray(image[0]).resize((size, size), Image.Resampling[name.upper()]))[None], image_id


def quiet(threads: int) -> None:
    """Let a process say nothing of its trainings, and take so many threads."""
    logging.disable(logging.INFO)
    torch.set_num_threads(threads)


def job(variant: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and test one variant with one seed."""
    began, (side, how) = time.perf_counter(), ingredients(variant, given.method)
    words = [f"experiment=omniglot_{given.method}", f"data.root={given.root}", f"seed={seed}"]
    if given.method == "maml":  # the plain loop adapts all of its net, as most do, from a head that starts as its body
        words += ["algo.adapt_norm=true", "algo.head_std=null", "algo.lr=0.4"]
    words += [f"train.steps={given.steps}", f"device={given.device}", *given.set]
    words += [f"data.cache={tempfile.gettempdir()}/omniglot-{how['resize']}"] * (how["resize"] != "box")
    words += ["engine=learn2learn"] * (how["running"] == "ema")  # whose batches the hooks see as they are
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("train", words + ["train.val_episodes=4"] * given.smoke)
    device = torch.device(given.device)
    with ExitStack() as stack:
        if how["resize"] != "box":
            stack.enter_context(patch.object(omniglot, "inked", partial(resized, how["resize"], omniglot.inked)))
        source = build(cfg.data, "data")
        splits = {name: on_device(source.load(name), device) for name in ("train", "test")}
        net, losses = train_plain(how, cfg, splits, device) if side == "plain" else train_metalab(how, cfg)
    results = tested(net.to(device), side, cfg, splits["test"], device, given.episodes)
    seconds = round(time.perf_counter() - began, 1)
    return {"variant": variant, "seed": seed, **how, "results": results, "losses": losses, "seconds": seconds}


def tried(*given: Any) -> dict[str, Any]:
    """Do a job; what goes wrong comes back as text, since not every exception crosses from one process to another."""
    try:
        return job(*given)
    except Exception:
        raise RuntimeError(traceback.format_exc()) from None


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each variant: its mean over seeds and their standard deviation, in each mode."""
    lines = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        own, text = [row["results"] for row in rows if row["variant"] == name], []
        for mode in own[0]:
            values = [result[mode][0] for result in own]
            text.append(f"{mode} {np.mean(values):6.2f} (sd {np.std(values, ddof=1) if len(values) > 1 else 0:.2f})")
        lines.append(f"{name:64} {len(own)} seeds  {'  '.join(text)}")
    return lines


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help="plain, metalab, plain:init=metalab ...; none: one change each")
    parser.add_argument("--root", required=True, help="the folder with Omniglot's zips")
    parser.add_argument("--method", choices=("protonet", "maml"), default="protonet")
    parser.add_argument("--seeds", default="0,1,2", help="numbers with commas between")
    parser.add_argument("--steps", type=int, default=600, help="meta-steps of each training")
    parser.add_argument("--episodes", type=int, default=600, help="test episodes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each on the processor")
    parser.add_argument("--set", action="append", default=[], help="a setting of the experiment; may be repeated")
    parser.add_argument("--out", type=Path, help="a json file of all results")
    parser.add_argument("--smoke", action="store_true", help="a few steps and episodes: does it run?")
    given = parser.parse_args(argv)
    if given.smoke:
        given.steps, given.episodes, given.seeds = 2, 3, "0"
    return given


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Train all variants with all seeds and print, and write, what they have reached."""
    given, rows = arguments(argv), []
    todo = [(v, int(s)) for s in given.seeds.split(",") for v in given.variants or variants(given.method)]
    for variant, _ in todo:
        ingredients(variant)
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), quiet, (given.threads,)) as pool:
        for running in as_completed([pool.submit(tried, variant, seed, given) for variant, seed in todo]):
            if running.exception():
                print("failed:", running.exception(), flush=True)
                continue
            rows.append(row := running.result())
            text = "  ".join(f"{mode} {mean:.2f} +- {ci:.2f} %" for mode, (mean, ci) in row["results"].items())
            print(f"{row['variant']:64} seed {row['seed']}  {text}  {row['seconds']:.0f} s", flush=True)
            if given.out:
                given.out.write_text(json.dumps({"settings": vars(given) | {"out": str(given.out)}, "rows": rows}))
    print(*summary(sorted(rows, key=lambda row: todo.index((row["variant"], row["seed"])))), sep="\n")
    return rows


if __name__ == "__main__":
    main()
