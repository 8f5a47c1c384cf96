"""Compare all methods that need no training with the nearest mean, on the stored features of one frozen backbone.

python scripts/frozen_table.py --root DATA --weights mobilenet_v2-b0353104.pth
python scripts/frozen_table.py --root DATA --size 518 --net "backbone=timm backbone.weights=default
    backbone.name=vit_small_patch14_dinov2.lvd142m"

The tables of docs/results.md and docs/how-to/transductive.md: on the same episodes of each row, the accuracy, its
difference to that of algo=simpleshot with a 95 % interval of the paired differences, and the seconds without those for
the features, which are computed once for a data set and kept.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from metalab.config.experiment import read_config
from metalab.config.paths import conf_dir
from metalab.core.statistics import mean_ci95
from metalab.evaluation.measure import measure
from metalab.evaluation.objectives import measured_objective
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup

DATA = {
    "cifarfs": ("data=cifarfs", "data.size=64"),
    "miniimagenet": ("data=miniimagenet", "data.size=84", "eval.allow_overlap=true"),  # classes of ImageNet
    "pacs": ("data=pacs", "data.protocol=classes", "data.size=72"),
    "mnist": ("data=mnist", "data.size=64"),
}
FOLDER = {"pacs": "pacs", "cifarfs": "cifar100", "miniimagenet": "miniimagenet", "mnist": "mnist"}  # below --root
METHODS = {
    "simpleshot": ("algo=simpleshot",),
    "simpleshot, median": ("algo=simpleshot", "algo.prototype=median"),
    "protonet": ("algo=protonet",),
    "matching": ("algo=matching",),
    "meta_baseline": ("algo=meta_baseline",),
    "linear_probe": ("algo=linear_probe",),
    "cosine_probe": ("algo=cosine_probe",),
    "feature_extraction": ("algo=feature_extraction",),
    "baselinepp": ("algo=baselinepp",),
    "finetune, head": ("algo=finetune", "algo.layers=0", "algo.head_init=prototype"),
    "r2d2": ("algo=r2d2",),
    "bdcspn": ("algo=bdcspn",),
    "laplacianshot": ("algo=laplacianshot",),
    "soft_kmeans": ("algo=soft_kmeans",),
    "ptmap": ("algo=ptmap",),
    "tim, adm": ("algo=tim", "algo.solver=adm"),
    "tim, gd": ("algo=tim",),
    "alpha_tim": ("algo=alpha_tim",),
}
ADAM = ("algo=finetune", "algo.head_init=prototype", "algo.inner=adam", "algo.test_steps=20")
TUNED = {  # for each task the body learns, too, on the images: minutes for a hundred episodes; asked for by --methods
    "finetune, all": (*ADAM, "algo.lr=0.0001"),
    "finetune, LoRA": (*ADAM, "algo.lr=0.001", "backbone.lora=4"),
    "pmf": ("algo=pmf", "algo.test_steps=20"),
}


def setup(given: argparse.Namespace, *words: str) -> EvaluationSetup:
    """Return the evaluation of a pretrained backbone with these words."""
    net = ("backbone=torchvision", "backbone.name=mobilenet_v2", "backbone.classes=imagenet")
    net = given.net.split() if given.net else [*net, f"backbone.weights={given.weights.absolute()}"]
    few = (
        f"eval.episodes={given.episodes}",
        "eval.embed=true",
        f"engine={given.engine}",
        "device=cpu",
        f"seed={given.seed}",
    )
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("eval", ["run=null", *net, *few, *words])
    return build_evaluation_setup(None, read_config(cfg))


def accuracies(t: EvaluationSetup) -> np.ndarray:
    """Return the accuracy of each episode."""
    objective = measured_objective(t.algo, t.test_algorithm, t.bn, t.task.way, t.terms)
    return measure(t.outcomes(objective, t.source(t.task), "episodes"), t.evaluation.episodes)[0]


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder of pacs/, cifar100/, ...")
    parser.add_argument("--weights", type=Path, help="torchvision's file of MobileNetV2, IMAGENET1K_V1")
    parser.add_argument("--net", help="another backbone in its place, as it is typed behind metalab eval run=null")
    parser.add_argument("--size", type=int, help="data.size of all data sets; 64 to 84, as the data set has it")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--shot", nargs="+", type=int, default=[1, 5])
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS | TUNED,
        default=list(METHODS),
        help="simpleshot is always there; by default all that leave the backbone as it is",
    )
    parser.add_argument("--balance", choices=["null", "dirichlet"], default="null", help="task.query_balance")
    parser.add_argument("--engine", choices=["auto", "learn2learn", "vectorized"], default="auto")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if (given.weights is None) == (given.net is None):
        parser.error("expected --weights FILE or --net WORDS")
    print("| data | shot | queries | method | accuracy | less the nearest mean's | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for data in given.data:
        where = (*DATA[data], f"data.root={given.root / FOLDER[data]}")
        where += (f"data.size={given.size}",) if given.size else ()
        for shot in given.shot:
            words = (*where, f"task.shot={shot}", f"task.query_balance={given.balance}")
            plain = np.zeros(0)
            for method in ["simpleshot", *(m for m in given.methods if m != "simpleshot")]:
                t = setup(given, *words, *(METHODS | TUNED)[method])
                began = time.monotonic()
                found = accuracies(t)
                seconds = time.monotonic() - began
                plain = found if method == "simpleshot" else plain
                (mean, half), (more, apart) = mean_ci95(found), mean_ci95(found - plain)
                gain = "" if method == "simpleshot" else f"{100 * more:+.1f} ± {100 * apart:.1f}"
                uneven = "15 of each" if given.balance == "null" else "dirichlet"
                cells = (data, shot, uneven, method, f"{100 * mean:.1f} ± {100 * half:.1f} %", gain, f"{seconds:.0f}")
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
