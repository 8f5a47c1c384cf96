"""Optuna's own pictures of a search, as PNG beside its trials."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from optuna.visualization import matplotlib as pictures

from metalab.core.optional_output import optional_output
from metalab.tracking.figures import BLUE, PLAIN

VALUE = "validation accuracy"


@PLAIN
def save_figures(study: optuna.Study, folder: Path) -> list[str]:
    """Draw history.png, slices.png and, from two keys and trials on, importances.png; return what was made."""
    made = list[str]()
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are experimental, and that failed trials are left out
        for name, draw in (("history.png", _history), ("slices.png", _slices), ("importances.png", _importances)):
            if name == "importances.png" and (len(done) < 2 or len({key for t in done for key in t.params}) < 2):
                continue
            with optional_output(name):
                draw(study)
                pyplot.gcf().savefig(folder / name, dpi=110, bbox_inches="tight")
                made.append(name)
            pyplot.close("all")
    return made


def _history(study: optuna.Study) -> None:
    axes = pictures.plot_optimization_history(study, target_name=VALUE)
    _in_per_cent(axes)


def _slices(study: optuna.Study) -> None:
    every = np.atleast_1d(pictures.plot_slice(study, target_name=VALUE))
    pyplot.gcf().set_size_inches(2.0 + 3.0 * len(every), 4.5)
    for axes in every:
        _in_per_cent(axes)
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())


def _importances(study: optuna.Study) -> None:
    """Draw Optuna's importances; its own picture and fANOVA cannot take today's matplotlib and scikit-learn."""
    shares = get_param_importances(study, evaluator=MeanDecreaseImpurityImportanceEvaluator(seed=0))
    _, axes = pyplot.subplots(figsize=(6.4, 1.2 + 0.45 * len(shares)))
    keys = list(shares)[::-1]
    axes.bar_label(axes.barh(keys, [shares[key] for key in keys], color=BLUE), fmt="%.2f", padding=3)
    axes.set(xlim=(0, 1.1 * max(shares.values())), xlabel="share of what a forest explains of the accuracy")


def _in_per_cent(axes: Any) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
