"""What a regularizer would do nothing for, or harm, is refused by name; what its order in the list does: nothing."""

import re

import pytest
import torch
from omegaconf import OmegaConf

from metalab.algorithms.build import build_algorithm
from metalab.algorithms.components.inner_loop import NO_WEIGHTS, weights
from metalab.algorithms.gradient_based.boil import BOIL
from metalab.algorithms.metric_based.covamnet import CovaMNet
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.regularizers.build import build_regularizers
from metalab.regularizers.input_noise import Noise
from metalab.regularizers.mixup import Mixup
from metalab.regularizers.output_penalties import Entropy, LabelSmoothing
from metalab.regularizers.weight_penalties import half_square
from metalab.training import train
from tests.algorithms.made import WAY, episodes, net_of
from tests.configs import training_setup
from tests.regularizers.made import fgsm, found


def built(small, algo: str, *words: str):
    cfg = small(f"algo={algo}", *words)
    return build_regularizers(cfg.reg, 1, build_algorithm(cfg.algo, 5, test=False)[0])


@pytest.mark.parametrize(
    ("algo", "words", "message"),
    [
        ("relation", ["reg=label_smoothing"], "reg.label_smoothing changes the terms of a cross-entropy, and algo."),
        (
            "maml",
            [
                "reg=label_smoothing",
                "reg.label_smoothing.weight=0",
                "reg.label_smoothing.inner=0.5",
                "algo.episode_loss=metalab.algorithms.objectives.binary_cross_entropy",
            ],
            "reg.label_smoothing changes the terms of a cross-entropy, and algo.",
        ),
        (
            "reptile",
            ["reg=noise"],
            "reg.noise.on=query: this algorithm trains on the images of the support alone",
        ),
        ("mann", ["reg=noise"], "reg.noise.on=query: this algorithm trains on the images of the support alone"),
        (
            "baseline",
            ["reg=noise", "reg.noise.on=support"],
            "reg.noise.on=support: this algorithm trains on the",
        ),
        *(
            ("mann", ["reg=adv_pgd", f"reg.adv_pgd.on={on}"], "trains on the images of the support alone: type reg.adv")
            for on in ("both", "crossed")
        ),
        (
            "imaml",
            ["reg=adv_pgd", "reg.adv_pgd.on=support", "reg.adv_pgd.where=inner"],
            "reg.adv_pgd.random_start=true draws another start at each look at the inner problem",
        ),
        ("maml", ["reg=[adv_pgd,adv_fgsm]"], "the second would attack what the first one made of the images; take one"),
    ],
)
def test_what_does_nothing_or_harm_is_refused(algo, words, message, small):
    with pytest.raises(UserError, match=re.escape(message)):
        built(small, algo, *words)


@pytest.mark.parametrize(
    ("algo", "words"),
    [
        ("maml", ["reg=[label_smoothing,noise]"]),
        ("siamese", ["reg=noise"]),
        ("autoencoder", ["reg=noise"]),
        ("mann", ["reg=noise", "reg.noise.on=support"]),
        ("mann", ["reg=adv_pgd", "reg.adv_pgd.on=support"]),
        (
            "imaml",
            ["reg=adv_pgd", "reg.adv_pgd.on=support", "reg.adv_pgd.where=inner", "reg.adv_pgd.random_start=false"],
        ),
        ("maml", ["reg=adv_pgd", "reg.adv_pgd.on=support", "reg.adv_pgd.where=inner"]),
        ("baseline", ["reg=noise", "reg.noise.on=both"]),
    ],
)
def test_what_does_something_is_not(algo, words, small):
    built(small, algo, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("zero", "under a zero head no image has a gradient"),
        ("random", "the head is drawn anew for the attack and for"),
    ],
)
def test_a_head_that_tells_a_support_attack_nothing_is_refused(head, why, small):
    words = ("algo=maml", f"algo.head_init={head}", "reg=adv_fgsm")
    for on in ("support", "both", "crossed"):
        with pytest.raises(UserError, match=why):
            training_setup(small(*words, f"reg.adv_fgsm.on={on}"))
    training_setup(small(*words, "reg.adv_fgsm.on=query"))


