"""k-fold audio classification: a folder of short clips in, an ensemble and its submission out."""

__version__ = "0.1.0"
