"""The methods of the bench by name, in the order of its tables; imports nothing, for a command to check names with."""

LIBRARY, EARLY_EXIT, BASELINE = "transformers", "transformers-early-exit", "autoregressive"
FAMILIES = (  # tuned by bench.tune
    "layerskip", "lite", "draft-verify", "length-heuristic", "del", "prompt-lookup", "adaptive-lookup",
)  # fmt: skip
# Method → the policy that it runs on.
POLICY_OF = {
    "lede": "lede", "lede-paper": "lede-paper", "lede-exits": "lede-exits", "lede-fixed-exit": "lede",
    "lede-fixed-length": "lede",
}  # fmt: skip
METHODS = (LIBRARY, EARLY_EXIT, BASELINE, *FAMILIES, *POLICY_OF)
