"""Scores of networks on labelled images: top-1, top-5, agreement with the float network."""

from mnv3c.evaluate.engines import Engine, float_engine, integer_engine, onnx_engine
from mnv3c.evaluate.scores import Score, evaluate, score

__all__ = ["Engine", "Score", "evaluate", "float_engine", "integer_engine", "onnx_engine", "score"]
