"""The decision process in numbers (paper §3.1): the phases of a round, the two actions, and limits.

The actions keep the paper's names in both phases: behind a draft, `EXIT` means "draft another" and `CONTINUE` means
"stop, and go on through the remaining layers", that is: verify.
"""

WALK, DRAFT = 0, 1  # phases of a round: the walk for its first draft, and the drafts after it
CONTINUE, EXIT = 0, 1  # actions

MAX_DRAFTS = 12  # per round, for rules that stop by themselves (paper §4.1)
LONG_DRAFTS = 31  # where more pays: a text that repeats itself goes on for long

TOP_K = 5  # k of the token confidence (paper §3.1.1)
TRACE = 20  # T of its trace
ACCEPT_DECAY = 0.85  # a token, of `accept_trace`
