"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lede.decode.round import Generation

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """Counters of one server. Acceptance is accepted / drafted of `lede_tokens_total`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("lede_requests", "Requests by status.", ["status"], registry=registry)
        self.queue = Gauge("lede_queue", "Requests that wait.", registry=registry)
        self.tokens = Counter(
            "lede_tokens", "Of prompts and completions, drafted, accepted.", ["kind"], registry=registry
        )
        self.seconds = Counter("lede_decoding_seconds", "Time that decoding took, prompts included.", registry=registry)
        self.speed = Gauge("lede_tokens_per_second", "Of the last answer, its prompt included.", registry=registry)
        self.rounds = Counter("lede_rounds", "Rounds by exit layer.", ["exit_layer"], registry=registry)
        self.first = Histogram(
            "lede_time_to_first_token_seconds", "From a request to its first token.", buckets=SECONDS, registry=registry
        )
        self.dropped = Counter("lede_dropped", "Answers given up: nobody waits any more.", registry=registry)

    def answered(self, done: Generation) -> None:
        """Count a finished text."""
        self.speed.set(done.tokens_per_s)
        self.seconds.inc(done.seconds)
        counts = {"prompt": len(done.prompt_ids), "completion": len(done.token_ids)}
        for kind, count in (counts | {"drafted": done.sums.drafted, "accepted": done.sums.accepted}).items():
            self.tokens.labels(kind).inc(count)
        for round_ in done.rounds:
            self.rounds.labels("none" if round_.exit_layer is None else round_.exit_layer).inc()
