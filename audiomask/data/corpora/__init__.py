"""Import corpora as they are distributed, one module each: `voicebank.read(folder)`.

A module here is a layout of `audiomask data import`, described by the first line of its docstring. Its
`read(folder, skipped, **options)` returns a data directory, or several by name; all missing partners, corrupt
files and double keys are found before anything is written (`kaldi.collector.Collector`, which explains
`skipped`). `OPTIONS` says of each option its metavar, help and type; ValueError is for options that do not go
together.
"""
