"""The server in figures for Prometheus. Learns of conversations from the events that are sent, and asks nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from wavllm_core.engine.load import Load

VOICE_S: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)  # what a listener notices
MEANS: Final = ("queue_wait_ms", "encoder_step_ms", "decoder_step_ms")  # of which there are histograms
TOKENS_PER_S: Final = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)


class Metrics:
    """Everything that is counted, of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.load: Load | None = None  # the last reading of the engine
        self.registry.register(_EngineFigures(self))

        def histogram(name: str, meaning: str, buckets: Iterable[float] = VOICE_S) -> Histogram:
            return Histogram(f"wavllm_{name}", meaning, buckets=tuple(buckets), registry=self.registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"wavllm_{name}", meaning, labels, registry=self.registry)

        self.sessions = Gauge("wavllm_sessions", "Conversations that are open", registry=self.registry)
        self.turn_end_s = histogram("turn_end_wait_seconds", "Last word to end of the turn confirmed")
        self.first_event_s = histogram("first_event_seconds", "Last word to first token of the answer")
        self.first_token_s = histogram("first_token_seconds", "Answer due to its first token")
        self.first_audio_s = histogram("first_audio_seconds", "Answer due to its first audio")
        self.encoder_s = histogram("encoder_seconds", "End of the turn confirmed to all of it encoded")
        self.tokens_per_s = histogram("tokens_per_second", "Of an answer, after its first token", TOKENS_PER_S)
        self.turns = counter("turns_total", "Turns that were heard")
        self.responses = counter("responses_total", "Answers that are over", "status", "reason")
        self.resumed = counter("resumed_total", "Answers that went on after nothing had interrupted them")
        self.ignored = counter("ignored_speech_total", "Short remarks into answers, which went on")
        self.errors = counter("errors_total", "Complaints sent to clients", "code")
        self.calls = counter("calls_total", "Function calls that the server has answered", "status")
        self.refusals = counter("refusals_total", "Clients turned away before a conversation", "code")
        self.closed = counter("closed_total", "Conversations that ended", "code")
        self.throttled = counter("throttled_messages_total", "Messages that came too fast and had to wait")

    def render(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)


class Observer:
    """Watches the events of one conversation."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._metrics, self._clock = metrics, clock
        self._committed_s: dict[str, float] = {}  # of turns that are still being encoded

    def __call__(self, event: dict[str, Any]) -> None:
        """An event is about to be sent."""
        match event["type"]:
            case "input_audio_buffer.committed":
                self._metrics.turns.inc()
                self._committed_s = {event["item_id"]: self._clock()}  # one is heard at a time
            case "wavllm.speaker" if event["item_id"] in self._committed_s:
                self._metrics.encoder_s.observe(self._clock() - self._committed_s.pop(event["item_id"]))
            case "response.created" if "wavllm_resumes" in event:
                self._metrics.resumed.inc()
            case "wavllm.speech_ignored":
                self._metrics.ignored.inc()
            case "response.done":
                self._response_done(event)
            case "wavllm.function" if event["status"] != "in_progress":
                self._metrics.calls.labels(event["status"]).inc()
            case "error":
                self._metrics.errors.labels(event["error"]["code"]).inc()

    def _response_done(self, event: dict[str, Any]) -> None:
        response, latency = event["response"], event.get("wavllm_latency") or {}
        reason = (response["status_details"] or {}).get("reason", "")
        self._metrics.responses.labels(response["status"], reason).inc()
        wait_ms, first_ms = latency.get("vad_wait_ms"), latency.get("first_token_ms")
        if wait_ms is not None:
            self._metrics.turn_end_s.observe(wait_ms / 1000)
        if first_ms is None:
            return
        self._metrics.first_token_s.observe(first_ms / 1000)
        if wait_ms is not None:
            self._metrics.first_event_s.observe((wait_ms + first_ms) / 1000)
        if (audio_ms := latency.get("first_audio_ms")) is not None:
            self._metrics.first_audio_s.observe(audio_ms / 1000)
        tokens, rest_ms = response["usage"]["output_tokens"] - 1, latency["total_ms"] - (wait_ms or 0) - first_ms
        if tokens > 0 and rest_ms > 0:
            self._metrics.tokens_per_s.observe(1000 * tokens / rest_ms)


class _EngineFigures:
    """The engine's own figures: whatever it tells, as gauges, and as histograms what comes with every step."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        load = self._metrics.load
        if load is None:
            return
        for name, value in load.numbers().items():
            if name not in MEANS:
                yield GaugeMetricFamily(f"wavllm_engine_{name}", _meaning(name), value=float(value))
        for name, spread in load.spreads.items():
            bounds, counts = [*map(str, spread.bounds), "+Inf"], accumulate(spread.counts)
            buckets = list(zip(bounds, counts, strict=True))
            yield HistogramMetricFamily(f"wavllm_engine_{name}", _meaning(name), buckets, spread.total)


def _meaning(name: str) -> str:
    return f"Engine: {name.replace('_', ' ')}"
