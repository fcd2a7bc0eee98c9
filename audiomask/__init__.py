"""audiomask: audio and speech by masking, offline, live, on a server and in a browser with the same output."""

__version__ = "0.1.0"
