"""`metalab train`: build the objects, call the loop, return the best validation accuracy. Hydra's config ends here."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from metalab import checkpoint, loop, provenance, resume, toll
from metalab.allocator import keep_freed_memory
from metalab.any_way import check_any_way
from metalab.assemble import at_way, by_way, image_shape, network, normalisation, pretrained, refuse_larger, taken
from metalab.byproduct import byproduct
from metalab.data import identity
from metalab.disk import written
from metalab.engines.learn2learn import TaskLearner, task
from metalab.errors import UserError
from metalab.fits import check_drops, differentiated
from metalab.hold import held
from metalab.interfaces import Algorithm, Learner
from metalab.log import Log
from metalab.measure import measure, outcomes
from metalab.models.layers import BatchStatNorm, Centre, estimate_running
from metalab.models.start import start
from metalab.objectives.curve import Curve
from metalab.objectives.judge import PREDICTIONS, cross_entropy
from metalab.optim import Outer
from metalab.recipe import Recipe, recipe
from metalab.report import mean_ci95
from metalab.sampling import Source, prefetched
from metalab.settle import settle
from metalab.show import show
from metalab.signals import warnings_survived
from metalab.training_task import told

logger = logging.getLogger("metalab")
RUNNING_IMAGES = 1000  # training images the running statistics are estimated on before each validation


def run(cfg: DictConfig, out: Path) -> float:
    """Train as cfg says in the folder out and return the best validation accuracy, a fraction."""
    settle(cfg)
    if cfg.resume is None:
        resume.refuse_used(out)  # before the folder is touched
    with held(out), warnings_survived():
        return _run(cfg, out)


def _run(cfg: DictConfig, out: Path) -> float:
    """Train in a folder that no other process writes."""
    resume.refuse_folders(out)
    saved = resume.accepted(cfg, out) if cfg.resume is not None else None
    if saved is None:
        resume.refuse_used(out)  # another process may have ended meanwhile
    r = recipe(cfg, None if saved is None else saved.get("engine"))
    keep_freed_memory(r.device.type)
    t = r.train
    plan = loop.Plan(t.steps, t.minutes, t.val_every, t.log_every, t.monitor, t.patience, t.on_warning)
    state = loop.State() if saved is None else loop.State(**saved["state"]).to(r.device)
    over = loop.ended(plan, state)
    if over is not None:
        logger.info(f"{out} has ended: {over}. Nothing is done; to go on, raise that limit as well as resume=")
        return state.best_accuracy or 0.0
    episodes, val = r.training("train", r.meta_batch), r.validation()
    episodes = prefetched(episodes, r.data["train"].images, r.train.workers, r.device)
    net, outer, classes = _begin(cfg, r, saved)
    validate = _validation(r, net, val)
    if warning := _toll(r, net, plan):
        logger.warning(warning)
    validate(2)  # what cannot be tested fails here, before any training
    save = _saving(cfg, r, net, outer, classes, out)
    _record(cfg, r, net, state, out)
    if saved is not None:
        checkpoint.set_random_state(saved["random"])
    with Log(out, plan.steps, state.step) as log:
        _introduce(cfg, r, net, log, state.step)
        try:
            look = partial(validate, r.train.val_episodes)
            with differentiated():
                loop.fit(net, r.objective(), r.stepping, episodes, outer, look, save, log, plan, state)
        finally:
            provenance.write(out, seconds=round(state.seconds, 1), steps=state.step)
        if r.rate.needs_steps and state.step < plan.steps:
            left = r.rate.at(state.step, plan.steps)
            log.say(f"optim.schedule={r.rate.schedule} was cut short, at {left:.3g} of optim.lr")
        inner = r.terms.inner(r.at_test.loss)
        provenance.write(out, finished=provenance.now())
        curve = by_way(r.task, r.tested, lambda algo, way: Curve(algo, r.at_test.steps, inner, PREDICTIONS[r.bn]))
        with byproduct("the pictures of the run"):
            show(net, r.engine, curve, val, r.bn, log, state.step, out)
    return state.best_accuracy or 0.0


def _begin(cfg: DictConfig, r: Recipe, saved: dict[str, Any] | None) -> tuple[nn.Module, Outer, set[str]]:
    """Return the net and its optimiser, new, warm-started or as saved, and the ids of all that it learns from."""
    torch.manual_seed(cfg.seed)
    train, classes = r.data["train"], identity.marks(r.data["train"])
    drop = r.terms.drop or nn.Sequential()
    if saved is not None:
        refuse_larger(cfg.backbone, r.trained, drop, image_shape(train), saved["net"])
    net = network(cfg.backbone, r.trained, drop, normalisation(train.images), image_shape(train)[1])
    check_drops(net, r.how)
    if saved is None and r.train.weights is not None:
        start(net, r.train.weights, cfg.backbone.get("weights"))
    if saved is None:
        known = pretrained(cfg.backbone, net)
        resume.refuse_known(r.data["val"], known, f"backbone.weights={cfg.backbone.get('weights')}")
        classes |= known
    if saved is None and r.train.init is not None:
        known, held = resume.warm_start(net, r.train.init)
        if not train.by_image or held["val"] != fingerprint(r)["val"]:  # else its classes are the same, its images not
            resume.refuse_known(r.data["val"], known, f"train.init={r.train.init}")
        classes |= known
    net.to(r.device)
    if not list(net.parameters()):
        raise UserError(f"algo={r.how.name} with this backbone has nothing to learn; type another, as backbone=conv4")
    parts = [own for part in net.children() if (own := list(part.parameters()))]
    outer = Outer(r.optimiser.build(list(net.parameters())), r.rate, r.clip, r.train.steps, parts)
    if saved is not None:
        resume.restore(saved, resume.checkpoint_in(Path(cfg.resume)), net, outer.optimiser, r.optimiser.build)
        resume.refuse_other_data(saved["data"], fingerprint(r))
        classes |= set(saved["classes"])
    return net, outer, classes


def _saving(
    cfg: DictConfig, r: Recipe, net: nn.Module, outer: Outer, classes: set[str], out: Path
) -> Callable[[str, loop.State], None]:
    """Return what writes NAME.pt, from which alone the run can go on or be evaluated."""

    def save(name: str, state: loop.State) -> None:
        if not out.is_dir():
            logger.warning(
                f"{out} was moved or deleted while the run writes into it: it is made anew, with all that this step "
                "saves; the curves up to here are where it was moved to"
            )
            _record(cfg, r, net, state, out)
        content = {
            "net": net.state_dict(),
            "optimiser": outer.optimiser.state_dict(),
            "state": state.saved(),
            "random": checkpoint.random_state(),
            "classes": sorted(classes),
            "engine": taken(r.engine),
            "config": OmegaConf.to_container(cfg, resolve=True),
            "train_way": r.task.train_way,
            "labels": r.data["train"].ids if r.data["train"].by_image else [],
            "shape": list(r.data["train"].images.shape[1:]),
            "data": {"note": r.data["train"].note, **fingerprint(r)},
            "versions": {name: str(version) for name, version in provenance.versions().items()},
        }
        checkpoint.save(out / f"{name}.pt", content)

    return save


def fingerprint(r: Recipe) -> dict[str, str]:
    """Return a hash of which images of which classes each split holds."""
    return {name: identity.fingerprint(split) for name, split in r.data.items()}


def _toll(r: Recipe, net: nn.Module, plan: loop.Plan) -> str | None:
    """Return what a training will take where its numbers are very large, else None; train.minutes may end it before."""
    t, episode = r.task, r.meta_batch * (1 + r.how.steps)
    look = r.train.val_episodes * (1 + r.at_test.steps)
    made_of = {"train.steps": plan.steps, "algo.steps": r.how.steps, "algo.test_steps": r.at_test.steps}
    images = r.how.mini_batch or (t.train_way or t.way) * ((t.train_shot or t.shot) + (t.train_query or t.query))
    passes = plan.steps * episode + max(1, plan.steps // plan.val_every) * look
    return toll.told(net, images, image_shape(r.data["train"]), passes, 24 * toll.HOUR, made_of)


def _validation(r: Recipe, net: nn.Module, val: Source) -> Callable[[int], dict[str, float]]:
    """Return what estimates the running statistics and measures the first so many validation episodes."""
    training = r.training("running", tasks=1)
    images = sum(part.y.shape[1] for part in training(0))
    passes: list[Callable[[], object]] = [
        partial(_forward, net, r.trained, training, i) for i in range(max(1, RUNNING_IMAGES // images))
    ]
    test, engine = r.measured(), r.measuring
    if not r.task.fixed:
        check_any_way(r, net)

    def validate(count: int) -> dict[str, float]:
        net.eval()
        estimate_running(net, passes)
        accuracies, losses = measure(outcomes(engine, test, net, val, count, r.bn), count)
        accuracy, ci95 = mean_ci95(accuracies)
        return {"accuracy": accuracy, "ci95": ci95, "loss": float(losses.mean())}

    return validate


def _forward(net: nn.Module, algorithm: Algorithm, source: Source, step: int) -> None:
    """Pass one training episode's support, if it has one, then its query, through the net's norms, as training does."""
    support, query = task(source(step), 0)
    behind = [m for name, part in net.named_children() if name != "body" for m in part.modules()]
    if any(isinstance(m, BatchStatNorm | Centre) for m in behind):
        first = support if len(support.y) else query  # a mini-batch: its features count, not its classes
        learner, here = cast(Learner, TaskLearner(net, False)), at_way(algorithm, int(first.y.max()) + 1)
        model, *_ = here.adapt(learner, first, cross_entropy, 0)
        model(query.x)
        return
    if len(support.y):
        net("features", support.x)
    net("features", query.x)


def _record(cfg: DictConfig, r: Recipe, net: nn.Module, state: loop.State, out: Path) -> None:
    """Write config.yaml and run.json: what is trained, and what trains it."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.clear(out)
    with written(out / "config.yaml"):
        OmegaConf.save(cfg, out / "config.yaml", resolve=True)
    made = provenance.describe(sum(p.numel() for p in net.parameters()), r.device)
    provenance.write(out, **(made if cfg.resume is None else {"resumes": [made | {"step": state.step}]}))


def _introduce(cfg: DictConfig, r: Recipe, net: nn.Module, log: Log, step: int) -> None:
    """Say what is about to be trained; write the configuration as text and hyper-parameters."""
    data = r.data["train"]
    sizes = told(r.task, r.how.mini_batch, r.train.val_episodes if data.by_image else None)
    log.say(
        f"{r.how.name} on {r.device}: {len(data.ids)} training classes, {len(r.data['val'].ids)} for validation; "
        f"{sizes}; {r.meta_batch} {'episodes' if r.how.mini_batch is None else 'mini-batches'} a meta-step, "
        f"bn={r.train.bn or 'batch'}, at validation {r.bn}; "
        f"{sum(p.numel() for p in net.parameters()):,} parameters"
    )
    if data.note:
        log.say(data.note)
    log.text("config", f"```yaml\n{OmegaConf.to_yaml(cfg, resolve=True)}```", step)
    values = resume.flat(resume.plain(cfg)).items()
    log.hparams({k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in values}, {}, 0)
