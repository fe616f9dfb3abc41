"""Learning: an exit policy from logged decisions, offline, by n-step DQN. The only room that imports d3rlpy."""
