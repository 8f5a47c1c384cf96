"""`metalab train`: build the objects, call the loop, return the best validation accuracy. Hydra's config ends here."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
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
from metalab.core.interfaces import Algorithm, EpisodeSource, Learner, Objective
from metalab.core.optional_output import optional_output
from metalab.core.signals import warnings_survived
from metalab.core.statistics import mean_ci95
from metalab.data.identity import class_ids
from metalab.data.sampling.build import Source, prefetched
from metalab.data.sampling.class_order import Labels, classifier_labels
from metalab.distributed.agreement import agreed
from metalab.distributed.processes import is_main, share
from metalab.distributed.silent_log import SilentLog
from metalab.engines.buffers import learnable
from metalab.engines.build import engine_config
from metalab.engines.learn2learn import TaskLearner, task
from metalab.engines.shared import shared as shared_engine
from metalab.evaluation.adaptation_curve import AdaptationCurve
from metalab.evaluation.checkpoint_transfer import check_features
from metalab.models.build import build_net, image_shape, load_pretrained, normalization, refuse_larger, weights_note
from metalab.models.layers import BatchStatNorm, FeatureCentering
from metalab.models.meta_net import Net
from metalab.models.weight_init import initialize_weights
from metalab.tracking import checkpoint, provenance, time_estimate
from metalab.tracking.run_folder import checkpoint_in, refuse_existing_run, refuse_folders, refuse_generations
from metalab.tracking.run_lock import locked_run
from metalab.tracking.run_logger import Log
from metalab.tracking.training_state import State
from metalab.training import boosting, kept_checkpoints, loop, memory, pruning, resume, shared
from metalab.training.compatibility import check_drops, differentiated
from metalab.training.final_figures import save_final_figures
from metalab.training.optimizers import MetaOptimizer
from metalab.training.setup import TrainingSetup, build_training_setup, snapshot_steps
from metalab.training.teacher import refuse_other_teacher, refuse_own_folder
from metalab.training.variable_way import check_supports_variable_way
from metalab.training.warm_start import (
    kept_labels,
    refuse_leaked_images,
    refuse_leaked_validation,
    unlabelled_note,
    warm_start,
)

logger = logging.getLogger("metalab")
RUNNING_IMAGES = 1000  # training images the running statistics are estimated on before each validation


def run(cfg: DictConfig, out: Path) -> float:
    """Train as cfg says in the folder out and return the best validation accuracy, a fraction.

    Of folds their mean, and of generations the last one's.
    """
    config = read_config(cfg)
    refuse_own_folder(config.reg, out)
    shared.refuse_several(config)
    pruning.warn_of_parts(config)
    if config.train.generations > 1:
        from metalab.training import generations  # which trains each generation by this function

        return generations.run(cfg, config, out)
    if config.resume is None and is_main():
        refuse_generations(out)
    if config.train.phases is not None:
        raise UserError(
            "train.phases: the command line composes each phase; in Python call metalab.training.phases.run"
        )
    if config.eval.folds is not None:
        from metalab.training import cross_validation  # which trains each fold by this function

        return cross_validation.run(cfg, config, out)
    if config.resume is None and is_main():
        refuse_existing_run(out)  # before the folder is touched
    with locked_run(out) if is_main() else nullcontext(), warnings_survived():
        return _run(config, out)


def _run(config: ExperimentConfig, out: Path) -> float:
    """Train in a folder that no other process writes."""
    if is_main():
        refuse_folders(out)
    saved = resume.load_resumable(config, out) if config.resume is not None else None
    if saved is None and is_main():
        refuse_existing_run(out)  # another process may have ended meanwhile
    kept = kept_labels(config.train, saved)
    r = build_training_setup(config, None if saved is None else saved.get("engine"), kept)
    shared.refuse_idle(r)
    r = boosting.boosted(r, saved)
    r = replace(r, memory=memory.for_training(r))
    keep_freed_memory(r.device.type)
    t, rule = r.train, pruning.median_rule(r.train, out)
    plan = loop.Plan(t.steps, t.minutes, t.val_every, t.log_every, t.monitor, t.patience, t.on_warning)
    plan = replace(plan, snapshots=snapshot_steps(r), keep_best=t.keep_best, prune=rule)
    state = State() if saved is None else State(**saved["state"]).to(r.device)
    over, *_ = agreed(loop.stop_reason(plan, state) or (rule(state) if saved is not None else None))
    if over is None:
        _train(r, saved, kept, (plan, rule), state, out)
    elif is_main():
        boosting.record_missing(r, out)
        if rule.said and not provenance.read(out).get("pruned"):  # by others that have ended since
            provenance.write(out, finished=provenance.now(), pruned=rule.said)
        logger.info(f"{out} has ended: {over}. Nothing is done; to go on, raise that limit as well as resume=")
    return state.best_accuracy or 0.0


def _train(
    r: TrainingSetup,
    saved: dict[str, Any] | None,
    kept: Labels | None,
    ends: tuple[loop.Plan, pruning.MedianRule],
    state: State,
    out: Path,
) -> None:
    """Train from where state stands to the end of the plan, or until the rule that is part of it ends it."""
    config, (plan, rule) = r.config, ends
    episodes, val = r.training("train", r.meta_batch, share(r.meta_batch)), r.validation()
    episodes = prefetched(episodes, r.data["train"].images, r.train.workers, r.device)
    net, outer, classes, note = _init_or_resume(config, r, saved, kept)
    shared.begin_alike(net)
    validate = _validation(r, net, val)
    if warning := _cost_warning(r, net, plan):
        logger.warning(warning)
    validate(2)  # what cannot be tested fails here, before any training
    save = _checkpoint_writer(config, r, net, outer, (classes, note), out) if is_main() else shared.save_nothing
    save = kept_checkpoints.keeping(save, out) if plan.keep_best > 1 and is_main() else save
    if is_main():
        _write_run_info(config, r, net, state, out)
    if saved is not None:
        checkpoint.set_random_state(saved["random"])
        shared.draw_alike(r.device)
    with cast(Log, Log(out, plan.steps, state.step) if is_main() else SilentLog()) as log:
        _log_run(config, r, net, log, state.step)
        if note:
            log.say(note)
        look = partial(validate, r.train.val_episodes)
        with _end_noted(out, state), differentiated():
            engine = shared_engine(r.stepping, r.meta_batch)
            loop.fit(net, r.objective(), engine, episodes, outer, look, save, log, plan, state)
        if is_main():
            provenance.write(out, finished=provenance.now(), pruned=rule.said)
            _finish(r, net, val, plan, state, log, out)


def _finish(r: TrainingSetup, net: nn.Module, val: Source, plan: loop.Plan, state: State, log: Log, out: Path) -> None:
    """Say and write down what there is to know of a training at its end, and draw its pictures."""
    if r.rate.needs_steps and state.step < plan.steps:
        left = r.rate.at(state.step, plan.steps)
        log.say(f"optim.schedule={r.rate.schedule} was cut short, at {left:.3g} of optim.lr")
    boosting.record(r, out)
    with optional_output("the pictures of the run"):
        save_final_figures(net, r.engine, _adaptation_curve(r), val, r.bn, log, state.step, out)


@contextmanager
def _end_noted(out: Path, state: State) -> Iterator[None]:
    """Write down, however a training ends, how far it came, and what broke it off."""
    failed = None
    try:
        yield
    except Exception as error:
        failed = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        if is_main():
            provenance.write(out, seconds=round(state.seconds, 1), steps=state.step, failed=failed)


def _adaptation_curve(r: TrainingSetup) -> Objective:
    """Return what measures an episode after every inner step."""
    inner, predict = r.terms.inner(r.test_algo.loss), PREDICTIONS[r.bn]
    return by_way(r.task, r.test_algorithm, lambda algo, way: AdaptationCurve(algo, r.test_algo.steps, inner, predict))


def _init_or_resume(
    config: ExperimentConfig, r: TrainingSetup, saved: dict[str, Any] | None, kept: Labels | None = None
) -> tuple[nn.Module, MetaOptimizer, set[str], str]:
    """Return the net and its optimizer, new, warm-started or as saved, the ids of all that it learns from, and a note.

    The note says what a referee must know of weights that come from elsewhere.
    """
    torch.manual_seed(config.seed)
    train, classes, notes = r.data["train"], class_ids.training_ids(r.data["train"]), {weights_note(r.backbone)}
    classes |= class_ids.training_ids(r.memory) if r.memory is not None else set()
    drop = r.terms.drop or nn.Sequential()
    if saved is not None:
        refuse_larger(r.backbone, r.train_algorithm, drop, image_shape(train), saved["net"], r.terms.parts)
    shape = image_shape(train)
    net = build_net(r.backbone, r.train_algorithm, drop, normalization(train.images), shape[1], r.terms.parts)
    check_drops(net, r.algo)
    check_features(net, train.images[:16])
    r.terms.attach(net)
    if saved is None:
        known, said = _start(config, r, net, kept)
        classes |= known
        notes |= said
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
        memory.refuse_other_memory(r, saved["data"])
        if r.teacher is not None:
            refuse_other_teacher(r.teacher, saved)
        classes |= set(saved["classes"])
        notes.add(saved["data"].get("weights", ""))
    return net, outer, classes, "; ".join(sorted(notes - {""}))


def _start(config: ExperimentConfig, r: TrainingSetup, net: Net, kept: Labels | None) -> tuple[set[str], set[str]]:
    """Give a new training's net the weights that it begins with; return the ids that these bring along, and notes."""
    train, val, init = r.data["train"], r.data["val"], r.train.init
    if r.train.weights is not None:
        initialize_weights(net, r.train.weights, config.backbone.get("weights"))
    classes, notes = {*load_pretrained(r.backbone, net)}, set[str]()
    refuse_leaked_validation(val, classes, f"backbone.weights={config.backbone.get('weights')}")
    if init is not None:
        stay = len(kept.ids) if kept is not None and train.by_image else 0
        known, held = warm_start(net, init, stay)
        if stay:
            refuse_leaked_images(val, known, f"train.init={init}")
        elif (
            not train.by_image or held["val"] != fingerprint(r)["val"]
        ):  # else its classes are the same, its images not
            refuse_leaked_validation(val, known, f"train.init={init}")
        classes |= known
        notes |= {held.get("weights", ""), unlabelled_note("begun from a run", held)}
    if r.teacher is not None:
        known, said = r.teacher.seen(r.data)
        classes |= known
        notes |= said
    return classes, notes


