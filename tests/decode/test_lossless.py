"""Whatever a rule does, the text is the model's own: that of `transformers`, or bit for bit that of plain decoding."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.rules import (
    Autoregressive,
    Cascade,
    Del,
    DraftVerify,
    ExitRule,
    LayerSkip,
    LengthHeuristic,
    Lite,
    QPolicy,
)
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource
from tests.decode.rounds import timeless
from tests.decode.values import random_policy
from tests.models import FIXED, VARIANTS, byte_llama, byte_tokenizer, library_text, llama, ours, reference, variant
from tests.rules import RandomRule

TOKENS = 40
PROMPTS = [(3,), (5, 9, 2, 30, 7, 1), (4, 4, 4, 4), (11, 12, 13) * 4, tuple(range(40, 8, -1))]


class Walker(ExitRule):
    """Exits at the first candidate, at none before the last, or at another one each round; drafts as long as it may."""

    def __init__(self, layers, exits, most=12, state=False, shadow=()):
        self.layers, self._exits, self.max_drafts, self.shadow_layers = layers, exits, most, shadow
        self.needs_state = self.needs_lookup = state

    def start(self):
        self._round = 0

    def exit_here(self, state):
        if self._exits == "alternate":
            return state.layer == self.layers[self._round % len(self.layers)]
        return self._exits == "first"

    def finish(self, round_):
        self._round += 1


def rules(layer_count: int) -> list[ExitRule]:
    """Adversarial rules, and every real one, for a model of so many layers."""
    inner, every = tuple(range(1, layer_count)), tuple(range(layer_count))
    drops = RandomRule((*every, layer_count), seed=4)
    drops.keeps_last = False
    return [
        Autoregressive(),
        ExitRule(),  # has no candidates, so it never drafts
        Walker(inner, "first"),
        Walker(inner, "never", state=True),
        Walker(every, "alternate", state=True),
        Walker(every, "alternate", most=3),
        LayerSkip(0, 12),
        LayerSkip(1, 60),  # drafts far beyond the end of the text
        LayerSkip(layer_count - 1, 1),
        RandomRule(every, seed=1),
        RandomRule(inner, seed=2, exit_chance=0.2, draft_chance=0.95),
        RandomRule((*every, layer_count), seed=3, exit_chance=0.2),
        drops,
        Walker((*every, layer_count), "alternate", state=True, shadow=inner),
        Lite(dict.fromkeys(inner, 0.5), 7),
        Lite(dict.fromkeys(inner, 0.8), 7, layer_count),
        DraftVerify(1, 0.3, step=0.2),
        DraftVerify(2, 0.5, keeps_last=False),
        LengthHeuristic(1, 3),
        Del(inner, layer_count, max_drafts=18),
        Del(inner[:2], layer_count, keeps_last=False),
        QPolicy(random_policy(every)),
        QPolicy(random_policy((*every, layer_count))),
        Cascade(1, 2, 1, 1, 20, 0.4, 5),
        Cascade(2, 1, 3, 2, 6, 0.6, 12, keeps_last=False, layer_count=layer_count),
    ]


KINDS = ["native", "eager", "float64"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_rule_writes_what_transformers_writes(name, kind):
    dtype = torch.float64 if kind == "float64" else torch.float32
    model = ours(name, dtype, native=kind != "eager")
    assert model.native == (kind == "native" and name != "odd")
    # each rule with another prompt, and every third rule a case, so that all meet in a few generations
    turn = (list(VARIANTS).index(name) + KINDS.index(kind)) % 3
    for number, rule in list(enumerate(rules(model.layer_count)))[turn::3]:
        prompt = PROMPTS[number % len(PROMPTS)]
        expected = reference(name, prompt, TOKENS, dtype)
        assert generate(model, list(prompt), rule, Settings(TOKENS)).token_ids == expected, rule


def test_the_models_write_varied_text_and_their_early_layers_guess_some_of_it():
    """Without both, the other tests would prove little."""
    for name in VARIANTS:
        texts = [reference(name, prompt, TOKENS) for prompt in PROMPTS]
        assert len({token for text in texts for token in text}) > 12
        done = [generate(ours(name), list(prompt), LayerSkip(1, 4), Settings(TOKENS)) for prompt in PROMPTS]
        drafted, accepted = sum(d.sums.drafted for d in done), sum(d.sums.accepted for d in done)
        assert 0.1 < accepted / drafted < 0.9


def cut(text: tuple[int, ...], stops: frozenset[int], most: int) -> tuple[tuple[int, ...], str]:
    """A greedy text as it should end: behind its first stop token, or at the limit."""
    text = text[:most]
    ends = [i for i, token in enumerate(text) if token in stops]
    return (text[: ends[0] + 1], "stop") if ends else (text, "length")


@st.composite
def requests(draw, layer_count=4, vocabulary=61):
    """A prompt, settings, and a rule."""
    prompt = draw(st.sampled_from(PROMPTS))
    candidates = tuple(sorted(draw(st.sets(st.integers(0, layer_count - 1), min_size=1))))
    seed, exits, drafts = draw(st.integers(0, 99)), draw(st.floats(0, 1)), draw(st.floats(0, 1))
    rule = RandomRule(candidates + draw(st.sampled_from([(), (layer_count,)])), seed, exits, drafts)
    rule.max_drafts, rule.keeps_last = draw(st.integers(1, 14)), draw(st.booleans())
    rule.needs_state = rule.needs_lookup = draw(st.booleans())
    rule.shadow_layers = tuple(sorted(draw(st.sets(st.integers(1, layer_count - 1)))))
    stops = frozenset(draw(st.sets(st.integers(0, vocabulary - 1), max_size=3)))
    return prompt, rule, Settings(draw(st.integers(1, TOKENS)), stop_tokens=stops)


@settings(FIXED, max_examples=150)
@given(requests())
def test_any_exit_depth_length_stop_and_limit(request):
    prompt, rule, options = request
    done = generate(ours("grouped"), list(prompt), rule, options)
    expected = cut(reference("grouped", prompt, TOKENS), options.stop_tokens, options.max_new_tokens)
    assert (done.token_ids, done.finish) == expected
    assert done.token_ids == tuple(token for round_ in done.rounds for token in round_.committed)
    position = len(prompt) - 1
    for round_ in done.rounds:
        assert round_.position == position
        assert len(round_.targets) == len(round_.drafts) + 1 <= rule.max_drafts + 1
        assert round_.drafts[: round_.accepted] == round_.targets[: round_.accepted]
        assert (
            round_.accepted == len(round_.drafts) or round_.drafts[round_.accepted] != round_.targets[round_.accepted]
        )
        position += len(round_.committed)


@settings(FIXED, max_examples=100)
@given(requests())
def test_in_bf16_speculation_is_plain_decoding_bit_for_bit(request):
    prompt, rule, options = request
    model = ours("grouped", torch.bfloat16)
    assert model.native
    plain = generate(model, list(prompt), None, options)
    assert generate(model, list(prompt), rule, options).token_ids == plain.token_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["grouped", "one-key-head, tied"])
def test_a_row_is_the_same_bits_whatever_is_beside_it_and_with_any_number_of_threads(name, dtype):
    model = from_transformers(variant(name), dtype)
    tokens = [(7 * i + i * i) % model.vocabulary for i in range(26)]

    def run(block: int, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
        model.backend.use_threads(threads)
        cache, out = model.cache(len(tokens)), []
        cache.store.fill_(1e30)  # what lies behind the text must not matter
        for start in range(0, len(tokens), block):
            x = model.run(0, 2, model.embed(tokens[start : start + block]), start, cache)
            out.append(model.run(2, model.layer_count, x, start, cache))
        x = torch.cat(out)
        return x, torch.cat([model.head(x[start : start + block]) for start in range(0, len(tokens), block)])

    alone = run(1, 1)
    for block, threads in [(2, 1), (5, 1), (13, 1), (26, 1), (7, 2), (26, 3)]:
        beside = run(block, threads)
        assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True)), (block, threads)


@pytest.mark.parametrize(
    "rule", [LayerSkip(1, 12), LayerSkip(3, 12), RandomRule((0, 1, 2))], ids=["deep", "late", "random"]
)
def test_an_end_of_text_inside_a_draft_block_ends_the_text_as_in_transformers(rule):
    model = ours("grouped")
    text = reference("grouped", PROMPTS[1], TOKENS)
    for stop in {text[0], text[3], text[9], text[-1]}:
        expected = library_text(variant("grouped"), PROMPTS[1], max_new_tokens=TOKENS, eos_token_id=stop)
        done = generate(model, list(PROMPTS[1]), rule, Settings(TOKENS, stop_tokens=frozenset({stop})))
        assert (done.token_ids, done.finish) == (expected, "stop")
        assert all(stop not in round_.drafts[:-1] for round_ in done.rounds)  # nothing is drafted behind it


def test_the_model_s_own_end_of_text_is_used_unless_others_are_given():
    stop = reference("grouped", PROMPTS[1], TOKENS)[5]
    library = llama(seed=1, eos_token_id=[stop, 60])
    model = from_transformers(library, torch.float32)
    own = generate(model, list(PROMPTS[1]), LayerSkip(1, 4), Settings(TOKENS))
    assert own.token_ids == library_text(library, PROMPTS[1], max_new_tokens=TOKENS)
    assert (own.finish, own.token_ids[-1]) == ("stop", stop)
    none = generate(model, list(PROMPTS[1]), LayerSkip(1, 4), Settings(TOKENS, stop_tokens=frozenset()))
    assert len(none.token_ids) == TOKENS


def test_stop_strings_end_the_text_as_in_transformers():
    library, tokenizer = byte_llama(), byte_tokenizer()
    model = from_transformers(library, torch.float32, tokenizer=tokenizer)
    prompt = tuple(tokenizer("def mean(values):")["input_ids"])
    text = library_text(library, prompt, max_new_tokens=TOKENS)
    # two bytes in a row that are characters, as late in the text as there are some
    pairs = [i for i in range(len(text) - 1) if all(33 <= ord(tokenizer.decode([t])) < 127 for t in text[i : i + 2])]
    stop = tokenizer.decode(list(text[pairs[-1] : pairs[-1] + 2]))
    assert len(stop) == 2
    expected = library_text(library, prompt, max_new_tokens=TOKENS, stop_strings=[stop], tokenizer=tokenizer)
    assert len(expected) < TOKENS
    for rule in rules(model.layer_count):
        done = generate(model, list(prompt), rule, Settings(TOKENS, stop_strings=("never in it", stop)))
        assert (done.token_ids, done.finish) == (expected, "stop_string"), rule


@pytest.mark.parametrize("processor", [RepetitionPenaltyLogitsProcessor(1.4), NoRepeatNGramLogitsProcessor(2)])
def test_logits_processors_see_the_whole_text_as_in_transformers(processor):
    processors = LogitsProcessorList([processor])
    differs = False
    for prompt in PROMPTS:
        expected = library_text(variant("grouped"), prompt, max_new_tokens=24, logits_processor=processors)
        differs |= expected != reference("grouped", prompt, TOKENS)[:24]
        for rule in rules(4):
            done = generate(ours("grouped"), list(prompt), rule, Settings(24, logits_processor=processors))
            assert done.token_ids == expected, rule
    assert differs


def test_the_context_is_filled_to_its_end_and_not_beyond():
    model = ours("grouped")
    prompt = tuple(i * i % 61 for i in range(model.context - 10))
    expected = reference("grouped", prompt, 10)
    for rule in rules(model.layer_count):
        done = generate(model, list(prompt), rule, Settings(100))
        assert (done.token_ids, done.finish) == (expected, "context")
        exact = generate(model, list(prompt), rule, Settings(10))
        assert (exact.token_ids, exact.finish) == (expected, "length")
    last = generate(model, [*prompt, *expected[:9]], LayerSkip(1, 4), Settings(100))
    assert (last.token_ids, last.finish) == (expected[9:], "context")


def test_prompts_longer_than_a_block_are_read_in_blocks():
    library = llama(seed=1, max_position_embeddings=1200)
    prompt = tuple(random.Random(0).choices(range(61), k=1100))
    for native in (True, False):
        done = generate(
            from_transformers(library, torch.float32, native=native), list(prompt), LayerSkip(2, 4), Settings(6)
        )
        assert done.token_ids == library_text(library, prompt, max_new_tokens=6)


def observed(model: Model, prompt: tuple[int, ...], rule: ExitRule):
    return timeless(generate(model, list(prompt), rule, Settings(TOKENS)).rounds)


def stateful() -> RandomRule:
    rule = RandomRule((0, 1, 2), seed=5)
    rule.needs_state = rule.needs_lookup = True
    return rule


def test_nothing_leaks_from_one_generation_into_the_next():
    rule = stateful()
    once = [observed(ours("grouped"), prompt, rule) for prompt in PROMPTS]
    again = [observed(ours("grouped"), prompt, rule) for prompt in reversed(PROMPTS)]
    fresh = [observed(ours("grouped"), prompt, stateful()) for prompt in PROMPTS]
    assert once == again[::-1] == fresh


def test_generations_may_take_turns_on_one_model():
    decodings = [
        Decoding(ModelSource(ours("grouped"), Settings(TOKENS)), list(prompt), stateful()) for prompt in PROMPTS[:2]
    ]
    turns = [[], []]
    running = [decoding.rounds() for decoding in decodings]
    while any(decoding.finish is None for decoding in decodings):
        for i, rounds in enumerate(running):
            turns[i] += [round_ for round_ in [next(rounds, None)] if round_ is not None]
    for i, prompt in enumerate(PROMPTS[:2]):
        assert timeless(turns[i]) == observed(ours("grouped"), prompt, stateful())


def test_another_model_s_text_is_not_the_same():
    """The comparisons above can fail."""
    other = from_transformers(llama(seed=2), torch.float32)
    assert generate(other, list(PROMPTS[1]), None, Settings(TOKENS)).token_ids != reference(
        "grouped", PROMPTS[1], TOKENS
    )


def test_a_decoding_left_half_way_leaves_gradients_as_they_were():
    model = from_transformers(llama(), torch.float32)
    rounds = Decoding(ModelSource(model, Settings(max_new_tokens=8)), [1, 2, 3], LayerSkip(1, 2)).rounds()
    next(rounds)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
