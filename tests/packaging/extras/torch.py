"""The extra `torch` alone: a module is packed and run."""

import numpy as np
import torch

import streamrt

torch.manual_seed(1)
module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
).eval()
x = torch.randn(2, 3, 8, 8)
streamrt.pack(module, "module.safetensors", example=x)
with streamrt.Model("module.safetensors", "1MiB") as model:
    np.testing.assert_allclose(model(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
