"""The device catalogue: laws over its rows, figures against data sheets."""

import math
import re

import pytest

from salient.core.errors import RequestError
from salient.plan.device_names import find_gpu
from salient.plan.gpus import catalogue, gpu_of_memory
from salient.plan.name_keys import simplified

GPUS = catalogue()

# https://developer.nvidia.com/cuda-gpus
CAPABILITIES = {
    "Maxwell": {52},
    "Pascal": {60, 61},
    "Volta": {70, 72},
    "Turing": {75},
    "Ampere": {80, 86, 87},
    "Ada": {89},
    "Hopper": {90},
    "Blackwell": {100, 103, 110, 120, 121},
}
# https://rocm.docs.amd.com/en/latest/reference/gpu-specs.html
TARGETS = {
    "GCN 4": {"gfx803"},
    "GCN 5": {"gfx900", "gfx906"},
    "CDNA": {"gfx908"},
    "CDNA 2": {"gfx90a"},
    "CDNA 3": {"gfx942"},
    "CDNA 4": {"gfx950"},
    "RDNA": {"gfx1010"},
    "RDNA 2": {"gfx1030", "gfx1031", "gfx1032"},
    "RDNA 3": {"gfx1100", "gfx1101", "gfx1102"},
    "RDNA 3.5": {"gfx1151"},
    "RDNA 4": {"gfx1200", "gfx1201"},
}


# Laws over the rows


def test_the_catalogue_has_devices_of_every_vendor_and_age():
    assert len(GPUS) >= 60
    families = {gpu.architecture.split()[0] for gpu in GPUS}
    assert {*CAPABILITIES, "CDNA", "RDNA", "Apple", "Xe2", "Zen", "Neoverse"} <= families
    assert {gpu.vendor for gpu in GPUS} == {"nvidia", "amd", "intel", "apple", "cpu"}


def test_no_two_rows_answer_to_one_name():
    rows = {(simplified(name), gpu.name) for gpu in GPUS for name in (gpu.name, *gpu.aliases)}
    keys = [key for key, _ in rows]
    assert len(keys) == len(set(keys))
    assert all(keys)


def test_a_row_answers_to_its_names_however_they_are_written():
    for gpu in GPUS:
        for name in (gpu.name, *gpu.aliases):
            for spelled in (name, name.upper(), f" {name} ".lower().replace(" ", "-")):
                one = find_gpu(spelled)
                assert one is gpu or one.name == f"{gpu.name} {one.memory:g}GB"  # a Mac's
            assert "," not in name  # commas part the devices of a command line


def test_figures_are_those_of_a_device_of_these_years():
    for gpu in GPUS:
        assert 2 < gpu.memory <= (1024 if gpu.vendor == "cpu" else 512)
        assert 50 < gpu.bandwidth <= 8000
        assert 0.4 < gpu.tflops <= 3000
        # products a byte read: a slipped digit or two swapped columns fall out of this
        assert 4 < 1000 * gpu.tflops / gpu.bandwidth < 1000
        assert gpu.source


def test_fp8_is_twice_as_fast_and_only_where_there_is_hardware():
    for gpu in GPUS:
        if gpu.capability >= 89 or gpu.gfx.startswith(("gfx94", "gfx95", "gfx12")):
            assert gpu.fp8_tflops == pytest.approx(2 * gpu.tflops, rel=0.02)
        else:
            assert gpu.fp8_tflops == 0


def test_a_capability_is_nvidias_and_a_target_amds():
    for gpu in GPUS:
        tables = f"A new {gpu.architecture!r} needs a row in CAPABILITIES or TARGETS of this file"
        in_capabilities = gpu.capability in CAPABILITIES.get(gpu.architecture, ())
        in_targets = gpu.gfx in TARGETS.get(gpu.architecture, ())
        assert in_capabilities == (gpu.vendor == "nvidia"), tables
        assert in_targets == (gpu.vendor == "amd"), tables
        assert bool(gpu.capability) == (gpu.vendor == "nvidia")
        assert bool(gpu.gfx) == (gpu.vendor == "amd")


# Figures against what vendors print


