"""Exports of trained models: for timm, torchvision, ONNX and TorchScript, each with a model card."""
