"""Trainings that read target images: on both engines, off at weight 0, resumed, evaluated and served."""

import json
import re
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from metalab.config.experiment import read_config
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import evaluate
from metalab.models.layers import estimate_running
from metalab.serving.loading import load_run
from metalab.training import train
from metalab.training.warm_start import warm_start
from tests.configs import training_setup
from tests.engines.test_parity import SMALL, episodes, gradient, net_of
from tests.training.test_resume import assert_same_run

BATCHES = ("algo=baseline", "algo.mini_batch=6", "task.train_way=null")
EPISODES = ("task.train_way=3", "task.way=3", "task.query=2", "task.train_shot=2")
CASES = {
    "baseline": BATCHES,
    "protonet": (*EPISODES, "algo=protonet"),
    "maml": (*EPISODES, "algo=maml", "algo.steps=1"),
}
ALIGN, PREDICT = ("mmd", "coral", "dann"), ("entropy_target", "pseudo_labels")
PAIRS = [(case, name) for case in CASES for name in ALIGN] + [("baseline", name) for name in PREDICT]
CONV = SMALL["conv4"]
ALL_OF_THEM = {"pseudo_labels": ("reg.pseudo_labels.threshold=0",)}  # a net that knows nothing is sure of nothing


def recipe(small, case: str, *names: str, words: tuple[str, ...] = ()):
    more = [word for name in names for word in ALL_OF_THEM.get(name, ())]
    return training_setup(small(*CASES[case], f"reg=[{','.join(names)}]", *more, *words))


@pytest.mark.parametrize("joint", ["false", "true"])
@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_the_two_engines_agree_and_it_does_something(case, name, joint, small):
    r = recipe(small, case, name, words=(f"reg.{name}.joint={joint}",))
    batch = episodes(r, 2)
    assert batch.query.unlabelled.shape == batch.query.x.shape
    (a, slow), (b, fast) = (gradient(e, r, net_of(r, CONV, 16), batch, 0.5) for e in (Learn2Learn(), Vectorized(None)))
    assert (a.loss - b.loss).abs().max() < 1e-9
    assert set(slow) == set(fast)
    assert max((slow[n] - fast[n]).abs().max() for n in slow) < 1e-9
    without = training_setup(small(*CASES[case]))
    plain, old = gradient(Vectorized(None), without, net_of(without, CONV, 16), batch, 0.5)
    assert (plain.loss - b.loss).abs().max() > 1e-5
    assert any((old[n] - fast[n]).abs().max() > 1e-6 for n in old if n.startswith("body."))
    assert set(fast) - set(old) == {n for n in fast if n.startswith("reg_domain.")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALIGN, *PREDICT])
def test_at_weight_0_the_weights_are_those_without_it_to_the_last_bit(name, small):
    found = {}
    for words in ((), (f"reg={name}", f"reg.{name}.weight=0"), (f"reg={name}", *ALL_OF_THEM.get(name, ()))):
        r = training_setup(small(*BATCHES, *words))
        net = net_of(r, CONV, 16).float()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            Vectorized(None).grad(r.objective(), net, r.training("train", 1)(step), torch.full((), 0.3 + step / 10))
            optimizer.step()
        found[words] = net.state_dict()
    plain, off, on = found.values()
    assert plain.keys() == off.keys() == {k for k in on if not k.startswith("reg_")}
    assert all(torch.equal(plain[k], off[k]) for k in plain)
    assert any(not torch.equal(plain[k], on[k]) for k in plain)


@pytest.mark.parametrize("joint", ["false", "true"])
def test_running_statistics_are_of_what_was_normalized_together(joint, small):
    r = recipe(small, "baseline", "coral", words=(f"reg.coral.joint={joint}",))
    net, source = net_of(r, CONV, 16).float(), r.training("running", 1)
    estimate_running(net, [partial(train._forward, net, r.train_algorithm, source, 0, r.terms.joint)])
    query = task(source(0), 0).query
    x = torch.cat([query.x, query.unlabelled]) if joint == "true" else query.x
    convolved = net.body.get_submodule("0.0")(net.normalize(x))
    torch.testing.assert_close(net.body.get_buffer("0.1.running_mean"), convolved.mean((0, 2, 3)))


@pytest.mark.parametrize("names", [("mmd",), ("mmd", "coral", "dann", "entropy_target")])
def test_a_classifier_passes_each_image_once(names, small):
    r = recipe(small, "baseline", *names)
    net, passed = net_of(r, CONV, 16), []
    net.body.register_forward_hook(lambda module, inputs, out: passed.append(len(inputs[0])))
    r.objective()(TaskLearner(net, True), task(episodes(r, 1), 0), torch.full((), 0.5).double())  # type: ignore[arg-type]
    assert passed == [6, 6]


