"""Tuning: schedules searched for a core, measured on a simulated core or on real devices."""
