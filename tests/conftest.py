"""Settings for every test: no network, and threads that yield on a busy machine (see unnoise.cli)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
