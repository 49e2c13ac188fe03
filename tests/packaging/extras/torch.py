"""The extra `torch` alone: a module and an exported program are packed and run."""

import numpy as np
import torch

import streamrt

torch.manual_seed(1)
module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
).eval()
x = torch.randn(2, 3, 8, 8)
streamrt.pack(module, "module.safetensors", example=x)
torch.export.save(torch.export.export(module, (x,)), "module.pt2")
streamrt.pack("module.pt2", "program.safetensors")
for name in ("module.safetensors", "program.safetensors"):
    with streamrt.Model(name, "1MiB") as model:
        np.testing.assert_allclose(model(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
