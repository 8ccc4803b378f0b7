"""Measurements, each as a ratio of things that ran side by side: `python -m bench --help`."""
