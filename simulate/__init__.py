"""The decoder without a model: what any exit rule would do on recorded texts, and how long it would take."""
