"""`metalab train`: build the objects, call the loop, return the best validation accuracy. Hydra's config ends here."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from metalab import checkpoint, loop, provenance, resume
from metalab.assemble import (
    Method,
    device,
    image_shape,
    method,
    network,
    normalisation,
    objective,
    parts_of,
    regularisation,
    test_objective,
)
from metalab.config import Eval, Task, Train, build, settings
from metalab.data.episodes import Episodes
from metalab.evaluate import measure
from metalab.interfaces import Algorithm, Engine, Split
from metalab.log import Log
from metalab.models.layers import estimate_running
from metalab.objectives import cross_entropy
from metalab.optim import Clip, Outer, Rate
from metalab.regularisers import Penalised, Terms
from metalab.report import mean_ci95
from metalab.show import show

logger = logging.getLogger("metalab")
RUNNING_IMAGES = 1000  # training images the running statistics are estimated on before each validation


@dataclass
class Run:
    """Everything a training run is made of, checked and built."""

    task: Task  # with the training sizes resolved
    train: Train
    eval: Eval
    how: Method
    trained: Algorithm
    tested: Algorithm
    test_steps: int
    bn: str  # of validation
    terms: Terms
    engine: Engine
    outer: Any  # what cfg.optim names
    rate: Rate
    clip: Clip
    data: dict[str, Split]
    device: torch.device


def run(cfg: DictConfig, out: Path) -> float:
    """Train as cfg says in the folder out and return the best validation accuracy, a fraction."""
    began = time.time()
    saved = resume.accepted(cfg, out) if cfg.resume is not None else None
    r = assembled(cfg)
    torch.manual_seed(cfg.seed)
    normalise = normalisation(r.data["train"].images)
    net = network(cfg.backbone, r.trained, r.terms.drop or nn.Sequential(), normalise, image_shape(r.data["train"])[1])
    classes = set(r.data["train"].ids)
    state = loop.State()
    if saved is None and r.train.init is not None:
        classes |= resume.warm_start(net, r.train.init)
    net.to(r.device)
    outer = Outer(r.outer.build(list(net.parameters())), r.rate, r.clip, r.train.steps)
    if saved is not None:
        net.load_state_dict(saved["net"])
        outer.optimiser.load_state_dict(saved["optimiser"])
        state = loop.State(**saved["state"])
        state.window = [row.to(r.device) for row in state.window]
        classes |= set(saved["classes"])
        checkpoint.set_random_state(saved["random"])
    _validate(r, net, cfg.seed, episodes=2)()  # what cannot be tested fails here, before any training

    def save(name: str, state: loop.State) -> None:
        content = {
            "net": net.state_dict(),
            "optimiser": outer.optimiser.state_dict(),
            "state": state.saved(),
            "random": checkpoint.random_state(),
            "classes": sorted(classes),
            "config": OmegaConf.to_container(cfg, resolve=True),
            "train_way": r.task.train_way,
            "shape": list(r.data["train"].images.shape[1:]),
            "data": {"note": r.data["train"].note},
            "versions": {name: str(version) for name, version in provenance.versions().items()},
        }
        checkpoint.save(out / f"{name}.pt", content)

    out.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, out / "config.yaml", resolve=True)
    made = provenance.describe(sum(p.numel() for p in net.parameters()), r.device)
    provenance.write(out, **(made if saved is None else {"resumes": [made | {"step": state.step}]}))
    with Log(out, r.train.steps, state.step) as log:
        _introduce(r, net, cfg, log)
        state = loop.fit(
            net,
            _training_objective(r),
            r.engine,
            _source(r, "train", cfg.seed),
            outer,
            _validate(r, net, cfg.seed),
            save,
            log,
            _plan(r.train),
            state,
        )
        _picture(r, net, cfg.seed, state, log, out)
    provenance.write(out, finished=provenance.now(), seconds=round(time.time() - began, 1), steps=state.step)
    return state.best_accuracy or 0.0


def assembled(cfg: DictConfig) -> Run:
    """Check every name, type and size of cfg and build what needs no net; UserError before any work is done."""
    task, train = settings(Task, cfg.task, "task"), settings(Train, cfg.train, "train")
    evaluation = settings(Eval, cfg.eval, "eval")
    where = device(cfg.device)
    rate, clip, rest = parts_of(cfg.optim, Rate, Clip)
    outer = build(rest, "optim")
    engine = build(cfg.engine, "engine")
    how, _ = method(cfg.algo, task.way, test=False)
    source = build(cfg.data, "data")
    data = {name: source.load(name) for name in ("train", "val")}
    task = resolved(task, how, len(data["train"].ids))
    how, trained = method(cfg.algo, task.train_way or task.way, test=False)
    at_test, tested = method(cfg.algo, task.way, test=True)
    return Run(
        task=task,
        train=train,
        eval=evaluation,
        how=how,
        trained=trained,
        tested=tested,
        test_steps=at_test.steps,
        bn=evaluation.bn or how.bn,
        terms=regularisation(cfg.reg, how.steps),
        engine=engine,
        outer=outer,
        rate=settings(Rate, rate, "optim"),
        clip=settings(Clip, clip, "optim"),
        data=data,
        device=where,
    )


def resolved(task: Task, how: Method, classes: int) -> Task:
    """Fill in the training sizes: the user's, else what the algorithm recommends, else those of the test."""
    way = task.train_way or min(how.train_way or task.way, classes)
    if task.train_way is None and how.train_way is not None and way < how.train_way:
        note = f"algo.train_way={how.train_way} is more than the {classes} training classes: all of them are used"
        logger.info(note)
    return Task(
        task.way,
        task.shot,
        task.query,
        way,
        task.train_shot or how.train_shot or task.shot,
        task.train_query or how.train_query or task.query,
    )


