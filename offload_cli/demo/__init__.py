"""`make demo`: a whole hub on this computer, with real programs. Works in a source tree only."""
