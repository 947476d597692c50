"""Devices of AMD, Intel and Apple, and CPUs. Memory is in GiB.

What a row is, where it is not plain:
- AMD: MI250 and MI250X are one of the card's two dies, and Intel's Max 1550 is one of its two
  tiles, for drivers show them so. Without matrix cores (before CDNA and RDNA 3) the figure is that
  of float16 dot products, summed in float32. "Ryzen AI Max+ 395" is its GPU with all 128 GB of the
  machine; how much of it the GPU may take is a setting.
- Intel prints INT8 rates; float16 is half of them.
- Apple: memory is the largest that was sold with the chip; macOS lets the GPU have about three
  quarters of it. Products run on the GPU's plain lanes, where float16 is as fast as float32.
- CPUs: one socket with all its memory channels in use. Memory is a common amount, not the most.
  Cores are counted at base clock, in the widest instruction that multiplies bfloat16 and sums in
  float32 (a dot product does two a lane), or in float32 where there is none. Of a hybrid CPU the
  performance cores count. "CPU" alone is a desktop.
"""

from functools import partial

from .gpu_rows import GpuSeries, Row, records

_CDNA = partial(GpuSeries, "amd", source="AMD Instinct product pages, CDNA white papers")
_RDNA = partial(GpuSeries, "amd", source="AMD Radeon product pages, RDNA architecture guides")
# A core has 128 lanes. Apple prints no clocks: those of M1 and M2 give the TFLOP/s that it printed,
# those of M3 and M4 are the highest that its powermetrics lists.
_APPLE = partial(GpuSeries, "apple", source="Apple's technical specifications", per_core=256)
_EPYC = partial(GpuSeries, "cpu", source="AMD EPYC and Ryzen product pages")
_INTEL = partial(GpuSeries, "cpu", source="Intel ARK, Intel optimization reference manual")
_ARM = partial(GpuSeries, "cpu", per_core=64)

FAMILIES = {
    "MI50": _CDNA("GCN 5", per_core=256, gfx="gfx906"),
    "MI100": _CDNA("CDNA", per_core=1024, gfx="gfx908"),
    "MI200": _CDNA("CDNA 2", per_core=1024, gfx="gfx90a"),
    "MI300": _CDNA("CDNA 3", per_core=2048, gfx="gfx942"),
    "MI350": _CDNA("CDNA 4", per_core=4096, gfx="gfx950"),
    "Navi 21": _RDNA("RDNA 2", per_core=256, gfx="gfx1030"),
    "Navi 31": _RDNA("RDNA 3", per_core=512, gfx="gfx1100"),
    "Navi 32": _RDNA("RDNA 3", per_core=512, gfx="gfx1101"),
    "Navi 33": _RDNA("RDNA 3", per_core=512, gfx="gfx1102"),
    "Strix": _RDNA("RDNA 3.5", per_core=512, gfx="gfx1151"),
    "Navi 44": _RDNA("RDNA 4", per_core=1024, gfx="gfx1200"),
    "Navi 48": _RDNA("RDNA 4", per_core=1024, gfx="gfx1201"),
    "Arc A": GpuSeries("intel", "Xe HPG", "Intel Arc product pages"),
    "Arc B": GpuSeries("intel", "Xe2", "Intel Arc product pages"),
    "Max": GpuSeries("intel", "Xe HPC", "Intel Max 1550 page, oneAPI GPU guide", 4096),
    "M1": _APPLE("Apple M1"),
    "M2": _APPLE("Apple M2"),
    "M3": _APPLE("Apple M3"),
    "M4": _APPLE("Apple M4"),
    "Zen 3": _EPYC("Zen 3", per_core=32),
    "Zen 4": _EPYC("Zen 4", per_core=64),
    "Zen 5": _EPYC("Zen 5", per_core=128),
    "AVX2": _INTEL("Raptor Lake", per_core=32),
    "AVX-512": _INTEL("Ice Lake", per_core=64),
    "AMX 4": _INTEL("Sapphire Rapids", per_core=1024),
    "AMX 5": _INTEL("Emerald Rapids", per_core=1024),
    "AMX 6": _INTEL("Granite Rapids", per_core=1024),
    "V1": _ARM("Neoverse V1", "AWS Graviton technical guide, Arm's optimization guide"),
    "V2": _ARM("Neoverse V2", "AWS and NVIDIA Grace pages, Arm's optimization guide"),
}

