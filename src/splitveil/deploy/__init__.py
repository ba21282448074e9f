"""Deployment: a trained model as two ONNX files, one for the device and one for the cloud."""