def _training_objective(r: Run) -> Any:
    inner, outer = r.terms.inner(cross_entropy), r.terms.outer(cross_entropy)
    plain = objective(r.how.objective, r.trained, r.how.steps, inner, outer, r.train.bn or "batch")
    return Penalised(plain, r.terms.penalty)


def _source(r: Run, stream: str, seed: int, tasks: int | None = None) -> Episodes:
    t = r.task
    tasks = tasks or r.train.meta_batch or r.how.meta_batch
    way, shot, query = t.train_way or t.way, t.train_shot or t.shot, t.train_query or t.query
    return Episodes(r.data["train"], way, shot, query, tasks, seed, stream, r.device)


def _validate(r: Run, net: nn.Module, seed: int, episodes: int | None = None) -> Callable[[], dict[str, float]]:
    """Return what estimates the running statistics and measures a fixed set of validation episodes."""
    t, count = r.task, episodes or r.train.val_episodes
    source = Episodes(r.data["val"], t.way, t.shot, t.query, min(r.eval.batch, count), seed, "val", r.device)
    training = _source(r, "running", seed, tasks=1)
    images = (t.train_way or t.way) * ((t.train_shot or t.shot) + (t.train_query or t.query))
    passes = [lambda i=i: _forward(net, training, i) for i in range(max(1, RUNNING_IMAGES // images))]
    test = test_objective(r.tested, r.test_steps, r.bn)

    def validate() -> dict[str, float]:
        net.eval()
        estimate_running(net, passes)
        accuracies, losses = measure(r.engine, test, net, source, count, r.bn)
        accuracy, ci95 = mean_ci95(accuracies)
        return {"accuracy": accuracy, "ci95": ci95, "loss": float(losses.mean())}

    return validate


def _forward(net: nn.Module, source: Episodes, step: int) -> Tensor:
    """Pass one training episode's support, then its query, through the body, as training does."""
    support, query = source(step)
    net("features", support.x[0])
    return net("features", query.x[0])


def _plan(train: Train) -> loop.Plan:
    return loop.Plan(train.steps, train.minutes, train.val_every, train.log_every, train.monitor, train.patience)


def _introduce(r: Run, net: nn.Module, cfg: DictConfig, log: Log) -> None:
    """Say what is about to be trained; write the configuration as text and hyper-parameters."""
    t, data = r.task, r.data["train"]
    log.say(
        f"{r.how.name} on {r.device}: {len(data.ids)} training classes, {len(r.data['val'].ids)} for validation; "
        f"trains {t.train_way}-way {t.train_shot}-shot with {t.train_query} queries, "
        f"tests {t.way}-way {t.shot}-shot with {t.query}; "
        f"{r.train.meta_batch or r.how.meta_batch} episodes a meta-step, "
        f"bn={r.train.bn or 'batch'}, at validation {r.bn}; "
        f"{sum(p.numel() for p in net.parameters()):,} parameters"
    )
    if data.note:
        log.say(data.note)
    log.text("config", f"```yaml\n{OmegaConf.to_yaml(cfg, resolve=True)}```")
    plain = OmegaConf.to_container(cfg, resolve=True)
    scalars = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in resume.flat(plain).items()}  # type: ignore[arg-type]
    log.hparams(scalars, {}, 0)


def _picture(r: Run, net: nn.Module, seed: int, state: loop.State, log: Log, out: Path) -> None:
    t = r.task
    source = Episodes(r.data["val"], t.way, t.shot, t.query, r.eval.batch, seed, "val", r.device)
    show(net, r.engine, r.tested, r.test_steps, source, t.way, r.bn, log, state.step, out)
