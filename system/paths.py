"""The names of the files in a work folder and in the folders of its runs, each in one place."""

from __future__ import annotations

LOCK = ".lock"  # in a work folder, a fold's folder and a folder of partial results

# In the work folder: the store, which preprocess.py writes.
CLIPS = "clips.csv"
WAVES = "waves.i16"
STORE = "store.json"
REJECTED = "rejected.csv"
RECORD = "relabel.csv"  # decisions about clips
PICTURE = "audit.png"
JOURNAL = ".journal"  # what a run under way has decoded; gone once the tables name it
SCRATCH = ".decoded"  # folder of samples on their way from the decoding processes to WAVES
NEXT = ".next"  # folder of complete tables that are to replace those in use

# In the work folder: what report.py writes.
PAGE = "report.html"
ENSEMBLE = "ensemble.json"

PLANS = "plans.json"  # in runs/: what was planned, by the options that were given

# In a fold's folder.
LAST, PREVIOUS, BEST, HISTORY = "last.ckpt", "previous.ckpt", "best.ckpt", "history.csv"
PREDICTIONS = "oof.npz"  # of what the fold held out
RESULTS = (PREDICTIONS, "oof.csv", "curve.png")  # of a finished run
EVENTS = "tensorboard"  # a folder
