"""ONNX files before TVM sees them: reading, checking, and rewriting into a small set of operators.

TVM's importer trusts its input: odd attributes end in assertions of C++ or in a wrong network, and its
messages name no node. So every node is checked here, with its shapes, and written again in one form.
"""
