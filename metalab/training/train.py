"""`metalab train`: build the objects, call the loop, return the best validation accuracy. Hydra's config ends here."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from metalab.algorithms.objectives.build import at_way, by_way
from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.algorithms.training_task import describe_task
from metalab.config.experiment import ExperimentConfig, read_config
from metalab.config.instantiate import flat
from metalab.core.allocator import keep_freed_memory
from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Learner, Objective
from metalab.core.optional_output import optional_output
from metalab.core.signals import warnings_survived
from metalab.core.statistics import mean_ci95
from metalab.data.identity import class_ids
from metalab.data.sampling.build import Source, prefetched
from metalab.engines.buffers import learnable
from metalab.engines.build import engine_config
from metalab.engines.learn2learn import TaskLearner, task
from metalab.evaluation.adaptation_curve import AdaptationCurve
from metalab.evaluation.measure import measure, outcomes
from metalab.models.build import build_net, image_shape, load_pretrained, normalization, refuse_larger, weights_note
from metalab.models.layers import BatchStatNorm, FeatureCentering, estimate_running
from metalab.models.weight_init import initialize_weights
from metalab.tracking import checkpoint, provenance, time_estimate
from metalab.tracking.run_folder import checkpoint_in, refuse_existing_run, refuse_folders
from metalab.tracking.run_lock import locked_run
from metalab.tracking.run_logger import Log
from metalab.tracking.training_state import State
from metalab.training import loop, resume
from metalab.training.compatibility import check_drops, differentiated
from metalab.training.final_figures import save_final_figures
from metalab.training.optimizers import MetaOptimizer
from metalab.training.setup import TrainingSetup, build_training_setup
from metalab.training.variable_way import check_supports_variable_way
from metalab.training.warm_start import refuse_leaked_validation, warm_start

logger = logging.getLogger("metalab")
RUNNING_IMAGES = 1000  # training images the running statistics are estimated on before each validation


def run(cfg: DictConfig, out: Path) -> float:
    """Train as cfg says in the folder out and return the best validation accuracy, a fraction; of folds their mean."""
    config = read_config(cfg)
    if config.eval.folds is not None:
        from metalab.training import cross_validation  # which trains each fold by this function

        return cross_validation.run(cfg, config, out)
    if config.resume is None:
        refuse_existing_run(out)  # before the folder is touched
    with locked_run(out), warnings_survived():
        return _run(config, out)


def _run(config: ExperimentConfig, out: Path) -> float:
    """Train in a folder that no other process writes."""
    refuse_folders(out)
    saved = resume.load_resumable(config, out) if config.resume is not None else None
    if saved is None:
        refuse_existing_run(out)  # another process may have ended meanwhile
    r = build_training_setup(config, None if saved is None else saved.get("engine"))
    config = r.config
    keep_freed_memory(r.device.type)
    t = r.train
    plan = loop.Plan(t.steps, t.minutes, t.val_every, t.log_every, t.monitor, t.patience, t.on_warning)
    state = State() if saved is None else State(**saved["state"]).to(r.device)
    over = loop.stop_reason(plan, state)
    if over is not None:
        logger.info(f"{out} has ended: {over}. Nothing is done; to go on, raise that limit as well as resume=")
        return state.best_accuracy or 0.0
    episodes, val = r.training("train", r.meta_batch), r.validation()
    episodes = prefetched(episodes, r.data["train"].images, r.train.workers, r.device)
    net, outer, classes, note = _init_or_resume(config, r, saved)
    validate = _validation(r, net, val)
    if warning := _cost_warning(r, net, plan):
        logger.warning(warning)
    validate(2)  # what cannot be tested fails here, before any training
    save = _checkpoint_writer(config, r, net, outer, (classes, note), out)
    _write_run_info(config, r, net, state, out)
    if saved is not None:
        checkpoint.set_random_state(saved["random"])
    with Log(out, plan.steps, state.step) as log:
        _log_run(config, r, net, log, state.step)
        if note:
            log.say(note)
        try:
            look = partial(validate, r.train.val_episodes)
            with differentiated():
                loop.fit(net, r.objective(), r.stepping, episodes, outer, look, save, log, plan, state)
        finally:
            provenance.write(out, seconds=round(state.seconds, 1), steps=state.step)
        if r.rate.needs_steps and state.step < plan.steps:
            left = r.rate.at(state.step, plan.steps)
            log.say(f"optim.schedule={r.rate.schedule} was cut short, at {left:.3g} of optim.lr")
        provenance.write(out, finished=provenance.now())
        with optional_output("the pictures of the run"):
            save_final_figures(net, r.engine, _adaptation_curve(r), val, r.bn, log, state.step, out)
    return state.best_accuracy or 0.0


def _adaptation_curve(r: TrainingSetup) -> Objective:
    """Return what measures an episode after every inner step."""
    inner, predict = r.terms.inner(r.test_algo.loss), PREDICTIONS[r.bn]
    return by_way(r.task, r.test_algorithm, lambda algo, way: AdaptationCurve(algo, r.test_algo.steps, inner, predict))


def _init_or_resume(
    config: ExperimentConfig, r: TrainingSetup, saved: dict[str, Any] | None
) -> tuple[nn.Module, MetaOptimizer, set[str], str]:
    """Return the net and its optimizer, new, warm-started or as saved, the ids of all that it learns from, and a note.

    The note says what a referee must know of weights that come from elsewhere.
    """
    torch.manual_seed(config.seed)
    train, classes, notes = r.data["train"], class_ids.training_ids(r.data["train"]), {weights_note(r.backbone)}
    drop = r.terms.drop or nn.Sequential()
    if saved is not None:
        refuse_larger(r.backbone, r.train_algorithm, drop, image_shape(train), saved["net"])
    net = build_net(r.backbone, r.train_algorithm, drop, normalization(train.images), image_shape(train)[1])
    check_drops(net, r.algo)
    if saved is None and r.train.weights is not None:
        initialize_weights(net, r.train.weights, config.backbone.get("weights"))
    if saved is None:
        known = load_pretrained(r.backbone, net)
        refuse_leaked_validation(r.data["val"], known, f"backbone.weights={config.backbone.get('weights')}")
        classes |= known
    if saved is None and r.train.init is not None:
        known, held = warm_start(net, r.train.init)
        if not train.by_image or held["val"] != fingerprint(r)["val"]:  # else its classes are the same, its images not
            refuse_leaked_validation(r.data["val"], known, f"train.init={r.train.init}")
        classes |= known
        notes.add(held.get("weights", ""))
    net.to(r.device)
    learned = list(learnable(net).values())
    if not learned:
        frozen = " as backbone.trainable is set" if config.backbone.get("trainable", "all") != "all" else ""
        raise UserError(
            f"algo={r.algo.name} with this backbone has nothing to learn{frozen}; type another, as backbone=conv4"
        )
    parts = [own for part in net.children() if (own := list(learnable(part).values()))]
    outer = MetaOptimizer(r.optimizer.build(learned), r.rate, r.clip, r.train.steps, parts)
    if saved is not None:
        resume.restore(saved, checkpoint_in(Path(str(config.resume))), net, outer.optimizer, r.optimizer.build)
        resume.refuse_other_data(saved["data"], fingerprint(r))
        classes |= set(saved["classes"])
        notes.add(saved["data"].get("weights", ""))
    return net, outer, classes, "; ".join(sorted(notes - {""}))


def _checkpoint_writer(
    config: ExperimentConfig,
    r: TrainingSetup,
    net: nn.Module,
    outer: MetaOptimizer,
    trained: tuple[set[str], str],
    out: Path,
) -> Callable[[str, State], None]:
    """Return what writes NAME.pt, from which alone the run can go on or be evaluated.

    trained: the ids of all that the net learns from, and the note on its weights.
    """
    classes, note = trained

    def save(name: str, state: State) -> None:
        if not out.is_dir():
            logger.warning(
                f"{out} was moved or deleted while the run writes into it: it is made anew, with all that this step "
                "saves; the curves up to here are where it was moved to"
            )
            _write_run_info(config, r, net, state, out)
        content = {
            "net": net.state_dict(),
            "optimizer": outer.optimizer.state_dict(),
            "state": state.saved(),
            "random": checkpoint.random_state(),
            "classes": sorted(classes),
            "engine": engine_config(r.engine),
            "config": config.whole,
            "train_way": r.task.train_way,
            "labels": r.data["train"].ids if r.data["train"].by_image else [],
            "label_names": r.data["train"].names if r.data["train"].by_image else [],
            "shape": list(r.data["train"].images.shape[1:]),
            "data": {"note": r.data["train"].note, **({"weights": note} if note else {}), **fingerprint(r)},
            "versions": {name: str(version) for name, version in provenance.versions().items()},
        }
        checkpoint.save(out / f"{name}.pt", content)

    return save


def fingerprint(r: TrainingSetup) -> dict[str, str]:
    """Return a hash of which images of which classes each split holds."""
    return {name: class_ids.fingerprint(split) for name, split in r.data.items()}


def _cost_warning(r: TrainingSetup, net: nn.Module, plan: loop.Plan) -> str | None:
    """Return what a training will take where its numbers are very large, else None; train.minutes may end it before."""
    t, episode = r.task, r.meta_batch * (1 + r.algo.steps)
    look = r.train.val_episodes * (1 + r.test_algo.steps)
    made_of = {"train.steps": plan.steps, "algo.steps": r.algo.steps, "algo.test_steps": r.test_algo.steps}
    images = r.algo.mini_batch or (t.train_way or t.way) * ((t.train_shot or t.shot) + (t.train_query or t.query))
    passes = plan.steps * episode + max(1, plan.steps // plan.val_every) * look
    return time_estimate.long_run_warning(
        net, images, image_shape(r.data["train"]), passes, 24 * time_estimate.HOUR, made_of
    )


def _validation(r: TrainingSetup, net: nn.Module, val: Source) -> Callable[[int], dict[str, float]]:
    """Return what estimates the running statistics and measures the first so many validation episodes."""
    training = r.training("running", tasks=1)
    images = sum(part.y.shape[1] for part in training(0))
    passes: list[Callable[[], object]] = [
        partial(_forward, net, r.train_algorithm, training, i) for i in range(max(1, RUNNING_IMAGES // images))
    ]
    test, engine = r.measured(), r.measuring
    if not r.task.fixed:
        check_supports_variable_way(r, net)

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
    if any(isinstance(m, BatchStatNorm | FeatureCentering) for m in behind):
        first = support if len(support.y) else query  # a mini-batch: its features count, not its classes
        learner, here = cast(Learner, TaskLearner(net, False)), at_way(algorithm, int(first.y.max()) + 1)
        model, *_ = here.adapt(learner, first, cross_entropy, 0)
        model(query.x)
        return
    if len(support.y):
        net("features", support.x)
    net("features", query.x)


def _write_run_info(config: ExperimentConfig, r: TrainingSetup, net: nn.Module, state: State, out: Path) -> None:
    """Write config.yaml and run.json: what is trained, and what trains it."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.clear(out)
    with disk_errors(out / "config.yaml"):
        OmegaConf.save(OmegaConf.create(config.whole), out / "config.yaml")
    made = provenance.describe(sum(p.numel() for p in net.parameters()), r.device)
    provenance.write(out, **(made if config.resume is None else {"resumes": [made | {"step": state.step}]}))


def _parameter_count(net: nn.Module) -> str:
    """Return how many parameters there are, and of these how many learn where some do not."""
    count, learned = (sum(p.numel() for p in each) for each in (net.parameters(), learnable(net).values()))
    return f"{count:,} parameters" + (f", {learned:,} of them learned" if learned < count else "")


def _log_run(config: ExperimentConfig, r: TrainingSetup, net: nn.Module, log: Log, step: int) -> None:
    """Say what is about to be trained; write the configuration as text and hyper-parameters."""
    data = r.data["train"]
    sizes = describe_task(r.task, r.algo.mini_batch, r.train.val_episodes if data.by_image else None)
    log.say(
        f"{r.algo.name} on {r.device}: {len(data.ids)} training classes, {len(r.data['val'].ids)} for validation; "
        f"{sizes}; {r.meta_batch} {'episodes' if r.algo.mini_batch is None else 'mini-batches'} a meta-step, "
        f"bn={r.train.bn or 'batch'}, at validation {r.bn}; "
        f"{_parameter_count(net)}"
    )
    if data.note:
        log.say(data.note)
    log.text("config", f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(config.whole))}```", step)
    values = flat(config.whole).items()
    log.hparams({k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in values}, {}, 0)
