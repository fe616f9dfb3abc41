"""Kept caches change how long a prompt takes to read, and nothing else."""

import pytest
import torch

from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.loop import Decoding
from lede.decode.prefix import Prefixes
from lede.decode.rules import Autoregressive, Del, LayerSkip, QPolicy
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource
from tests.decode.rounds import timeless
from tests.decode.test_exits import exit_heads
from tests.decode.values import random_policy
from tests.models import llama, ours, reference, variant
from tests.rules import RandomRule

TOKENS = 12
PROMPT = tuple(token % 61 for token in range(3, 200, 5))
KINDS = {
    "native": (torch.float32, True),
    "native, bf16": (torch.bfloat16, True),
    "eager": (torch.float32, False),
    "float64": (torch.float64, False),
}


def settings(**options) -> Settings:
    return Settings(TOKENS, stop_tokens=frozenset(), **options)


def rules(count: int) -> list:
    every = tuple(range(count))
    stateful = RandomRule((*every, count), seed=3, exit_chance=0.4)
    stateful.needs_state = stateful.needs_lookup = True
    return [
        QPolicy(random_policy(every)),
        LayerSkip(0, 8),
        Autoregressive(),
        stateful,
        LayerSkip(1, 5),
        Del(every[1:], count),
    ]


def asked(written: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """Prompts in order, each with how much of it is there when it comes; `written` is what follows PROMPT."""
    n, half = len(PROMPT), TOKENS // 2
    return [
        (PROMPT, 0),
        ((*PROMPT, *written, 7, 8), n + TOKENS - 1),  # a conversation's next turn; the last token was not run
        (PROMPT, n - 1),
        (PROMPT[:9], 8),
        (PROMPT[:1], 0),
        ((*PROMPT[:20], 1, 2, 3), 20),
        ((*PROMPT, *written[:half], 60, 59), n + half),  # diverges inside what was written
        ((9, 9), 0),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["grouped", "grouped, with heads", "odd"])
def test_a_text_is_what_it_is_without_kept_prefixes(name, kind):
    dtype, native = KINDS[kind]
    plain, *headed = name.split(", ")
    heads = exit_heads(ours(plain)) if headed else None
    model, kept = (from_transformers(variant(plain), dtype, native=native, exits=heads) for _ in range(2))
    written = generate(model, PROMPT, None, settings()).token_ids
    kept.prefixes, first = Prefixes(), list(KINDS).index(kind)
    for number, (prompt, reused) in enumerate(asked(written)):  # over the cases each rule meets several prompts
        rule, other = (rules(model.layer_count)[(first + number) % 6] for _ in range(2))
        fresh, done = generate(model, prompt, rule, settings()), generate(kept, prompt, other, settings())
        assert (done.token_ids, done.reused) == (fresh.token_ids, reused), (rule, prompt)
        if model.native:  # what early layers say too, to the bit
            assert timeless(done.rounds) == timeless(fresh.rounds)
        if dtype != torch.bfloat16:
            assert done.token_ids == reference(plain, prompt, TOKENS, dtype)


def test_keys_and_values_are_the_same_bits_however_a_text_is_cut():
    model = ours("grouped")
    tokens = [token % 61 for token in range(3, 500, 5)]
    with torch.inference_mode():
        stores = []
        for cut in (0, 1, 31, 32, 50):
            part, whole = model.cache(len(tokens)), model.cache(len(tokens) + 64)
            if cut:
                model.read(model.embed(tokens[:cut]), 0, part)
                whole.take(part, cut)
            model.read(model.embed(tokens[cut:]), cut, whole)
            stores.append(whole.store)
    assert all(torch.equal(store, stores[0]) for store in stores)


@pytest.mark.parametrize("native", [True, False])
def test_sampling_draws_the_same_tokens(native):
    model, kept = (from_transformers(variant("grouped"), torch.float32, native=native) for _ in range(2))
    kept.prefixes = Prefixes()
    for seed in range(4):
        wanted = settings(temperature=1.0, seed=seed)
        one, other = (generate(m, PROMPT, LayerSkip(2, 3), wanted) for m in (model, kept))
        assert one.token_ids == other.token_ids


@pytest.mark.parametrize("native", [True, False])
def test_rotations_that_depend_on_the_prompts_length(native):
    library = llama(max_position_embeddings=40, rope_parameters={"rope_type": "dynamic", "factor": 4.0})
    model, kept = (from_transformers(library, torch.float32, native=native) for _ in range(2))
    kept.prefixes = Prefixes()
    # up to 40 tokens the angles are the same; behind a longer prompt they are others, from the second position on
    for length, reused in ((10, 0), (30, 10), (39, 30), (60, 1), (60, 59), (50, 1), (20, 19)):
        prompt = [token % 61 for token in range(3, 3 + length)]
        one, other = (generate(m, prompt, LayerSkip(1, 3), settings()) for m in (model, kept))
        assert (other.token_ids, other.reused) == (one.token_ids, reused)


def test_a_text_that_was_broken_off_serves_as_far_as_it_was_written():
    model, kept = (from_transformers(variant("grouped"), torch.float32) for _ in range(2))
    kept.prefixes = Prefixes()

    def interrupt(round_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(kept, PROMPT, LayerSkip(1, 5), settings(), on_round=interrupt)
    begun = Decoding(ModelSource(kept, settings()), list(PROMPT), LayerSkip(1, 5))  # two under way at once
    between = Decoding(ModelSource(kept, settings()), list(PROMPT), LayerSkip(2, 5))
    pairs = zip(begun.rounds(), between.rounds(), strict=False)
    assert len(list(pairs)) > 1
    wanted = generate(model, PROMPT, None, settings())
    assert begun.tokens[: len(between.tokens)] == between.tokens[: len(begun.tokens)]
    prompt = (*PROMPT, *wanted.token_ids)
    one, other = (generate(m, prompt, LayerSkip(1, 5), settings()) for m in (model, kept))
    assert other.token_ids == one.token_ids and other.reused > len(PROMPT)


def test_memory_is_bounded_and_the_oldest_goes_first():
    model = from_transformers(variant("grouped"), torch.float32)

    def reused(*first: int) -> list[int]:
        return [generate(model, [token, *PROMPT[1:]], None, settings()).reused for token in first]

    model.prefixes = Prefixes()
    assert reused(0, 1, 0, 1, 0) == [0, 0, *[len(PROMPT) - 1] * 3]
    each = model.prefixes.nbytes / 3  # those of the last two, and of the second last's text again
    for bounds in ((2.5 * each / 2**20,), (512, 2)):  # the last text and two more
        model.prefixes = Prefixes(*bounds)
        assert reused(0, 1, 2, 3) == [0] * 4
        assert model.prefixes.nbytes == 3 * each
        assert reused(3, 2, 3, 1) == [*[len(PROMPT) - 1] * 3, 0]
    model.prefixes = Prefixes(0)
    assert reused(0, 0, 1, 0) == [0, len(PROMPT) - 1, 0, 0]
    model.prefixes.clear()
    assert reused(0) == [0] and model.prefixes.nbytes == each
