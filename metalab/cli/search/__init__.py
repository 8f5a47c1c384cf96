"""Hyper-parameter search: what is asked for, the sweeper, and what it leaves behind."""
