"""The methods of the bench by name, in the order of its tables; imports nothing, for a command to check names with."""

LIBRARY, EARLY_EXIT, BASELINE = "transformers", "transformers-early-exit", "autoregressive"
EXITS = ("layerskip", "lite", "draft-verify", "kangaroo", "length-heuristic", "del")
FAMILIES = (*EXITS, "prompt-lookup", "adaptive-lookup", "cascade", "ucb", "tapout")
# The paper's Table 3: half of the policy, the other half fixed at what is fastest on the training prompts.
ABLATIONS = ("lede-fixed-exit", "lede-fixed-length")
# Method → the policy that it runs on; any other name is a policy's own.
POLICY_OF = {
    "lede": "lede",
    "lede-fixed-exit": "lede",
    "lede-fixed-length": "lede",
    "lede-exits": "lede-exits",
    "lede-paper": "lede-paper",
}
WITHOUT_POLICY = (LIBRARY, EARLY_EXIT, BASELINE, *FAMILIES)
METHODS = (*WITHOUT_POLICY, *POLICY_OF)
# Measured where they are asked for: each alone, or all of them as LLAMA_CPP.
LLAMA_CPP = "llama-cpp"
NGRAMS = ("llama-cpp-bf16-ngram", "llama-cpp-q8_0-ngram")
LLAMA_CPPS = ("llama-cpp-bf16", "llama-cpp-q8_0", *NGRAMS)
FOREIGN = (LIBRARY, EARLY_EXIT, *LLAMA_CPPS)  # other decoders: nothing is known of their rounds
KNOWN = (*METHODS, *LLAMA_CPPS)
TUNED = (EARLY_EXIT, *FAMILIES, *ABLATIONS, *NGRAMS)  # have parameters that training prompts set
