"""Decisions of what is served, as a run of the replay store: written by a thread of its own, on which nothing waits."""

import logging
import queue
import random
import threading
from pathlib import Path
from typing import Protocol

from lede import replay
from lede.collect.collector import episode_row, facts_of, header
from lede.collect.explore import Epsilon
from lede.collect.prompts import Prompt
from lede.collect.record import transitions
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.rules import ExitRule, QPolicy
from lede.decode.sampling import Settings
from lede.policy import Policy
from lede.replay.split import group_of
from lede.replay.writer import EpisodeWriter

WAITING = 64  # finished texts that are not written yet; more are left out
SECONDS = 30.0  # between two looks whether what is buffered should be written

log = logging.getLogger("lede")


class Served(Protocol):
    """A request that was answered, as the server has it.

    ids: of its prompt. group: the group that its text belongs to (`replay.split`), "" where it is its own.
    """

    @property
    def ids(self) -> list[int]: ...

    @property
    def group(self) -> str: ...

    @property
    def rule(self) -> ExitRule: ...

    @property
    def settings(self) -> Settings: ...


class Recorder:
    """Takes finished texts whose candidate layers are those of `policy`; others are left out.

    epsilon: share of the decisions that are drawn at random, which costs some speed and tells what the policy would not
    try. with_text: whether token ids are written too. Raises DatasetError where `out` is another model's dataset, or
    another server writes there.
    """

    def __init__(self, model: Model, policy: Policy, out: Path, epsilon: float = 0.0, with_text: bool = False):
        self._layers = tuple(layer for layer in policy.layers if layer < model.layer_count)
        self._epsilon, self._with_text, self._top = epsilon, with_text, model.layer_count
        replay.open_for_writing(out, header(model, self._layers), model.draft_vocabulary)
        dtype = str(model.dtype).removeprefix("torch.")
        arguments = {"source": "served", "epsilon": epsilon, "with_text": with_text, "dtype": dtype}
        behaviour = {"behaviour": {"explore": "epsilon", "epsilon": epsilon}}
        run = replay.start_run(out, arguments, lambda: facts_of(model) | behaviour, new_run=True)
        self._number = max(run.committed(), default=-1) + 1
        self._writer, self._full = EpisodeWriter(run), False
        self._finished: queue.Queue[tuple[Served, Generation] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write, name="lede-record", daemon=True)
        self._thread.start()

    def rule(self, policy: Policy) -> ExitRule:
        """The rule that serves a policy while it is recorded: one that sees all of the state."""
        seed = random.getrandbits(63)
        rule: ExitRule = Epsilon(policy, seed, self._epsilon) if self._epsilon else QPolicy(policy)
        rule.needs_trace = rule.needs_lookup = True
        return rule

    def __call__(self, job: Served, done: Generation) -> None:
        """Take a finished text; returns at once."""
        try:
            self._finished.put_nowait((job, done))
        except queue.Full:
            log.warning("an answer is not recorded: %s others wait to be written", WAITING)

    def close(self) -> None:
        """Write what was taken."""
        self._finished.put(None)
        self._thread.join()

    def _write(self) -> None:
        try:
            with self._writer:
                while (taken := self._next()) is not None:
                    try:
                        self._add(*taken)
                    except OSError as error:
                        self._full = True
                        log.error("recorded answers wait to be written: %s", error)
                    except Exception:
                        log.exception("an answer is not recorded")
        except Exception:
            log.exception("recorded answers could not be written")

    def _next(self) -> tuple[Served, Generation] | None:
        """The next finished text; while there is none, what is buffered is written."""
        while True:
            try:
                return self._finished.get(timeout=SECONDS)
            except queue.Empty:
                try:
                    self._writer.flush()
                except OSError as error:
                    log.error("recorded answers wait to be written: %s", error)

    def _add(self, job: Served, done: Generation) -> None:
        rows = transitions(self._number, done.rounds)
        if not rows["step"] or tuple(layer for layer in job.rule.layers if layer < self._top) != self._layers:
            return
        if self._full:  # what could not be written must not grow
            self._writer.flush()
            self._full = False
        group = group_of(job.group or job.ids)
        episode = episode_row(self._number, Prompt(group, "served", "", group=group), done, job.settings)
        if not self._with_text:
            episode |= {"prompt_tokens": [], "output_tokens": []}
            rows |= dict.fromkeys(("draft_token", "target_token"), [-1] * len(rows["step"]))
        self._number += 1
        self._writer.add(episode, rows)