@pytest.mark.parametrize(
    ("name", "tflops", "fp8"),
    [
        # Turing white paper, table 1: reference clocks, float32 accumulate
        ("RTX 2080 Ti", 53.8, 0),
        ("Quadro RTX 6000", 130.5, 0),
        ("T4", 65, 0),  # T4 data sheet
        ("V100 SXM2", 125, 0),  # V100 data sheet
        ("A100", 312, 0),  # A100 data sheet; 624 is sparse
        # GA102 white paper, tables 2 and 3: dense, float32 accumulate
        ("RTX 3090", 71, 0),
        ("RTX 3080", 59.5, 0),
        ("RTX 3070", 40.6, 0),
        ("RTX A6000", 154.8, 0),
        # Ada white paper 2.1, appendix: dense, float32 accumulate
        ("RTX 4090", 165.2, 330.3),
        ("RTX 4080", 97.5, 194.9),
        ("RTX 6000 Ada", 364.2, 728.5),
        ("L40S", 362.05, 733),  # L40S data sheet
        ("L4", 121, 242.5),  # L4 data sheet: 242 and 485 sparse
        ("H100 SXM", 989.5, 1979),  # H100 data sheet: 1979 and 3958 sparse
        ("H100 PCIe", 756, 1513),  # H100 data sheet: 1513 and 3026 sparse
        # RTX Blackwell white paper, appendix A: dense, float32 accumulate
        ("RTX 5090", 209.5, 419),
        ("RTX 5080", 112.6, 225.1),
        ("RTX PRO 6000", 503.8, 1007.6),  # RTX Blackwell PRO white paper
        # AMD's product pages: matrix half precision and FP8, dense
        ("MI60", 29.5, 0),
        ("MI100", 184.6, 0),
        ("MI210", 181, 0),
        ("MI250X", 383 / 2, 0),  # a die of two
        ("MI300X", 1307.4, 2614.9),
        ("MI355X", 2516.6, 5033.2),
        ("RX 7900 XTX", 122.8, 0),
        ("RX 9070 XT", 195, 389),
        ("Max 1550", 839 / 2, 0),  # Intel's brief: 839 of both tiles
        # Apple's announcements
        ("M1 Max", 10.4, 0),
        ("M2 Ultra", 27.2, 0),
        # A Xeon's core: 16 x 16 x 32 products in 16 cycles
        ("Xeon Platinum 8480+", 56 * 2.0 * (16 * 16 * 32 * 2 / 16) / 1000, 0),
    ],
)
def test_rates_are_the_vendors_own_dense_ones(name, tflops, fp8):
    gpu = find_gpu(name)
    assert gpu.tflops == pytest.approx(tflops, rel=7e-3)
    assert gpu.fp8_tflops == pytest.approx(fp8, rel=7e-3)


@pytest.mark.parametrize(
    ("name", "bits", "gbps"),
    [
        # width of the memory bus and data rate of a pin, from the vendors' pages
        ("RTX 2080 Ti", 352, 14),
        ("T4", 256, 10),
        ("RTX 3060", 192, 15),
        ("RTX 3090", 384, 19.5),
        ("A10", 384, 12.5),
        ("RTX A6000", 384, 16),
        ("RTX 4060 Ti", 128, 18),
        ("RTX 4080", 256, 22.4),
        ("RTX 4090", 384, 21),
        ("L40S", 384, 18),
        ("RTX 5070 Ti", 256, 28),
        ("RTX 5090", 512, 28),
        ("A100 40GB", 5120, 2.43),
        ("H200", 6144, 6.25),
        ("DGX Spark", 256, 8.533),
        ("RX 7900 XTX", 384, 20),
        ("RX 9070 XT", 256, 20),
        ("MI300X", 8192, 5.2),
        ("Strix Halo", 256, 8),
        ("Arc B580", 192, 19),
        ("M2 Max", 512, 6.4),
        ("M4 Max", 512, 8.533),
        # CPUs: channels of 64 bits and MT/s
        ("EPYC 9004", 12 * 64, 4.8),
        ("EPYC 9005", 12 * 64, 6.0),
        ("Sapphire Rapids", 8 * 64, 4.8),
        ("Emerald Rapids", 8 * 64, 5.6),
        ("Xeon 6980P", 12 * 64, 6.4),
        ("Xeon 6980P MRDIMM", 12 * 64, 8.8),
        ("Graviton3", 8 * 64, 4.8),
        ("Graviton4", 12 * 64, 5.6),
        ("Ryzen 9 9950X", 2 * 64, 5.6),
    ],
)
def test_bandwidth_is_the_bus_times_the_data_rate(name, bits, gbps):
    # Apple rounds 409.6 to 400, others to whole numbers
    assert find_gpu(name).bandwidth == pytest.approx(bits * gbps / 8, rel=0.025)


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        # nvidia-smi's totals
        ("T4", 15360),
        ("A10G", 23028),
        ("RTX 4090", 24564),
        ("L40S", 46068),
        ("A100 80GB", 81920),
        ("H100", 81559),
        ("H100 NVL", 95830),
        ("H200", 143771),
        ("B200", 183359),
        ("B300", 275040),
    ],
)
def test_memory_is_what_the_driver_shows(name, mib):
    assert find_gpu(name).memory == pytest.approx(mib / 1024, abs=0.005)


# A memory size alone


@pytest.mark.parametrize("gib", [0.5, 24, 79.6, 10_000])
def test_a_device_of_known_memory_has_no_other_figures(gib):
    gpu = gpu_of_memory(gib)
    assert gpu.memory == gib
    assert f"{gib:g} GiB" in gpu.name
    assert (gpu.bandwidth, gpu.tflops, gpu.fp8_tflops, gpu.capability, gpu.gfx) == (0, 0, 0, 0, "")


@pytest.mark.parametrize("gib", [0, -1, -0.0, math.nan, math.inf, -math.inf, 10_001, 1e300])
def test_a_memory_that_cannot_be_is_refused(gib):
    message = f"No device has {gib:g} GiB of memory. Give --vram a number above 0 and up to 10000"
    with pytest.raises(RequestError, match=re.escape(message)):
        gpu_of_memory(gib)
