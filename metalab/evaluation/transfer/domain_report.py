"""The record of a target domain: accuracy there and on the source, the gap between them, the gain over another run."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from metalab.algorithms.objectives.build import by_way
from metalab.config.experiment import ExperimentConfig, read_config
from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.core.interfaces import Objective, Split
from metalab.core.statistics import mean_ci95
from metalab.data.datasets.domains import Domains
from metalab.data.identity.class_ids import fingerprint
from metalab.data.sampling.build import Source
from metalab.data.storage.resize import resize_split
from metalab.evaluation.leakage import refuse_trained_on
from metalab.evaluation.measure import measure, outcomes
from metalab.evaluation.objectives import measured_objective
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup, where_it_lies
from metalab.tracking import checkpoint_schema
from metalab.tracking.run_folder import find_run


@dataclass(frozen=True)
class DomainReport:
    """What is measured beside the target's test images, checked and built before any of it is measured."""

    setup: EvaluationSetup
    target: str
    sources: list[str]
    source: Split  # their test images, or classes, as the net takes them
    overlap: list[str]  # what of these was trained on, where that is allowed
    baseline: EvaluationSetup | None  # of the run that the gain is over, on the same images

    def record(self, objective: Objective, accuracy: np.ndarray, source: Source) -> dict[str, Any]:
        """Return what belongs into eval.json below `domains`.

        Args:
            objective: the measured one.
            accuracy: float64 [E], of the target's test images or episodes.
            source: what gave these.
        """
        t = self.setup
        there, own = _measured(t, t.trained, objective, self.source)  # its norms are those of the source
        reached = {"target": (accuracy, t.split, source), "source": (there, self.source, own)}
        told = {name: t.protocol.accuracy_record(*each) for name, each in reached.items()}
        gap = told["source"]["accuracy"] - told["target"]["accuracy"]
        half = math.hypot(told["source"]["ci95"], told["target"]["ci95"])  # two independent samples
        record = {
            "source": {
                "domains": self.sources,
                **told["source"],
                **({"overlap": self.overlap} if self.overlap else {}),
            },
            "target": {"domain": self.target, **told["target"]},
            "gap": {"difference": gap, "ci95": half},
        }
        return record | ({} if self.baseline is None else {"gain": self._gain(self.baseline, accuracy)})

    def _gain(self, other: EvaluationSetup, accuracy: np.ndarray) -> dict[str, Any]:
        """Return the gain over another run, with the interval of the paired differences."""
        objective = by_way(
            other.task,
            other.test_algorithm,
            lambda algo, way: measured_objective(other.algo, algo, other.bn, way, other.terms),
        )
        before, _ = _measured(other, other.net, objective, other.split)
        gain, half = mean_ci95(accuracy - before)
        mean, ci95 = mean_ci95(before)
        beside = other.saved["data"].get("unlabelled")
        seen = {"trained_beside": beside} if beside else {}
        return {
            "difference": gain,
            "ci95": half,
            "baseline": {"run": str(other.folder), "accuracy": mean, "ci95": ci95, **seen},
        }


def build_domain_report(t: EvaluationSetup) -> DomainReport | None:
    """Return what an evaluation on a target measures beside it; None where no target is tested.

    Raises:
        UserError: for source images that were trained on, and for an eval.baseline that is no run, tests other images,
            or has no target to be compared on.
    """
    tested = t.data.target if isinstance(t.data, Domains) and t.config.eval.split == "test" else None
    if not isinstance(t.data, Domains) or tested is None or t.config.task.query_domain not in (None, tested):
        if t.config.eval.baseline is not None:
            raise UserError(
                f"eval.baseline={t.config.eval.baseline} is compared on the test images of a target domain, and there "
                "is none: type data=domains data.target=... eval.split=test, or leave it out"
            )
        return None
    sources = _trained_sources(t, t.data)
    part = t.protocol.as_labelled(sources.load("test"), t.saved)
    overlap = refuse_trained_on(part, t.saved["classes"], t.evaluation, t.folder)
    channels, size, _ = t.saved["shape"]
    return DomainReport(t, tested, sources.sources, resize_split(part, channels, size), overlap, _baseline(t))


def _trained_sources(t: EvaluationSetup, data: Domains) -> Domains:
    """Return the domains that the run was trained on, without a target; those of the data where it does not say."""
    here, node = t.config.data, t.saved["config"]["data"]
    if node["_target_"] != here["_target_"]:
        return data.of_source()
    try:
        return build(where_it_lies(node, here), "data").of_source()
    except UserError as error:
        raise UserError(f"the source images of the run are not at hand: {error}") from error


def _baseline(t: EvaluationSetup) -> EvaluationSetup | None:
    given = t.config.eval.baseline
    if given is None:
        return None
    folder = find_run(Path(given).expanduser())
    other = build_evaluation_setup(folder, _as_tested(checkpoint_schema.load_checked(folder / "best.pt")["config"], t))
    if fingerprint(other.split) != fingerprint(t.split):
        raise UserError(f"eval.baseline={given} is tested on other images: give both runs the same data")
    return other


def _as_tested(config: dict[str, Any], t: EvaluationSetup) -> ExperimentConfig:
    """Return another run's settings, tested as this one is: on its images, by its own batch-norm statistics."""
    own = read_config(OmegaConf.create(config))
    evaluation = replace(t.config.eval, baseline=None, bn=None, tent=None, temperature=None, unknown=None, eps=None)
    shared = {key: value for key, value in t.config.attack.items() if not isinstance(value, dict)}
    tested = {"task": t.config.task, "data": t.config.data, "seed": t.config.seed, "device": t.config.device}
    return replace(own, **tested, eval=evaluation, attack=shared, whole={**own.whole, "data": t.config.data})


def _measured(t: EvaluationSetup, net: nn.Module, objective: Objective, split: Split) -> tuple[np.ndarray, Source]:
    """Return the accuracy of a net on each episode, or image, of a split, and what gave them."""
    source = t.source_of(t.task, split)
    count = t.protocol.count(t.evaluation, split)
    torch.manual_seed(t.config.seed)  # of heads that are drawn for each task
    return measure(outcomes(t.counting, objective, net, source, count, t.bn), count)[0], source
