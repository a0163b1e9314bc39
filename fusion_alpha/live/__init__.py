"""The live router: feeds, guards, rolling state, decisions, orders and their journal."""
