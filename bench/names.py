"""The methods of the bench by name, in the order of its tables; imports nothing, for a command to check names with."""

LIBRARY, EARLY_EXIT, BASELINE = "transformers", "transformers-early-exit", "autoregressive"
FAMILIES = (  # tuned by bench.tune
    "layerskip",
    "lite",
    "draft-verify",
    "length-heuristic",
    "del",
    "prompt-lookup",
    "adaptive-lookup",
)
# Method → the policy that it runs on.
POLICY_OF = {
    "lede": "lede",
    "lede-fixed-exit": "lede",
    "lede-fixed-length": "lede",
    "lede-exits": "lede-exits",
    "lede-paper": "lede-paper",
    "lede-paper-fixed-exit": "lede-paper",
    "lede-paper-fixed-length": "lede-paper",
}
REAL_LAYERS = ("lede-exits", "lede-paper")  # policies that must not have the lookup among their candidates
METHODS = (LIBRARY, EARLY_EXIT, BASELINE, *FAMILIES, *POLICY_OF)
