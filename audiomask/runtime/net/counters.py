"""Count what a server does, and write it as text for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

# Name: (help, label). Those that end in _total only rise.
COUNTERS = {
    "sockets_total": ("websockets accepted", ""),
    "refused_total": ("connections turned away before their hello", "reason"),
    "audio_seconds_total": ("sound received and sent, all channels of a socket together", "direction"),
    "messages_total": ("binary messages received", ""),
    "overflows_total": ("times that a socket's output queue was full, so that it was not read from", ""),
    "throttled_total": ("times that a socket reached its input rate and had to wait", ""),
    "packets_total": ("packets by what became of them, of sockets in packet mode", "kind"),
    "cleaned_samples_total": ("input samples that were NaN or infinite and became 0", ""),
    "faults_total": ("blocks in which a model failed and was muted", ""),
    "errors_total": ("sockets ended by an error", "code"),
}
# Name: (help, upper bounds of the buckets).
HISTOGRAMS = {
    "block_seconds": (
        "from the arrival of sound to the sending of what it completes, of streams in real time",
        (0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0),
    ),
    "turn_seconds": (
        "time in which the computing thread served those that were due together",
        (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256),
    ),
    "stacked_rows": ("streams whose blocks were computed in one turn", (1, 2, 4, 8, 16, 32, 64, 128, 256)),
}


class Histogram:
    """A histogram that counts values up to each bound, and sums them."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Counters:
    """All counters of a server, which only the thread of the event loop may use."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, float]] = {
            name: {} if label else {"": 0} for name, (_, label) in COUNTERS.items()
        }
        self.histograms = {name: Histogram(bounds) for name, (_, bounds) in HISTOGRAMS.items()}

    def add(self, name: str, amount: float = 1, label: str = "") -> None:
        values = self.values[name]
        values[label] = values.get(label, 0) + amount

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Return the exposition format 0.0.4; `gauges` maps a name to (help, value)."""
        lines: list[str] = []

        def head(name: str, words: str, kind: str) -> None:
            lines.extend([f"# HELP audiomask_{name} {words}", f"# TYPE audiomask_{name} {kind}"])

        for name, (words, value) in gauges.items():
            head(name, words, "gauge")
            lines.append(f"audiomask_{name} {value:g}")
        for name, (words, label) in COUNTERS.items():
            head(name, words, "counter")
            for key, value in sorted(self.values[name].items()):
                tag = f'{{{label}="{key}"}}' if label else ""
                lines.append(f"audiomask_{name}{tag} {value!r}")
        for name, (words, bounds) in HISTOGRAMS.items():
            head(name, words, "histogram")
            histogram, total = self.histograms[name], 0
            for bound, count in zip((*map(str, bounds), "+Inf"), histogram.counts, strict=True):
                total += count
                lines.append(f'audiomask_{name}_bucket{{le="{bound}"}} {total}')
            lines += [f"audiomask_{name}_sum {histogram.sum!r}", f"audiomask_{name}_count {total}"]
        return "\n".join(lines) + "\n"
