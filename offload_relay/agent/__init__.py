"""The agent: one per job, at the site. Runs in any image with Python 3.9 or newer."""