@pytest.mark.parametrize("drops", ["reg=dropout", "reg=dropblock", "backbone=resnet12"])
def test_an_implicit_gradient_wants_the_same_inner_problem_at_each_look(drops, small, tmp_path):
    cfg = small("algo=imaml", *([drops] if drops.startswith("reg") else []))
    if drops == "backbone=resnet12":
        cfg.backbone = OmegaConf.load(conf_dir() / "backbone" / "resnet12.yaml")
    with pytest.raises(UserError, match=r"^algo=imaml solves equations with the Hessian .*dropout in the net \("):
        train.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sequence_has_no_queries_to_normalize_by_its_support(small, tmp_path):
    with pytest.raises(UserError, match=r"^train\.bn=support: a sequence has no queries"):
        train.run(small("algo=mann", "train.bn=support"), tmp_path)
    with pytest.raises(UserError, match=r"algo=boil with algo\.head_init=zero"):
        BOIL(5, 0.1, False, "zero")


def test_covamnet_wants_a_map_in_one_shot():
    support, algorithm = task(episodes(), 0).support, CovaMNet(WAY)
    learner = TaskLearner(net_of(algorithm), False)  # its map has one position
    one = support._replace(x=support.x[:WAY], y=support.y[:WAY])
    with pytest.raises(UserError, match=r"of one descriptor a class there is no covariance; type backbone="):
        list(algorithm.adapt(learner, one, cross_entropy, 0))  # type: ignore[arg-type]
    [model] = algorithm.adapt(learner, support, cross_entropy, 0)  # type: ignore[arg-type]
    assert model(support.x).isfinite().all()


def test_a_net_without_anything_to_learn_is_told(small, tmp_path):
    cfg = small("algo=protonet", "train.steps=1")
    cfg.backbone = OmegaConf.load(conf_dir() / "backbone" / "pixels.yaml")
    with pytest.raises(UserError, match=r"algo=protonet with this backbone has nothing to learn"):
        train.run(cfg, tmp_path)


@pytest.mark.parametrize("case", ["maml", "protonet"])
def test_the_order_of_the_list_changes_nothing(case):
    smooth, attack = LabelSmoothing(0.2, 0.0), fgsm("query")
    one, two = (found(Learn2Learn(), case, list(parts)) for parts in ((smooth, attack), (attack, smooth)))
    alone = found(Learn2Learn(), case, [attack])
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(one[1][n], two[1][n]) for n in one[1])
    assert (one[0] - alone[0]).abs().max() > 1e-6
    for parts in ([Mixup(1.0), attack, Entropy(0.1)], [Noise(9.0, "sign", "query"), attack]):
        torch.manual_seed(0)
        first = found(Learn2Learn(), case, list(parts))[0]
        torch.manual_seed(0)
        assert torch.equal(first, found(Learn2Learn(), case, list(reversed(parts)))[0])


def test_l2_is_over_all_weights_and_no_learned_rate():
    names = ["body.0.weight", "head.bias", "relation.net.0", "controller.state.weight", "heads.bias", "alike.weight"]
    others = ["rates.body/0", "curvature.x", "ridge.log_lam", "svm.scale", "sharpness.log", "memory.rows"]
    others += ["reg_loss.margin", "reg_regressor.weight"]
    assert {n[:4] if n.startswith("reg_") else n.partition(".")[0] + "." for n in others} == set(NO_WEIGHTS)
    assert weights([*names, *others]) == names
    values = {name: torch.full((2,), float(i + 1)) for i, name in enumerate([*names, *others])}
    assert half_square(values).item() == sum((i + 1) ** 2 for i in range(6))
    with pytest.raises(UserError, match=r"work on a net's weights, and this net has none"):
        half_square({"svm.scale": torch.ones(())})


PAPERS = {  # what each paper's training attack is, by the fields that would make it another
    "aq": ("adv_pgd", {"eps": 8, "steps": 7, "step": 2, "random_start": True, "on": "query", "how": "replace"}),
    "adml": ("adv_fgsm", {"eps": 8, "step": None, "random_start": False, "on": "crossed", "how": "replace"}),
    "rmaml": (
        "adv_fgsm",
        {"eps": 2, "step": None, "random_start": True, "on": "query", "how": "add", "weight": 0.2, "where": "outer"},
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_an_experiment_trains_on_its_papers_attack(name, small):
    option, fields = PAPERS[name]
    reg = small(f"experiment={name}").reg
    assert set(reg) == {option} | ({"augment"} if name == "aq" else set())
    assert {key: reg[option][key] for key in fields} == fields
