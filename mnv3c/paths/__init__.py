"""Paths: each fixes an instruction set and a data layout, and lowers the integer graph to C stages."""
