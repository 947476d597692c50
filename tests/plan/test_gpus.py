"""The device catalogue: laws over its rows, figures against data sheets, names as people write."""

import math
import re

import pytest

from salient.core.errors import RequestError
from salient.plan.gpus import (
    EXAMPLES,
    LONGEST,
    catalogue,
    find_gpu,
    gpu_of_memory,
    simplified,
)

GPUS = catalogue()
ALL = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)

# https://developer.nvidia.com/cuda-gpus
CAPABILITIES = {
    "Pascal": {60, 61},
    "Volta": {70},
    "Turing": {75},
    "Ampere": {80, 86, 87},
    "Ada": {89},
    "Hopper": {90},
    "Blackwell": {100, 103, 110, 120, 121},
}
# https://rocm.docs.amd.com/en/latest/reference/gpu-specs.html
TARGETS = {
    "GCN 5": {"gfx906"},
    "CDNA": {"gfx908"},
    "CDNA 2": {"gfx90a"},
    "CDNA 3": {"gfx942"},
    "CDNA 4": {"gfx950"},
    "RDNA 2": {"gfx1030"},
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
    keys = [simplified(name) for gpu in GPUS for name in (gpu.name, *gpu.aliases)]
    assert len(keys) == len(set(keys))
    assert all(keys)


@ALL
def test_a_row_answers_to_its_names_however_they_are_written(gpu):
    for name in (gpu.name, *gpu.aliases):
        for spelled in (name, name.upper(), name.lower(), f" {name} ", name.replace(" ", "-")):
            assert find_gpu(spelled) is gpu
        assert "," not in name  # commas part the devices of a command line


@ALL
def test_figures_are_those_of_a_device_of_these_years(gpu):
    assert 5 < gpu.memory <= (1024 if gpu.vendor == "cpu" else 512)
    assert 60 < gpu.bandwidth <= 8000
    assert 0.4 < gpu.tflops <= 3000
    # products a byte read: a slipped digit or two swapped columns fall out of this
    assert 4 < 1000 * gpu.tflops / gpu.bandwidth < 1000
    assert gpu.source


@ALL
def test_fp8_is_twice_as_fast_and_only_where_there_is_hardware(gpu):
    if gpu.capability >= 89 or gpu.gfx.startswith(("gfx94", "gfx95", "gfx12")):
        assert gpu.fp8_tflops == pytest.approx(2 * gpu.tflops, rel=0.02)
    else:
        assert gpu.fp8_tflops == 0


@ALL
def test_a_capability_is_nvidias_and_a_target_amds(gpu):
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


# Names


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("nvidia geforce rtx 4090", "RTX 4090"),
        ("GeForce-RTX-4090 24GB", "RTX 4090"),
        ("RTX 4060 Ti 8GB", "RTX 4060 Ti"),
        ("RTX 4060 Ti 16GB", "RTX 4060 Ti 16GB"),
        # as nvidia-smi prints them
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB"),
        ("Tesla P100-PCIE-16GB", "P100 PCIe 16GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA GB10", "DGX Spark"),
        ("NVIDIA TITAN RTX", "Titan RTX"),
        ("Quadro RTX 6000", "Quadro RTX 6000"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        (
            "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
            "RTX PRO 6000 Blackwell Max-Q",
        ),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server"),
        # as rocminfo, xpu-smi, macOS and lscpu print them
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD Instinct MI250X / MI250", "MI250X"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("AMD Radeon PRO W7900", "Radeon PRO W7900"),
        ("Radeon 8060S Graphics", "Ryzen AI Max+ 395"),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", "Ryzen AI Max+ 395"),
        ("Intel(R) Arc(TM) B580 Graphics", "Arc B580"),
        ("Intel(R) Data Center GPU Max 1550", "Data Center GPU Max 1550"),
        ("Apple M3 Max", "M3 Max"),
        ("AMD EPYC 9654 96-Core Processor", "EPYC 9654"),
        ("Intel(R) Xeon(R) Platinum 8480+", "Xeon Platinum 8480+"),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "Xeon Platinum 8380"),
        ("13th Gen Intel(R) Core(TM) i7-13700H", "Core i7-13700H"),
    ],
)
def test_a_device_is_looked_up_as_people_and_drivers_spell_it(spelled, name):
    assert find_gpu(spelled).name == name


@pytest.mark.parametrize(
    ("bare", "name"),
    [
        ("H100", "H100 SXM"),
        ("A100", "A100 SXM 80GB"),
        ("A100 40GB", "A100 SXM 40GB"),
        ("V100", "V100 SXM2 16GB"),
        ("P100", "P100 PCIe 16GB"),
        ("GH200", "GH200 96GB"),
        ("MI300", "MI300X"),
        ("RTX 6000", "RTX 6000 Ada"),
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell"),
        ("RTX 5060 Ti", "RTX 5060 Ti"),
        ("M3 Max", "M3 Max"),
        ("CPU", "Ryzen 9 9950X"),
    ],
)
def test_a_name_of_several_devices_is_the_commonest(bare, name):
    assert find_gpu(bare).name == name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RTX 4091", "RTX 4090"),
        ("H10O", "H100 SXM"),
        ("MI300Z", "MI300X"),
        ("rtx 4080 sper", "RTX 4080 Super"),
        ("GeForce RTX 4090 Laptop GPU", "RTX 4090"),
        ("M5 Max", "M4 Max"),
        ("EPYC 9655", "EPYC 9654"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_five_and_an_alternative(name, nearest):
    message = (
        rf"^Unknown device {re.escape(repr(name))}. Try one of: (.*). Or give its memory alone"
    )
    with pytest.raises(RequestError, match=message + ": --vram GB works without") as error:
        find_gpu(name)
    match = re.search(message, str(error.value))
    assert match
    five = match[1].split(", ")
    assert len(set(five)) == 5
    assert nearest in five
    assert all(find_gpu(gpu_name).name == gpu_name for gpu_name in five)


@pytest.mark.parametrize("name", ["M3 Max 64GB", "RTX 4090 48GB", "RTX 4090 0GB", "A100 24GB"])
def test_a_memory_that_the_device_does_not_have_is_refused(name):
    with pytest.raises(RequestError, match=f"^Unknown device '{name}'. Try one of: "):
        find_gpu(name)


@pytest.mark.parametrize("name", ["", " ", "nvidia", "GeForce RTX", "\x00", "🙂", "(", "zzz\n"])
def test_a_name_without_content_gets_examples(name):
    with pytest.raises(RequestError, match=f"Try one of: {', '.join(EXAMPLES)}. Or"):
        find_gpu(name)


@pytest.mark.parametrize("name", ["GB", "24GB", "[a-z]*", "٢٤GB", "RTX 4090, H100"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(RequestError, match="Unknown device"):
        find_gpu(name)


@pytest.mark.parametrize("name", ["x" * 200_000, "RTX 4090" + " " * 200_000, "9" * 5000 + "GB"])
def test_a_name_without_end_is_refused_in_a_short_message(name):
    with pytest.raises(RequestError, match=re.escape(repr(name[:LONGEST]))) as error:
        find_gpu(name)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_in_the_catalogue(name):
    assert find_gpu(name).name == name


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
