"""llama.cpp on the model's own weights, as bf16 and Q8_0, plain and with its own n-gram speculation.

It runs in this process, through `xllamacpp`, whose file of weights is written here: tensors renamed, queries and keys
in llama.cpp's order, and a vocabulary of numbers instead of words. Prompts go in as token ids, and what comes out is
read back as such, so that both decoders write from the same ids to the same end. Its kernels and its keys and values
(fp16) round otherwise than ours: its text may part from ours at a near tie.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lede.bench.errors import BenchError
from lede.bench.library import fastest, writer_method
from lede.bench.measure import Method
from lede.decode.backends.eager import paired
from lede.decode.model import Model
from lede.decode.sampling import Settings

KINDS = ("bf16", "q8_0")
# n-gram lengths to match and tokens to draft that are tried (llama.cpp's defaults are 12 and 48)
SPECULATION = [{"match": match, "drafts": drafts} for match in (3, 6, 12) for drafts in (4, 8, 16)]


class LlamaCpp:
    """llama.cpp over one model and kind of weights, with the decoder's number of threads."""

    def __init__(self, model: Model, path: str, kind: str, settings: Settings, longest: int):
        """`path`: where `transformers` finds the checkpoint; `longest`: tokens of the longest prompt.

        Raises BenchError for sampling, and for models that `write_gguf` does not know.
        """
        if settings.temperature > 0:
            raise BenchError("llama-cpp is compared on greedy texts only: leave it out of a sampled task")
        self.model, self.settings = model, settings
        self._length = min(longest + settings.max_new_tokens, model.context)
        self._folder = tempfile.TemporaryDirectory(prefix="lede-")  # gone with this object
        self._file = Path(self._folder.name, f"{kind}.gguf")
        loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        write_gguf(model, loaded.state_dict(), self._file, kind, settings)
        self._servers: dict[tuple[int, int], Any] = {}  # by speculation, which is a parameter of loading

    def _server(self, match: int = 0, drafts: int = 0) -> Any:
        import xllamacpp

        if (match, drafts) in self._servers:
            return self._servers[match, drafts]
        params = xllamacpp.CommonParams()
        params.model.path, params.verbosity = str(self._file), -1
        params.n_ctx, params.n_parallel, params.fit_params, params.cache_ram_mib = self._length, 1, False, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        if drafts:
            params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
            params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = match, drafts
        try:
            self._servers[match, drafts] = xllamacpp.Server(params)
        except RuntimeError as error:
            raise BenchError(f"llama.cpp does not load this model, leave it out: {error}") from None
        return self._servers[match, drafts]

    def write(self, ids: list[int], most: int | None = None, **speculation: int) -> tuple[int, ...]:
        """The new tokens, greedily."""
        tokens = min(most or self.settings.max_new_tokens, self.model.context - len(ids))
        asked = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "samplers": ["temperature"]}
        answer = self._server(**speculation).handle_completions(asked | {"cache_prompt": False})
        if "choices" not in answer:
            raise BenchError(f"llama.cpp refuses a prompt of {len(ids)} tokens: {answer}")
        return tuple(map(int, answer["choices"][0]["text"].split()))

    def method(self, name: str, **speculation: int) -> Method:
        """A row of the bench: a Generation without rounds."""
        return writer_method(self.model, name, lambda ids, seed: self.write(ids, **speculation))

    def tune(self, prompts: Sequence[list[int]], progress: Callable[[int, int], None]) -> dict[str, Any]:
        """The fastest speculation on training prompts."""
        for speculation in SPECULATION:
            self._server(**speculation)  # or its start would be timed
        tuned = fastest(self.write, SPECULATION, prompts, self.settings, progress)
        self._servers.clear()
        return tuned


def write_gguf(model: Model, weights: dict[str, torch.Tensor], file: Path, kind: str, settings: Settings) -> None:
    """A GGUF file of a Llama's weights, by their names in a checkpoint. Raises BenchError for scaled rotations."""
    import gguf

    config, rotary = model.config, model.config.rotary
    if rotary["rope_type"] != "default":
        raise BenchError(f"llama-cpp is not given models with {rotary['rope_type']!r} rotary embeddings: leave it out")
    writer = gguf.GGUFWriter(file, "llama")
    for name, value in {
        "context_length": model.context,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "key_length": config.head_dim,
        "value_length": config.head_dim,
        "rope_dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
        "rope_freq_base": float(rotary["rope_theta"]),
        "layer_norm_rms_eps": config.rms_norm_eps,
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"Ġ{token}" for token in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["Ġ 0"])
    writer.add_add_bos_token(False)
    for token, name in zip(sorted(settings.stops(model)), ("eos", "eot", "eom"), strict=False):
        getattr(writer, f"add_{name}_token_id")(token)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        rows = paired(weight, config.head_dim) if name.endswith(("q_proj.weight", "k_proj.weight")) else weight
        form = gguf.GGMLQuantizationType[kind.upper() if weight.dim() == 2 else "F32"]
        if form == gguf.GGMLQuantizationType.Q8_0 and weight.shape[1] % 32:
            form = gguf.GGMLQuantizationType.BF16
        data = gguf.quants.quantize(rows.float().contiguous().numpy(), form)
        writer.add_tensor(names.get_name(name, (".weight",)) or name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
