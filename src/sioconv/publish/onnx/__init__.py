"""The model as an ONNX file: its graph, the comparison with PyTorch, the folder around it."""
