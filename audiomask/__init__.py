"""audiomask: audio and speech by masking. Train once, run anywhere, in real time, with the same result."""

__version__ = "0.1.0"
