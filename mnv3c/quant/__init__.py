"""Post-training quantisation: from a float graph and calibration inputs to an integer graph."""

from mnv3c.quant.quantizer import quantize
from mnv3c.quant.state import Options

__all__ = ["Options", "quantize"]
