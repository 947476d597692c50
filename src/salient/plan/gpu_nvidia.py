"""NVIDIA's devices.

Memory is what nvidia-smi shows, in MiB: less than what the box says, for the driver and ECC keep a
part. Of devices that share their memory with the CPU it is what CUDA reports.

TFLOP/s are float16 products summed in float32, without sparsity. GeForce cards do that at half the
rate that advertisements print, which sums in float16. Before Volta there are no tensor cores: the
figure is float32's. A figure is counted from CUDA cores and boost clock where white papers print
it for a few cards only; `per_core` reproduces those.

Left out: laptop GPUs, whose clocks differ from maker to maker.
"""

from functools import partial

from .gpu_rows import GpuSeries, Row, records

_Family = partial(GpuSeries, "nvidia", mib=True)

# Sources print sparse figures from Ampere on; rows hold the half.
FAMILIES = {
    "P100": _Family("Pascal", "NVIDIA Tesla P100 data sheet", capability=60),
    "P40": _Family("Pascal", "NVIDIA Tesla P40 data sheet", capability=61),
    "GTX 10": _Family("Pascal", "NVIDIA Turing white paper, table 1", capability=61),
    "V100": _Family("Volta", "NVIDIA V100 and V100S data sheets", capability=70),
    "T4": _Family("Turing", "NVIDIA T4 product brief", capability=75),
    "Quadro": _Family("Turing", "NVIDIA Turing white paper, Quadro pages", 16, capability=75),
    "RTX 20": _Family("Turing", "NVIDIA Turing white paper, GeForce pages", 8, capability=75),
    "A100": _Family("Ampere", "NVIDIA A100 and A30 data sheets", capability=80),
    "A10": _Family("Ampere", "NVIDIA A2, A10, A10G, A16 and A40 data sheets", capability=86),
    "RTX A": _Family("Ampere", "NVIDIA GA102 white paper, RTX A data sheets", 8, capability=86),
    "RTX 30": _Family("Ampere", "NVIDIA GA102 white paper, GeForce pages", 4, capability=86),
    "Orin": _Family("Ampere", "NVIDIA Jetson AGX Orin technical brief", capability=87),
    "L40": _Family("Ada", "NVIDIA L4, L20, L40 and L40S data sheets", capability=89),
    "RTX Ada": _Family("Ada", "NVIDIA Ada white paper, RTX Ada data sheets", 8, capability=89),
    "RTX 40": _Family("Ada", "NVIDIA Ada white paper, GeForce pages", 4, capability=89),
    "H100": _Family("Hopper", "NVIDIA H100, H20, H200 and GH200 data sheets", capability=90),
    "B200": _Family("Blackwell", "NVIDIA HGX B200 and GB200 NVL72 pages", capability=100),
    "B300": _Family("Blackwell", "NVIDIA HGX B300 and GB300 NVL72 pages", capability=103),
    "Thor": _Family("Blackwell", "NVIDIA Jetson T5000 data sheet", capability=110),
    "PRO": _Family("Blackwell", "NVIDIA RTX Blackwell PRO white paper", 8, capability=120),
    "RTX 50": _Family("Blackwell", "NVIDIA RTX Blackwell white paper", 4, capability=120),
    "Spark": _Family("Blackwell", "NVIDIA DGX Spark page", capability=121),
}

