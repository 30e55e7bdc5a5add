"""Tensors to arrays and back, and carriers of a model that computes in bfloat16."""

import numpy as np
import pytest
import torch
from small_models import EVERY_KIND, F32, Shape, backbone, frames, off, stream

from model.arrays import numpy_dtype, to_numpy, to_tensor
from model.videoscan import VideoScan
from pipeline.core import BFLOAT16

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_numbers_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1 / 3, -3e-8, 65504.0, torch.inf, torch.nan], dtype=torch.float64).to(dtype)
    array = to_numpy(values)
    assert array.dtype == numpy_dtype(str(dtype).removeprefix("torch."))
    assert torch.equal(to_tensor(array, CPU, dtype).view(torch.uint8), values.view(torch.uint8))


@EVERY_KIND
def test_a_bfloat16_model_remembers_evicts_and_answers(kind: str) -> None:
    scan = VideoScan(backbone(Shape(kind=kind), torch.bfloat16), live=3)
    carriers, memory = stream(scan, frames(6))
    assert len(memory) == 3
    assert {(c.kv.dtype, c.embedding.dtype) for c in carriers} == {(BFLOAT16, np.dtype("float32"))}
    taken = scan._collate([carriers])
    told = torch.stack((taken.keys, taken.values))[:, :, 0].permute(3, 1, 0, 2, 4)
    assert taken.keys.dtype == torch.bfloat16
    assert to_numpy(told).tobytes() == np.stack([c.kv for c in carriers]).tobytes()
    wide = VideoScan(backbone(Shape(kind=kind), F32), live=3)
    exact, _ = stream(wide, frames(6))
    assert off([c.embedding for c in carriers], [c.embedding for c in exact]) < 0.05
    first = to_tensor(carriers[0].kv, CPU, torch.float32)
    assert off(first, exact[0].kv) < 0.05
    assert 0 < scan.judge(["Is it?"], [memory.carriers])[0].probability < 1
    assert scan.fingerprint != wide.fingerprint