def test_what_is_aligned_is_added_once_beside_a_training_attack(small):
    """how=add sums two objectives, the clean and the attacked one, and the target's images are of neither."""
    attack = ("reg.adv_fgsm.on=support", "reg.adv_fgsm.how=add", "reg.adv_fgsm.weight=3")
    losses = {}
    for names, words in ((("adv_fgsm",), attack), (("adv_fgsm", "mmd"), attack), (("mmd",), ()), ((), ())):
        r = recipe(small, "protonet", *names, words=words)
        losses[names] = gradient(Learn2Learn(), r, net_of(r, CONV, 16), _batch(small), 0.5)[0].loss
    attacked, both, alone, plain = (losses[k] for k in (("adv_fgsm",), ("adv_fgsm", "mmd"), ("mmd",), ()))
    torch.testing.assert_close(both - attacked, alone - plain)
    assert (alone - plain).abs().min() > 1e-6


def _batch(small):
    return episodes(recipe(small, "protonet", "mmd"), 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*BATCHES, "reg=dann", "data.target=0"),
            "reg.dann learns from unlabelled images of a target domain, and this",
        ),
        (
            ("algo=protonet", "reg=entropy_target"),
            "reg.entropy_target makes predictions on target images sure, and algo",
        ),
        (
            ("algo=maml", "reg=pseudo_labels"),
            "reg.pseudo_labels makes predictions on target images sure, and algo=maml",
        ),
        (("algo=autoencoder", "task.train_way=null", "reg=entropy_target"), "algo=autoencoder trains no classifier"),
        (("algo=imaml", "reg=mixstyle"), "reg.mixstyle draws anew in each pass, and algo=imaml solves"),
        (
            ("algo=protonet", "task=variable", "task.train_way=null", "reg=mmd"),
            "draws target images beside episodes of",
        ),
    ],
)
def test_what_cannot_be_is_refused(words, message, small):
    with pytest.raises(UserError, match=re.escape(message)):
        training_setup(small(*words))


def test_a_body_that_does_not_learn_cannot_be_aligned(small, tmp_path):
    cfg = small(*BATCHES, "reg=coral")
    cfg.backbone = OmegaConf.load(conf_dir() / "backbone" / "pixels.yaml")
    with pytest.raises(UserError, match=r"reg\.coral changes the features that the body learns, and nothing of this"):
        train.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


FEW = ("train.val_every=4", "train.val_episodes=2", "eval.episodes=2")
WORDS = (*BATCHES, *FEW, "reg=[dann,mixstyle]", "reg.dann.hidden=5", "engine=doomed")


@pytest.fixture(scope="module")
def dann_run(small, tmp_path_factory) -> Path:
    """A training of 4 steps with reg=[dann,mixstyle]."""
    out = tmp_path_factory.mktemp("dann") / "run"
    train.run(small(*WORDS), out)
    return out


@pytest.mark.slow
def test_a_run_with_a_domain_classifier_is_resumed_to_the_last_bit(small, dann_run, tmp_path, monkeypatch):
    import tiny_parts  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(tiny_parts, "steps", iter(range(1, 10**6)))
    monkeypatch.setenv("TINY_SIGNAL", f"{int(signal.SIGTERM)}@3")
    with pytest.raises(SystemExit):
        train.run(small(*WORDS), tmp_path / "cut")
    monkeypatch.setenv("TINY_SIGNAL", "0@0")
    train.run(small(*WORDS, f"resume={tmp_path / 'cut'}"), tmp_path / "cut")
    assert_same_run(tmp_path / "cut", dann_run)


def test_it_is_evaluated_and_served_without_the_classifier_and_without_mixing(small, dann_run, tmp_path):
    cfg = small(*WORDS, "data.absent=''")
    evaluate.run([(dann_run, cfg)], tmp_path / "eval")
    assert 0 <= json.loads((tmp_path / "eval" / "eval.json").read_text())["accuracy"] <= 1
    loaded = load_run(dann_run, read_config(cfg), 10)
    names = [name for name, _ in loaded.adaptation.net.named_children()]
    assert names == ["normalize", "body", "drop", "head"]
    assert not any(module._forward_hooks for module in loaded.adaptation.net.modules())
    saved = torch.load(dann_run / "best.pt", weights_only=True)["net"]
    assert saved["reg_domain.0.weight"].shape == (5, 4)
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(loaded.adaptation.net("features", x), loaded.adaptation.net("features", x))


def test_a_new_training_starts_from_it_without_the_classifier(small, dann_run):
    r = training_setup(small(*BATCHES))
    net = net_of(r, CONV, 16).float()
    warm_start(net, str(dann_run))
    saved = torch.load(dann_run / "best.pt", weights_only=True)["net"]
    assert all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())
