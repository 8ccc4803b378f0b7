"""The tests; a package so that `tests.support` can be imported (tests/README.md)."""
