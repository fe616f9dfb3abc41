"""One thread that decodes, one text at a time; requests wait in a queue, first come first served."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lede.decode.errors import ModelError
from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.round import Generation, Round
from lede.decode.rules import ExitRule
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource
from lede.serve.api import ApiError
from lede.serve.metrics import Metrics
from lede.serve.stream import Answer

log = logging.getLogger("lede")


@dataclass(eq=False)
class Job:
    """One text to write.

    tell: takes, from the worker's thread, pieces of the text and then the Generation, or else an ApiError.
    group: see `Asked.group`.
    alternatives: how many of the likeliest tokens to keep with each in `said`, [(token, log p), …], the token that was
    written first; None: none, nor that.
    """

    ids: list[int]
    settings: Settings
    rule: ExitRule
    answer: Answer
    group: str
    tell: Callable[[str | Generation | ApiError], None]
    alternatives: int | None = None
    said: list[list[tuple[int, float]]] = field(default_factory=list)
    asked: float = field(default_factory=time.perf_counter)
    rounds: list[Round] = field(default_factory=list)
    cancelled: bool = False


def _imports() -> None:
    """Import what would take a second or two of a request's time: the library's logits processors."""
    import transformers.generation.utils

    _ = transformers.GenerationConfig, transformers.LlamaConfig, transformers.LogitsProcessorList


class Worker:
    """Decodes the jobs of a queue that holds `limit` of them at most.

    recorded: is called with each finished job and its Generation.
    """

    def __init__(self, model: Model, limit: int, metrics: Metrics, recorded: Callable[[Job, Generation], None] | None):
        self.model, self.limit, self.metrics, self._recorded = model, limit, metrics, recorded
        self.closing = False  # set it to refuse jobs, those that wait too; what runs is finished
        # called in the worker's thread after each round of a job, and with its Generation when it is done
        self.watchers: set[Callable[[Job, Generation | None], None]] = set()
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._threads = torch.get_num_threads()  # OpenMP keeps the number for each thread
        metrics.queue.set_function(lambda: len(self._jobs))
        # of what some requests need and others do not; who asks waits for it before the time of an answer begins
        self.imports = threading.Thread(target=_imports, name="lede-imports")
        self.imports.start()
        threading.Thread(target=self._work, name="lede-decode", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue. Raises ApiError where there is no place."""
        with self._changed:
            if self.closing:
                raise ApiError(503, "the server is stopping")
            if len(self._jobs) >= self.limit:
                raise ApiError(429, f"{self.limit} requests are waiting: try again later", code="queue_full")
            self._jobs.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job: take it out of the queue, or stop it at its next round."""
        job.cancelled = True
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self.metrics.dropped.inc()

    def _work(self) -> None:
        self.model.use_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs.popleft()
            try:
                if self.closing:
                    raise ApiError(503, "the server is stopping")
                if (done := self._decode(job)) is None:
                    self.metrics.dropped.inc()
                    continue
                self.metrics.answered(done)
                job.tell(done)
                self._watched(job, done)
                if self._recorded is not None:
                    self._recorded(job, done)
            except ApiError as error:
                job.tell(error)
            except ModelError as error:
                job.tell(ApiError(400, str(error)))
            except Exception:
                log.exception("a request failed")
                job.tell(ApiError(500, "the server failed: its log says how"))

    def _watched(self, job: Job, done: Generation | None = None) -> None:
        for watch in tuple(self.watchers):
            watch(job, done)

    def _decode(self, job: Job) -> Generation | None:
        """Write the text, and tell it piece by piece; None where nobody waits for it any more."""
        began = time.perf_counter()
        source = ModelSource(self.model, job.settings)

        def hear(tokens: list[int], logits: Tensor) -> None:
            for token, logp in zip(tokens, torch.log_softmax(logits.float(), -1), strict=True):
                best = logp.topk(job.alternatives or 0)
                likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                job.said.append([(token, float(logp[token])), *likeliest])

        source.on_logits = None if job.alternatives is None else hear
        decoding = Decoding(source, job.ids, job.rule)
        prefill = time.perf_counter() - began
        answer = job.answer
        for round_ in decoding.rounds():
            if job.cancelled:
                return None
            if not job.rounds:
                self.metrics.first.observe(time.perf_counter() - job.asked)
            job.rounds.append(round_)
            self._watched(job)
            piece = ""
            for token in round_.committed:
                piece += answer.add(token)
                if answer.ended:
                    break
            if piece:
                job.tell(piece)
            if answer.ended:
                break
        if rest := answer.rest():
            job.tell(rest)
        tokens = answer.tokens
        finish = "stop_string" if answer.ended else str(decoding.finish)
        spent = time.perf_counter() - began, prefill
        del job.said[len(tokens) :]
        kept = source.reused, source.choose.seed
        return Generation(tuple(job.ids), tuple(tokens), "", finish, *spent, tuple(job.rounds), *kept)
