"""What is said of an option that is not there."""

import pytest
from hydra.errors import MissingConfigException

from metalab.cli.suggestions import explain_hydra_error


@pytest.mark.parametrize(("option", "extra"), [("joblib", "sweep"), ("submitit_slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_is_told_by_its_extra(option, extra):
    listed = "Available options in 'hydra/launcher':\n\tbasic\nConfig search path:"
    said = f"Could not find 'hydra/launcher/{option}'\n\n{listed}"
    error = MissingConfigException(said, f"hydra/launcher/{option}", ["basic"])
    found = explain_hydra_error(error, "train", [f"hydra/launcher={option}"])
    assert found == f"hydra/launcher={option} is an extra: type pip install 'metalab[{extra}]'"
