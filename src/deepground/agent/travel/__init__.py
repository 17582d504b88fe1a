"""Trips: a database of places and timetables, a planner that obeys constraints, and a checker that verifies them."""
