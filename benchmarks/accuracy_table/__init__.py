"""What ``benchmarks/accuracy.py`` measures, a module for each kind of row."""
