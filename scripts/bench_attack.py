"""What adversarial meta-training costs against the arithmetic it needs: python scripts/bench_attack.py.

Needed: a meta-step without the attack, and for each of the attack's steps one forward and backward pass of the queries
through the adapted model. Measured in turn in one process: operations by torch's counter, and milliseconds, for the
meta-step with PGD on the queries (AQ, Goldblum et al. 2020) by each engine.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import cast

import torch
from bench_cases import ALGORITHMS, Case, episodes
from bench_meters import amount, clocked
from torch import Tensor, nn

from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.attacks.pgd import PGD
from metalab.core.allocator import keep_freed_memory
from metalab.core.interfaces import Engine, Learner, Objective
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.regularizers.adversarial import attacked_loss

CASE = Case(tasks=4, way=5, shot=1, query=15, channels=1, size=28, steps=1, filters=64)
SMOKE = Case(tasks=2, way=2, shot=1, query=2, channels=1, size=16, steps=1, filters=4)


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Print a row an algorithm and engine; return what each costs, in operations and in time, against what it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=7, help="of PGD")
    parser.add_argument("--smoke", action="store_true", help="tiny and once: does it run?")
    given = parser.parse_args(argv)
    device, case = torch.device(given.device), SMOKE if given.smoke else CASE
    keep_freed_memory(device.type)
    costs = {}
    print("| method | engine | ms natural | ms attacked | ms needed | time / needed | operations / needed |")
    for algo in ("maml", "protonet"):
        for name, engine in {"learn2learn": Learn2Learn(), "vectorized": Vectorized(None)}.items():
            natural, attacked, climb = contestants(case, algo, engine, given.steps, device)
            runs = [natural, attacked, climb]
            times = [[clocked(run, device) for run in runs] for _ in range(1 if given.smoke else given.repeats + 1)]
            plain, whole, passes = (statistics.median(t) for t in zip(*times[-given.repeats :], strict=True))
            counts = [amount(run)[0] for run in runs]
            costs[f"{algo} {name}"] = (counts[1] / (counts[0] + counts[2]), whole / (plain + passes))
            shares = f"{costs[f'{algo} {name}'][1]:.2f} | {costs[f'{algo} {name}'][0]:.2f}"
            print(f"| {algo} | {name} | {plain:.0f} | {whole:.0f} | {plain + passes:.0f} | {shares} |", flush=True)
    return costs


def contestants(case: Case, algo: str, engine: Engine, steps: int, device: torch.device) -> list[Callable[[], Tensor]]:
    """Return a meta-step without and one with the attack, and the passes alone that the attack is made of."""
    torch.manual_seed(0)
    algorithm = ALGORITHMS[algo](case.way)
    body = Conv4(case.filters, 4, False, False).build(case.channels, case.size)
    parts = algorithm.parts(body, case.filters * (case.size // 16) ** 2)
    net = Net(Normalize([0.0], [1.0]), body, nn.Sequential(), parts).to(device)
    batch, attack = episodes(case, device), PGD(51 / 255, "linf", steps, None, True, 1, "cross_entropy")

    def by(objective: Objective) -> Callable[[], Tensor]:
        def run() -> Tensor:
            net.zero_grad()
            return engine.grad(objective, net, batch, torch.zeros((), device=device)).loss.mean()

        return run

    fixed = TaskLearner(net, False).replace({n: p.detach() for n, p in net.named_parameters()})
    tasks = [task(batch, t) for t in range(case.tasks)]
    with torch.no_grad():
        adapted = [list(algorithm.adapt(cast(Learner, fixed), t.support, cross_entropy, case.steps))[-1] for t in tasks]

    def climb() -> Tensor:
        loss = batch.query.x.new_zeros(())
        for model, one in zip(adapted, tasks, strict=True):
            for _ in range(steps):
                x = one.query.x.clone().requires_grad_()
                loss = cross_entropy(model, one.query._replace(x=x))
                torch.autograd.grad(loss, x)
        return loss.detach()

    outer = attacked_loss(cross_entropy, attack, "replace", 1.0)
    plain, robust = (
        QueryLoss(algorithm, case.steps, cross_entropy, loss, predict_transductive) for loss in (cross_entropy, outer)
    )
    return [by(plain), by(robust), climb]


if __name__ == "__main__":
    main()