# Cores are AMD's compute units, Intel's Xe cores and Apple's GPU cores.
ROWS: tuple[Row, ...] = (
    ("MI50", "MI50", 16, 1024, 60, 1725, ""),
    ("MI50", "MI50 32GB", 32, 1024, 60, 1725, ""),
    ("MI50", "MI60", 32, 1024, 64, 1800, ""),
    ("MI100", "MI100", 32, 1228.8, 120, 1502, ""),
    ("MI200", "MI210", 64, 1638.4, 104, 1700, ""),
    ("MI200", "MI250", 64, 1638.4, 104, 1700, ""),
    ("MI200", "MI250X", 64, 1638.4, 110, 1700, "MI250X / MI250"),
    ("MI300", "MI300A", 128, 5300, 228, 2100, ""),
    ("MI300", "MI300X", 192, 5300, 304, 2100, "MI300, MI300X OAM, MI300X VF"),
    ("MI300", "MI325X", 256, 6000, 304, 2100, "MI325X OAM"),
    ("MI350", "MI350X", 288, 8000, 256, 2200, ""),
    ("MI350", "MI355X", 288, 8000, 256, 2400, ""),
    ("Navi 21", "RX 6800 XT", 16, 512, 72, 2250, ""),
    ("Navi 21", "RX 6900 XT", 16, 512, 80, 2250, ""),
    ("Navi 31", "RX 7900 GRE", 16, 576, 80, 2245, ""),
    ("Navi 31", "RX 7900 XT", 20, 800, 84, 2400, ""),
    ("Navi 31", "RX 7900 XTX", 24, 960, 96, 2500, ""),
    ("Navi 31", "Radeon PRO W7800", 32, 576, 70, 2525, "W7800"),
    ("Navi 31", "Radeon PRO W7900", 48, 864, 96, 2495, "W7900"),
    ("Navi 32", "RX 7700 XT", 12, 432, 54, 2544, ""),
    ("Navi 32", "RX 7800 XT", 16, 624, 60, 2430, ""),
    ("Navi 33", "RX 7600 XT", 16, 288, 32, 2755, ""),
    ("Strix", "Ryzen AI Max+ 395", 128, 256, 40, 2900, "Strix Halo, Radeon 8060S"),
    ("Navi 44", "RX 9060 XT 16GB", 16, 320, 32, 3130, "RX 9060 XT"),
    ("Navi 48", "RX 9070", 16, 640, 56, 2520, ""),
    ("Navi 48", "RX 9070 XT", 16, 640, 64, 2970, ""),
    ("Navi 48", "Radeon AI PRO R9700", 32, 640, 64, 2920, "R9700"),
    ("Arc A", "Arc A750", 8, 512, 114.5, 0, ""),
    ("Arc A", "Arc A770", 16, 560, 131, 0, ""),
    ("Arc B", "Arc B570", 10, 380, 101.5, 0, ""),
    ("Arc B", "Arc B580", 12, 456, 116.5, 0, ""),
    ("Arc B", "Arc Pro B50", 16, 224, 85, 0, "B50"),
    ("Arc B", "Arc Pro B60", 24, 456, 98.5, 0, "B60"),
    ("Max", "Data Center GPU Max 1550", 64, 1638.4, 64, 1600, "Ponte Vecchio"),
    ("M1", "M1", 16, 68.25, 8, 1278, ""),
    ("M1", "M1 Pro", 32, 200, 16, 1278, ""),
    ("M1", "M1 Max", 64, 400, 32, 1278, ""),
    ("M1", "M1 Ultra", 128, 800, 64, 1278, ""),
    ("M2", "M2", 24, 100, 10, 1398, ""),
    ("M2", "M2 Pro", 32, 200, 19, 1398, ""),
    ("M2", "M2 Max", 96, 400, 38, 1398, ""),
    ("M2", "M2 Ultra", 192, 800, 76, 1398, ""),
    ("M3", "M3", 24, 100, 10, 1380, ""),
    ("M3", "M3 Pro", 36, 150, 18, 1380, ""),
    ("M3", "M3 Max 30-core", 96, 300, 30, 1380, ""),
    ("M3", "M3 Max", 128, 400, 40, 1380, "M3 Max 40-core"),
    ("M3", "M3 Ultra", 512, 819, 80, 1380, ""),
    ("M4", "M4", 32, 120, 10, 1578, ""),
    ("M4", "M4 Pro", 64, 273, 20, 1578, ""),
    ("M4", "M4 Max 32-core", 36, 410, 32, 1578, ""),
    ("M4", "M4 Max", 128, 546, 40, 1578, "M4 Max 40-core"),
    # bandwidth of a CPU: channels x 8 bytes x MT/s
    ("Zen 3", "EPYC 7763", 512, 204.8, 64, 2450, "EPYC 7003, Milan"),
    ("Zen 4", "EPYC 9554", 768, 460.8, 64, 3100, ""),
    ("Zen 4", "EPYC 9654", 768, 460.8, 96, 2400, "EPYC, EPYC 9004, Genoa"),
    ("Zen 5", "EPYC 9755", 768, 576, 128, 2700, "EPYC 9005, Turin"),
    ("Zen 5", "EPYC 9965", 768, 576, 192, 2250, ""),
    ("AVX-512", "Xeon Platinum 8380", 512, 204.8, 40, 2300, "Xeon 8380, Ice Lake"),
    ("AMX 4", "Xeon Platinum 8480+", 512, 307.2, 56, 2000, "Xeon, Xeon 8480+, Sapphire Rapids"),
    ("AMX 5", "Xeon Platinum 8592+", 512, 358.4, 64, 1900, "Xeon 8592+, Emerald Rapids"),
    ("AMX 6", "Xeon 6980P", 768, 614.4, 128, 2000, "Xeon 6, Granite Rapids"),
    ("AMX 6", "Xeon 6980P MRDIMM", 768, 844.8, 128, 2000, ""),  # DDR5-8800
    ("V1", "Graviton3", 128, 307.2, 64, 2600, ""),
    ("V2", "Graviton4", 768, 537.6, 96, 2800, "Graviton"),
    ("V2", "Grace CPU", 240, 512, 72, 3100, "Grace"),
    ("Zen 4", "Ryzen 9 7950X", 64, 83.2, 16, 4500, ""),
    ("Zen 5", "Ryzen 9 9950X", 64, 89.6, 16, 4300, "CPU"),
    ("AVX2", "Core i9-14900K", 64, 89.6, 8, 3200, ""),
    ("AVX2", "Core i7-13700H", 32, 83.2, 6, 2400, ""),
)

OTHERS = records(FAMILIES, ROWS)
