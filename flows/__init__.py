"""The two flows, configure and daily-close, and the rules they follow."""
