"""NumPy executors: what every generated path is compared with, bit for bit."""
