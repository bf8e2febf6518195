"""Models in the forms that others read: the Hugging Face hub's layout, and ONNX."""
