"""What the makers' data sheets say of common GPUs, and which of them a device is."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """Dense products (not the figure "with sparsity") that are summed in float32, and the memory.

    TFLOP/s by number format, None where the card's tensor cores do not have it; and GB/s.
    """

    bfloat16: float | None
    tf32: float | None
    float32: float
    bandwidth: float

    def peak(self, number_format: str) -> float:
        """TFLOP/s in 'bfloat16', 'TF32' or 'float32'; without that format, those of float32."""
        special = {"bfloat16": self.bfloat16, "TF32": self.tf32}.get(number_format)
        return special or self.float32


CARDS = {
    "NVIDIA H200": Card(989, 495, 67, 4800),
    "NVIDIA H200 NVL": Card(836, 418, 60, 4800),
    "NVIDIA H100 80GB HBM3": Card(989, 495, 67, 3350),
    "NVIDIA H100 NVL": Card(836, 418, 60, 3900),
    "NVIDIA H100 PCIe": Card(756, 378, 51, 2000),
    "NVIDIA A100-SXM4-80GB": Card(312, 156, 19.5, 2039),
    "NVIDIA A100-SXM4-40GB": Card(312, 156, 19.5, 1555),
    "NVIDIA A100 80GB PCIe": Card(312, 156, 19.5, 1935),
    "NVIDIA A100-PCIE-40GB": Card(312, 156, 19.5, 1555),
    "NVIDIA L40S": Card(362, 183, 91.6, 864),
    "NVIDIA L4": Card(121, 60, 30.3, 300),
    "NVIDIA A10": Card(125, 62.5, 31.2, 600),
    "NVIDIA RTX A6000": Card(155, 77.4, 38.7, 768),
    "NVIDIA GeForce RTX 4090": Card(165, 82.6, 82.6, 1008),
    "NVIDIA GeForce RTX 3090": Card(71, 35.6, 35.6, 936),
    "Tesla V100-SXM2-32GB": Card(None, None, 15.7, 900),
    "Tesla V100-SXM2-16GB": Card(None, None, 15.7, 900),
    "Tesla T4": Card(None, None, 8.1, 320),
}
"""The name that the driver gives a card, which is JAX's `device_kind` -> the card."""
