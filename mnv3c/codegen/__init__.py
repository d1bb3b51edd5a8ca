"""From the integer graph to a folder of C: stages of a path, memory plan, rendering, packing."""
