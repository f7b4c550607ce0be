"""A checkpoint as files for use elsewhere, each measured beside the network itself."""

FORMATS = ("safetensors", "onnx", "int8", "exported_program")
