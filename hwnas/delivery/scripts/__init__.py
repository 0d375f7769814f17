"""The script of a run folder, one for each kind of data; they need numpy and ONNX Runtime."""