def _data_facts(r: TrainingSetup, note: str) -> dict[str, str]:
    """Return what a checkpoint says of its data, and of what else a net has learned from."""
    return {
        "note": r.data["train"].note,
        **({"weights": note} if note else {}),
        **class_ids.unlabelled_facts(r.data["train"]),
        **({"teacher": r.teacher.digest} if r.teacher is not None else {}),
        **memory.facts(r),
        **fingerprint(r),
    }


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
    labels = classifier_labels(r.data["train"])

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
            "labels": labels.ids,
            "label_names": labels.names,
            "head_classes": r.data["train"].ids if r.algo.mini_batch is not None else [],
            "shape": list(r.data["train"].images.shape[1:]),
            "data": _data_facts(r, note),
            **({} if r.boost is None else {"boost": r.boost.saved()}),
            "versions": {name: str(version) for name, version in provenance.versions().items()},
        }
        checkpoint.save(out / f"{name}.pt", content)

    return save


def fingerprint(r: TrainingSetup) -> dict[str, str]:
    """Return a hash of which images of which classes each split holds, and of the target's where these are read."""
    prints = {name: class_ids.fingerprint(split) for name, split in {**r.data, "train": r.whole}.items()}
    target = r.data["train"].target
    return prints if target is None else prints | {"target": class_ids.unlabelled_fingerprint(target)}


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
        partial(_forward, net, r.train_algorithm, training, i, r.terms.joint)
        for i in range(max(1, RUNNING_IMAGES // images))
    ]
    measured = shared.Validation(r.measuring, r.measured(), net, val, r.bn)
    if not r.task.fixed:
        check_supports_variable_way(r, net)

    def validate(count: int) -> dict[str, float]:
        net.eval()
        shared.estimate_running_shared(net, passes)
        accuracies, losses = measured(count)
        accuracy, ci95 = mean_ci95(accuracies)
        return {"accuracy": accuracy, "ci95": ci95, "loss": float(losses.mean())}

    return validate


def _forward(net: nn.Module, algorithm: Algorithm, source: EpisodeSource, step: int, joint: bool) -> None:
    """Pass one training episode's support, if it has one, then its query, through the net's norms, as training does.

    joint: together with the target images beside the query.
    """
    support, query = task(source(step), 0)
    x = torch.cat([query.x, query.unlabelled]) if joint else query.x
    behind = [m for name, part in net.named_children() if name != "body" for m in part.modules()]
    if any(isinstance(m, BatchStatNorm | FeatureCentering) for m in behind):
        first = support if len(support.y) else query  # a mini-batch: its features count, not its classes
        learner, here = cast(Learner, TaskLearner(net, False)), at_way(algorithm, int(first.y.max()) + 1)
        model, *_ = here.adapt(learner, first, cross_entropy, 0)
        model(x)
        return
    if len(support.y):
        net("features", support.x)
    net("features", x)


def _write_run_info(config: ExperimentConfig, r: TrainingSetup, net: nn.Module, state: State, out: Path) -> None:
    """Write config.yaml and run.json: what is trained, and what trains it."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.clear(out)
    with disk_errors(out / "config.yaml"):
        OmegaConf.save(OmegaConf.create(config.whole), out / "config.yaml")
    made = provenance.describe(sum(p.numel() for p in net.parameters()), r.device)
    made |= class_ids.unlabelled_facts(r.data["train"])
    again = {"resumes": [made | {"step": state.step}], "finished": None, "failed": None, "boost": None, "pruned": None}
    provenance.write(out, **(made if config.resume is None else again))


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
    for said in (data.note, *class_ids.unlabelled_facts(data).values()):
        if said:
            log.say(said)
    log.text("config", f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(config.whole))}```", step)
    values = flat(config.whole).items()
    log.hparams({k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in values}, {}, 0)
