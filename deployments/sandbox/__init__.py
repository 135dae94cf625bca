"""A real HTTP OAuth server and Orders API that remember what they were asked."""
