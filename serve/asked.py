"""What is asked: requests in the form of OpenAI's API, and what they ask of the decoder. See `serve.fields`."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from lede.decode.chat import MessageError, chat_text
from lede.decode.generate import encode
from lede.decode.model import Model
from lede.decode.sampling import COMPILED, WITHOUT_PROCESSOR, compiles
from lede.serve.api import ApiError
from lede.serve.fields import BOTH, CHAT, DONE, FIELDS, REFUSED, TEXT

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
NOTHING = {"min_new_tokens": 0, "repetition_penalty": 1, "min_p": 0}  # options with values that change nothing


def one_of(what: str, **kinds: type) -> Discriminator:
    """Which of a union's members, tagged <str> and so on, a value is: else `what` is what it should be."""

    def kind(value: Any) -> str | None:
        if isinstance(value, list) and "rows" in kinds and value and not isinstance(value[0], int):
            return "<rows>" if isinstance(value[0], list) else "<texts>"
        return next((f"<{name}>" for name, one in kinds.items() if isinstance(value, one)), None)

    return Discriminator(kind, "type", f"Input should be {what}")


def described(kind: str) -> Callable[[dict[str, Any]], None]:
    """Puts into the OpenAPI document of a request what `Asked.check` takes of fields that are not done."""

    def add(schema: dict[str, Any]) -> None:
        schema["additionalProperties"] = False
        for name, field in FIELDS.items():
            if field.of in (BOTH, kind) and field.what != DONE:
                schema["properties"][name] = {"enum": [None, *field.off]} if field.what == REFUSED else {}

    return add


def text_alone(kind: Any) -> Any:
    """Refuse a part of a message that is no text, by its kind."""
    if kind != "text":
        raise PydanticCustomError("part", "{kind} is not supported here, text alone is", {"kind": repr(kind)})
    return kind


NonEmpty = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    Annotated[NonEmpty, Tag("<str>")] | Annotated[list[NonEmpty], Field(max_length=16), Tag("<list>")],
    one_of("a text or a list of texts", str=str, list=list),
]
Ids = Annotated[list[int], Field(min_length=1)]


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = STRICT
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Own(BaseModel):
    """What only this server understands. policy: one of those loaded, null for plain decoding."""

    model_config = STRICT
    policy: str | None = None


