from typing import Any

proxqp: Any  # built by pybind11; what metalab reads of it stands in algorithms/components/solvers/svm.py
