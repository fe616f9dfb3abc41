"""Every field of OpenAI's requests and of vLLM's extras: what becomes of it. docs/serving.md has the table.

A field that is not here is refused: it might change the text.
"""

from json import dumps
from typing import Any, NamedTuple

BOTH, CHAT, TEXT = "both", "chat", "completions"  # requests that have it
DONE, REFUSED, PASSED = "done", "refused", "passed over"


class Field(NamedTuple):
    """of: BOTH, CHAT or TEXT. off: of a refused one, the values that ask for nothing, as null does."""

    of: str
    by: str
    what: str
    about: str = ""
    off: tuple[Any, ...] = ()


def _refused(of: str, by: str, *off: Any, about: str = "") -> Field:
    return Field(of, by, REFUSED, about, off)


def _passed(of: str, by: str, about: str) -> Field:
    return Field(of, by, PASSED, about)


SAMPLED = "of sampling, as in `lede generate`"
LIBRARY = "slower than without: every draft goes through it too"
FIELDS = {
    "model": Field(BOTH, "OpenAI", DONE, "404 for another than the one that is served"),
    "messages": Field(CHAT, "OpenAI", DONE, "to the chat template: see below"),
    "prompt": Field(TEXT, "OpenAI", DONE, "text or token ids, one at a time"),
    "max_tokens": Field(
        BOTH, "OpenAI", DONE, "else as in `lede generate`: the generation config, 128; of a chat 1,024"
    ),
    "max_completion_tokens": Field(BOTH, "OpenAI", DONE, "the same; 400 where the two differ"),
    "temperature": Field(BOTH, "OpenAI", DONE, "0: greedy; else the generation config, 0"),
    "top_p": Field(BOTH, "OpenAI", DONE, SAMPLED),
    "top_k": Field(BOTH, "vLLM", DONE, f"0 or -1: all; {SAMPLED}"),
    "min_p": Field(BOTH, "vLLM", DONE, SAMPLED),
    "seed": Field(BOTH, "OpenAI", DONE, SAMPLED),
    "repetition_penalty": Field(BOTH, "vLLM", DONE, "of `transformers`: the prompt counts"),
    "frequency_penalty": Field(BOTH, "OpenAI", DONE, f"of the answer's tokens; {LIBRARY}"),
    "presence_penalty": Field(BOTH, "OpenAI", DONE, "the same"),
    "logit_bias": Field(BOTH, "OpenAI", DONE, "the same"),
    "allowed_token_ids": Field(BOTH, "vLLM", DONE, "the same"),
    "stop": Field(BOTH, "OpenAI", DONE, "looked for in the answer, in its special tokens too; left out of the text"),
    "include_stop_str_in_output": Field(BOTH, "vLLM", DONE, "true: not left out"),
    "stop_token_ids": Field(BOTH, "vLLM", DONE, "beside the model's own"),
    "ignore_eos": Field(BOTH, "vLLM", DONE, "true: only `stop_token_ids` end the text"),
    "min_tokens": Field(BOTH, "vLLM", DONE, "before so many nothing ends the text"),
    "skip_special_tokens": Field(BOTH, "vLLM", DONE, "false: they are in the text"),
    "add_special_tokens": Field(BOTH, "vLLM", DONE, "around a prompt of text; of a chat, beside the template's"),
    "add_generation_prompt": Field(CHAT, "vLLM", DONE, "false: the text goes on where the last message ended"),
    "continue_final_message": Field(CHAT, "vLLM", DONE, "true: within the last message"),
    "chat_template_kwargs": Field(CHAT, "vLLM", DONE, "400 for those that the template does not read"),
    "documents": Field(CHAT, "vLLM", DONE, "the same"),
    "reasoning_effort": Field(CHAT, "OpenAI", DONE, "the same"),
    "logprobs": Field(BOTH, "OpenAI", DONE, "in whole answers: the full model's, before all of the above"),
    "top_logprobs": Field(CHAT, "OpenAI", DONE, "with `logprobs`"),
    "stream": Field(BOTH, "OpenAI", DONE),
    "stream_options": Field(BOTH, "OpenAI", DONE, "`include_usage`; `include_obfuscation` is passed over"),
    "request_id": Field(BOTH, "vLLM", DONE, "is the answer's `id`"),
    "lede": Field(BOTH, "lede", DONE, "`policy`: NAME, or null for plain decoding"),
    "n": _refused(BOTH, "OpenAI", 1),
    "best_of": _refused(TEXT, "OpenAI", 1),
    "echo": _refused(BOTH, "OpenAI", False),
    "suffix": _refused(TEXT, "OpenAI", ""),
    "tools": _refused(CHAT, "OpenAI", [], about="nothing here reads calls out of an answer"),
    "tool_choice": _refused(CHAT, "OpenAI", "none", "auto"),
    "functions": _refused(CHAT, "OpenAI", []),
    "function_call": _refused(CHAT, "OpenAI", "none", "auto"),
    "response_format": _refused(BOTH, "OpenAI", {"type": "text"}),
    "modalities": _refused(CHAT, "OpenAI", ["text"]),
    "audio": _refused(CHAT, "OpenAI"),
    "verbosity": _refused(CHAT, "OpenAI", "medium"),
    "web_search_options": _refused(CHAT, "OpenAI"),
    "moderation": _refused(CHAT, "OpenAI"),
    "store": _refused(CHAT, "OpenAI", False, about="nothing is kept for you"),
    "use_beam_search": _refused(BOTH, "vLLM", False),
    "length_penalty": _refused(BOTH, "vLLM", 1),
    "early_stopping": _refused(BOTH, "vLLM", False),
    "watermarking": _refused(BOTH, "vLLM", False),
    "spaces_between_special_tokens": _refused(BOTH, "vLLM", True),
    "truncate_prompt_tokens": _refused(BOTH, "vLLM"),
    "truncation_side": _refused(BOTH, "vLLM"),
    "prompt_logprobs": _refused(BOTH, "vLLM"),
    "logprob_token_ids": _refused(BOTH, "vLLM"),
    "bad_words": _refused(BOTH, "vLLM", [], about="a word has many spellings in tokens: name them in `logit_bias`"),
    "chat_template": _refused(CHAT, "vLLM", about="the checkpoint's own is used"),
    "media_io_kwargs": _refused(CHAT, "vLLM", {}),
    "mm_processor_kwargs": _refused(CHAT, "vLLM", {}),
    "structured_outputs": _refused(BOTH, "vLLM"),
    "structural_tag": _refused(BOTH, "vLLM"),
    "guided_json": _refused(BOTH, "vLLM"),
    "guided_regex": _refused(BOTH, "vLLM"),
    "guided_choice": _refused(BOTH, "vLLM"),
    "guided_grammar": _refused(BOTH, "vLLM"),
    "guided_decoding_backend": _refused(BOTH, "vLLM"),
    "guided_whitespace_pattern": _refused(BOTH, "vLLM"),
    "logits_processors": _refused(BOTH, "vLLM", []),
    "thinking_token_budget": _refused(BOTH, "vLLM", -1),
    "repetition_detection": _refused(BOTH, "vLLM"),
    "prompt_embeds": _refused(TEXT, "vLLM"),
    "priority": _refused(BOTH, "vLLM", 0, about="first come, first served"),
    "return_tokens_as_token_ids": _refused(BOTH, "vLLM", False),
    "return_token_ids": _refused(BOTH, "vLLM", False),
    "return_token_offsets": _refused(BOTH, "vLLM", False),
    "return_prompt_text": _refused(CHAT, "vLLM", False),
    "routed_experts_prompt_start": _refused(BOTH, "vLLM", 0),
    "cache_salt": _refused(BOTH, "vLLM", about="prefixes are kept for all"),
    "kv_transfer_params": _refused(BOTH, "vLLM"),
    "ec_transfer_params": _refused(BOTH, "vLLM"),
    "vllm_xargs": _refused(BOTH, "vLLM", {}),
    "user": _passed(BOTH, "OpenAI", "who asks"),
    "safety_identifier": _passed(CHAT, "OpenAI", "who asks"),
    "session_id": _passed(BOTH, "vLLM", "who asks"),
    "metadata": _passed(CHAT, "OpenAI", "notes about the request"),
    "prompt_cache_key": _passed(CHAT, "OpenAI", "speed alone"),
    "prompt_cache_options": _passed(CHAT, "OpenAI", "speed alone"),
    "prompt_cache_retention": _passed(CHAT, "OpenAI", "speed alone"),
    "prediction": _passed(CHAT, "OpenAI", "speed alone: drafts are made here"),
    "service_tier": _passed(CHAT, "OpenAI", "speed alone"),
    "stream_interval": _passed(BOTH, "vLLM", "the size of the pieces"),
    "parallel_tool_calls": _passed(CHAT, "OpenAI", "of tools, which are refused"),
    "include_reasoning": _passed(CHAT, "vLLM", "reasoning is not told from the answer"),
    "return_mm_kwargs": _passed(BOTH, "vLLM", "of no answer"),
}


def table() -> str:
    """FIELDS in Markdown."""
    lines = ["| field | of | by | | |", "|---|---|---|---|---|"]
    for name, field in FIELDS.items():
        about = field.about
        if field.off:
            off = ", ".join(f"`{dumps(value)}`" for value in field.off)
            about = f"{off} asks for nothing" + (f"; {about}" if about else "")
        lines.append(f"| `{name}` | {field.of} | {field.by} | {field.what} | {about} |")
    return "\n".join(lines)