class Asked(BaseModel):
    """What requests of both kinds have; what is not given is as `lede generate` has it."""

    model_config = STRICT | {"extra": "allow"}  # see `check`
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    repetition_penalty: float | None = Field(None, gt=0)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    allowed_token_ids: Ids | None = None
    stop: Stop | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(None, ge=0)
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    request_id: NonEmpty | None = None
    lede: Own | None = None

    def ids(self, model: Model) -> list[int]:
        """The prompt's token ids. Raises ModelError and ApiError."""
        raise NotImplementedError

    @property
    def group(self) -> str:
        """What this request shares with others of its conversation; empty: nothing."""
        return ""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens are asked for with the log p of each; None: not even that."""
        raise NotImplementedError

    @property
    def most(self) -> int | None:
        """Tokens of the answer, at most."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def adjusts(self) -> bool:
        """Whether logits are to be changed by what no GenerationConfig has."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias or self.allowed_token_ids)

    def plain(self, model: Model) -> bool:
        """Whether tokens are chosen without the library's code."""
        asks: Any = self.min_tokens or self.adjusts
        if not compiles(model):
            asks = asks or self.temperature or (self.repetition_penalty or 1) != 1
        known = WITHOUT_PROCESSOR | (COMPILED if compiles(model) else set())
        return not asks and model.generation_config.keys() <= known

    def options(self, model: Model) -> dict[str, Any]:
        """What else is asked, by the names of a GenerationConfig. Raises ApiError."""
        given: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "min_p": self.min_p}
        given |= {"top_k": self.top_k if self.top_k != -1 else 0, "repetition_penalty": self.repetition_penalty}
        given |= {"min_new_tokens": self.min_tokens}
        for name, nothing in NOTHING.items():
            if given[name] == nothing and name not in model.generation_config:
                given[name] = None
        if self.ignore_eos or self.stop_token_ids:
            stops = set(check_ids(model, "stop_token_ids", self.stop_token_ids or []))
            given["eos_token_id"] = sorted(stops if self.ignore_eos else stops | model.stop_tokens)
        return {name: value for name, value in given.items() if value is not None}

    def check(self) -> None:
        """Raise ApiError for a field that is not honoured, and for those that contradict each other."""
        kind = CHAT if isinstance(self, Chat) else TEXT
        for name, value in (self.model_extra or {}).items():
            field = FIELDS.get(name)
            if field is None or (field.of in (CHAT, TEXT) and field.of != kind):
                what = f"{name} is no field of this request that is known here: leave it out"
                raise ApiError(400, what, name, "unknown_parameter")
            off = [one for one in field.off if isinstance(one, bool) == isinstance(value, bool)]
            if field.what == REFUSED and value is not None and value not in off:
                raise ApiError(400, f"{name} is not supported here: leave it out", name, "unsupported_parameter")
        if self.stream and self.alternatives is not None:
            raise ApiError(400, "logprobs are given with whole answers: leave out stream", "logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ApiError(400, "max_tokens and max_completion_tokens differ: give one of them", "max_tokens")
        if self.most is not None and (self.min_tokens or 0) > self.most:
            raise ApiError(400, f"min_tokens is above the {self.most} tokens of max_tokens", "min_tokens")


class Completion(Asked):
    """A request to go on from a text, or from token ids."""

    model_config = ConfigDict(json_schema_extra=described(TEXT))
    prompt: Annotated[
        Annotated[str, Tag("<str>")]
        | Annotated[list[int], Tag("<ids>")]
        | Annotated[list[str], Tag("<texts>")]
        | Annotated[list[list[int]], Tag("<rows>")],
        one_of("a text or a list of token ids", str=str, rows=tuple, ids=list),
    ]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    def ids(self, model: Model) -> list[int]:
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise ApiError(400, f"prompt has {len(prompt)} texts, and one is written at a time: give one", "prompt")
            prompt = prompt[0]
        if isinstance(prompt, str):
            prompt.encode()
            if self.add_special_tokens is False and model.tokenizer is not None:
                return list(model.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return encode(model, prompt)


class Part(BaseModel):
    """A part of a message; text alone is understood. What is said of caches is passed over."""

    model_config = STRICT
    type: Annotated[str, BeforeValidator(text_alone)]
    text: str
    prompt_cache_breakpoint: Any = None
    cache_control: Any = None


class Message(BaseModel):
    """A message of a conversation; what else it has goes to the chat template too."""

    model_config = STRICT | {"extra": "allow"}
    role: NonEmpty
    content: (
        Annotated[
            Annotated[str, Tag("<str>")] | Annotated[list[Part], Tag("<list>")],
            one_of("a text or a list of parts", str=str, list=list),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.content is None and not self.more:
            raise PydanticCustomError("content", "it has no content")
        return self

    @property
    def more(self) -> dict[str, Any]:
        """What it has beside role and content; what is empty asks for nothing."""
        return {name: value for name, value in (self.model_extra or {}).items() if value not in (None, "", [], {})}


class Chat(Asked):
    """A request to answer a conversation."""

    model_config = ConfigDict(json_schema_extra=described(CHAT))
    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs goes with logprobs: give logprobs = true too", "top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            what = "continue_final_message and add_generation_prompt exclude each other: give one of them"
            raise ApiError(400, what, "continue_final_message")
        for name in self.chat_template_kwargs or {}:
            if name in FIELDS:
                what = f"chat_template_kwargs.{name}: the request has a field of this name: give that"
                raise ApiError(400, what, "chat_template_kwargs")

    @property
    def said(self) -> list[dict[str, Any]]:
        """The messages as a chat template reads them. Raises ApiError."""
        said = []
        for i, message in enumerate(self.messages):
            content = message.content
            text = "".join(part.text for part in content) if isinstance(content, list) else content
            one: dict[str, Any] = {"role": message.role} | ({} if text is None else {"content": text}) | message.more
            if isinstance(calls := one.get("tool_calls"), list):
                one["tool_calls"] = [_read(call, f"messages[{i}].tool_calls[{j}]") for j, call in enumerate(calls)]
            said.append(one)
        return said

    @property
    def group(self) -> str:
        """All up to what its user says first."""
        said = self.said
        first = next((i for i, message in enumerate(said) if message["role"] == "user"), 0)
        return json.dumps(said[: first + 1])

    def ids(self, model: Model) -> list[int]:
        variables: dict[str, Any] = dict(self.chat_template_kwargs or {})
        named = {"documents": self.documents or None, "reasoning_effort": self.reasoning_effort}
        variables |= {name: value for name, value in named.items() if value is not None}
        begun, within = self.add_generation_prompt is not False, bool(self.continue_final_message)
        try:
            text = chat_text(model.name, model.tokenizer, self.said, begun, within, variables)
        except MessageError as error:
            inside = error.place in (self.chat_template_kwargs or {})
            place = f"chat_template_kwargs.{error.place}" if inside else error.place
            raise ApiError(400, f"chat_template_kwargs.{error}" if inside else str(error), place) from None
        text.encode()
        return list(model.tokenizer(text, add_special_tokens=bool(self.add_special_tokens))["input_ids"])


class Swap(BaseModel):
    """A folder to load a policy from, in place of the one of that name (of the first); neither: read all anew."""

    model_config = STRICT
    policy: str | None = None
    folder: str | None = None


def check_ids(model: Model, field: str, ids: list[int]) -> list[int]:
    """`ids`. Raises ApiError where one is no token of the model's."""
    for token in ids:
        if not 0 <= token < model.vocabulary:
            raise ApiError(400, f"{field}: {token} is no token id of 0…{model.vocabulary - 1}", field)
    return ids


def _read(call: Any, place: str) -> Any:
    """A call of a tool, its arguments as templates read them: values, where OpenAI's form has their JSON."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return call | {"function": function | {"arguments": json.loads(function["arguments"])}}
    except ValueError:
        raise ApiError(400, f"{place}.function.arguments: this is no JSON", "messages") from None