# A bare name that fits several rows ("H100", "A100") is an alias of the commonest; "RTX 4060 Ti"
# and "RTX 5060 Ti", of which two memories are common, are the smaller.
ROWS: tuple[Row, ...] = (
    ("P100", "P100 PCIe 16GB", 16384, 732, 9.3, 0, "P100, P100 PCIe"),
    ("P100", "P100 SXM2 16GB", 16384, 732, 10.6, 0, "P100 SXM2"),
    ("P40", "P40", 23040, 346, 11.8, 0, ""),
    ("GTX 10", "GTX 1080 Ti", 11264, 484, 11.3, 0, ""),
    ("V100", "V100 SXM2 16GB", 16384, 900, 125, 0, "V100, V100 SXM2, V100 SXM"),
    ("V100", "V100 SXM2 32GB", 32768, 900, 125, 0, "V100 32GB, V100 SXM 32GB"),
    ("V100", "V100 PCIe 16GB", 16384, 900, 112, 0, "V100 PCIe"),
    ("V100", "V100 PCIe 32GB", 32768, 900, 112, 0, ""),
    ("V100", "V100S PCIe 32GB", 32768, 1134, 130, 0, "V100S"),
    ("T4", "T4", 15360, 320, 65, 0, ""),
    ("Quadro", "Titan RTX", 24576, 672, 4608, 1770, ""),
    ("Quadro", "Quadro RTX 4000", 8192, 416, 2304, 1545, ""),
    ("Quadro", "Quadro RTX 5000", 16384, 448, 3072, 1815, ""),
    ("Quadro", "Quadro RTX 6000", 24576, 672, 4608, 1770, ""),
    ("Quadro", "Quadro RTX 8000", 49152, 672, 4608, 1770, "RTX 8000"),
    ("RTX 20", "RTX 2060", 6144, 336, 1920, 1680, ""),
    ("RTX 20", "RTX 2060 Super", 8192, 448, 2176, 1650, ""),
    ("RTX 20", "RTX 2070", 8192, 448, 2304, 1620, ""),
    ("RTX 20", "RTX 2070 Super", 8192, 448, 2560, 1770, ""),
    ("RTX 20", "RTX 2080", 8192, 448, 2944, 1710, ""),
    ("RTX 20", "RTX 2080 Super", 8192, 496, 3072, 1815, ""),
    ("RTX 20", "RTX 2080 Ti", 11264, 616, 4352, 1545, ""),
    ("A100", "A100 SXM 80GB", 81920, 2039, 312, 0, "A100, A100 SXM, A100 SXM4, A100 SXM4 80GB"),
    ("A100", "A100 SXM 40GB", 40960, 1555, 312, 0, "A100 40GB, A100 SXM4 40GB"),
    ("A100", "A100 PCIe 80GB", 81920, 1935, 312, 0, "A100 PCIe, A100 80GB PCIe"),
    ("A100", "A100 PCIe 40GB", 40960, 1555, 312, 0, ""),
    ("A100", "A30", 24576, 933, 165, 0, ""),
    ("A10", "A2", 15356, 200, 18, 0, ""),
    ("A10", "A10", 23028, 600, 125, 0, ""),
    ("A10", "A10G", 23028, 600, 70, 0, ""),
    ("A10", "A16", 15356, 200, 17.9, 0, ""),  # one of the board's four
    ("A10", "A40", 46068, 696, 149.7, 0, ""),
    ("RTX A", "RTX A2000", 6138, 288, 3328, 1200, ""),
    ("RTX A", "RTX A2000 12GB", 12282, 288, 3328, 1200, ""),
    ("RTX A", "RTX A4000", 16376, 448, 6144, 1560, ""),
    ("RTX A", "RTX A4500", 20470, 640, 7168, 1650, ""),
    ("RTX A", "RTX A5000", 24564, 768, 8192, 1695, ""),
    ("RTX A", "RTX A5500", 24564, 768, 10240, 1665, ""),
    ("RTX A", "RTX A6000", 49140, 768, 10752, 1800, ""),
    ("RTX 30", "RTX 3050", 8192, 224, 2560, 1777, ""),
    ("RTX 30", "RTX 3060", 12288, 360, 3584, 1777, ""),
    ("RTX 30", "RTX 3060 Ti", 8192, 448, 4864, 1665, ""),
    ("RTX 30", "RTX 3070", 8192, 448, 5888, 1725, ""),
    ("RTX 30", "RTX 3070 Ti", 8192, 608, 6144, 1770, ""),
    ("RTX 30", "RTX 3080", 10240, 760, 8704, 1710, ""),
    ("RTX 30", "RTX 3080 12GB", 12288, 912, 8960, 1710, ""),
    ("RTX 30", "RTX 3080 Ti", 12288, 912, 10240, 1665, ""),
    ("RTX 30", "RTX 3090", 24576, 936, 10496, 1695, ""),
    ("RTX 30", "RTX 3090 Ti", 24564, 1008, 10752, 1860, ""),
    # dense float16 is a quarter of the 170 sparse INT8 TOPS of its GPU
    ("Orin", "Jetson AGX Orin 64GB", 62874, 204.8, 42.5, 0, "Orin, AGX Orin, Orin (nvgpu)"),
    ("L40", "L4", 23034, 300, 121, 242.5, ""),
    ("L40", "L20", 46068, 864, 119.5, 239, ""),
    ("L40", "L40", 46068, 864, 181.05, 362, ""),
    ("L40", "L40S", 46068, 864, 362.05, 733, ""),
    ("RTX Ada", "RTX 2000 Ada", 16380, 224, 2816, 2130, ""),
    ("RTX Ada", "RTX 4000 Ada", 20475, 360, 6144, 2175, ""),
    ("RTX Ada", "RTX 4500 Ada", 24570, 432, 7680, 2580, ""),
    ("RTX Ada", "RTX 5000 Ada", 32760, 576, 12800, 2550, ""),
    ("RTX Ada", "RTX 6000 Ada", 49140, 960, 18176, 2505, "RTX 6000"),
    ("RTX 40", "RTX 4060", 8188, 272, 3072, 2460, ""),
    ("RTX 40", "RTX 4060 Ti", 8188, 288, 4352, 2535, ""),
    ("RTX 40", "RTX 4060 Ti 16GB", 16380, 288, 4352, 2535, ""),
    ("RTX 40", "RTX 4070", 12282, 504, 5888, 2475, ""),
    ("RTX 40", "RTX 4070 Super", 12282, 504, 7168, 2475, ""),
    ("RTX 40", "RTX 4070 Ti", 12282, 504, 7680, 2610, ""),
    ("RTX 40", "RTX 4070 Ti Super", 16376, 672, 8448, 2610, ""),
    ("RTX 40", "RTX 4080", 16376, 717, 9728, 2505, ""),
    ("RTX 40", "RTX 4080 Super", 16376, 736, 10240, 2550, ""),
    ("RTX 40", "RTX 4090 D", 24564, 1008, 14592, 2520, ""),
    ("RTX 40", "RTX 4090", 24564, 1008, 16384, 2520, ""),
    ("H100", "H100 SXM", 81559, 3350, 989.4, 1978.9, "H100, H100 SXM5, H100 80GB HBM3"),
    ("H100", "H100 PCIe", 81559, 2039, 756, 1513, "H100 80GB PCIe"),
    ("H100", "H100 NVL", 95830, 3938, 835.5, 1671, ""),
    ("H100", "H20", 97871, 4000, 148, 296, ""),
    ("H100", "H200", 143771, 4800, 989.4, 1978.9, "H200 SXM"),
    ("H100", "H200 NVL", 143771, 4800, 835.5, 1671, ""),
    # the 480 GB in a name that nvidia-smi prints are the CPU's
    ("H100", "GH200 96GB", 97871, 4000, 989.4, 1978.9, "GH200, GH200 480GB"),
    ("H100", "GH200 144GB", 145920, 4900, 989.4, 1978.9, "GH200 144G HBM3e"),
    ("B200", "B200", 183359, 8000, 2250, 4500, "B200 SXM"),
    ("B200", "GB200", 189471, 8000, 2500, 5000, ""),
    ("B300", "B300", 275040, 8000, 2250, 4500, "B300 SXM, B300 SXM6 AC"),
    ("B300", "GB300", 284208, 8000, 2500, 5000, ""),
    # of the sparse FP4 rate (Thor 2070, Spark 1000), dense FP8 is a quarter, float16 an eighth
    ("Thor", "Jetson AGX Thor", 125772, 273, 258.7, 517.5, "Thor, Jetson Thor, AGX Thor"),
    ("Spark", "DGX Spark", 122470, 273, 125, 250, "GB10, Spark"),
    ("PRO", "RTX PRO 6000 Blackwell", 97887, 1792, 24064, 2617, "RTX PRO 6000, RTX 6000 PRO"),
    ("PRO", "RTX PRO 6000 Blackwell Max-Q", 97887, 1792, 24064, 2280, "RTX PRO 6000 Max-Q"),
    # its data sheet prints no clock: 2493 MHz are its 120 TFLOP/s in float32
    ("PRO", "RTX PRO 6000 Blackwell Server", 97887, 1597, 24064, 2493, "RTX PRO 6000 Server"),
    ("RTX 50", "RTX 5060", 8151, 448, 3840, 2497, ""),
    ("RTX 50", "RTX 5060 Ti", 8151, 448, 4608, 2572, ""),
    ("RTX 50", "RTX 5060 Ti 16GB", 16311, 448, 4608, 2572, ""),
    ("RTX 50", "RTX 5070", 12227, 672, 6144, 2512, ""),
    ("RTX 50", "RTX 5070 Ti", 16303, 896, 8960, 2452, ""),
    ("RTX 50", "RTX 5080", 16303, 960, 10752, 2617, ""),
    ("RTX 50", "RTX 5090", 32607, 1792, 21760, 2407, ""),
)

NVIDIA = records(FAMILIES, ROWS)
