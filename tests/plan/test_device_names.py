"""Devices as people, drivers and clouds name them: one table; laws of counts, memory and lists."""

import re
import tomllib
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.plan.device_names import LONGEST, Device, find_device, find_devices, find_gpu
from salient.plan.gpus import catalogue
from salient.plan.name_keys import nominal_size
from salient.plan.unknown_devices import EXAMPLES

TABLE = tomllib.loads(Path(__file__).with_name("device_names.toml").read_text(encoding="utf-8"))
REFUSED = TABLE.pop("refused")
SPELLINGS = {name: meaning for names in TABLE.values() for name, meaning in names.items()}
NAMES = {gpu.name for gpu in catalogue()}


def meaning_of(device: Device) -> str:
    gpu = device.gpu
    memory = "" if gpu.name in NAMES else f" @ {gpu.memory:g}"
    return f"{device.count} x {gpu.name}{memory}"


def test_a_device_is_looked_up_as_people_drivers_and_clouds_spell_it():
    assert len(SPELLINGS) >= 150
    # as the command line splits a list at its commas
    devices = {name: find_devices(tuple(name.split(","))) for name in SPELLINGS}
    assert {name: [*map(meaning_of, one)] for name, one in devices.items()} == {
        name: [meaning] for name, meaning in SPELLINGS.items()
    }


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_a_name_without_figures_is_refused_with_what_it_is_and_what_to_do(name, message):
    with pytest.raises(RequestError, match=message) as error:
        find_device(name)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("form", ["3x {}", "{} x3", "{}:3", "3 x {}"])
def test_any_number_may_stand_before_or_after_a_name(form):
    for gpu in catalogue():
        device = find_device(form.format(gpu.name))
        assert (device.gpu, device.count) == (gpu, 3)


def test_a_memory_after_a_name_counts():
    for gpu in catalogue():
        size = round(gpu.memory / 2) or 1
        if not nominal_size(gpu.name):
            memory = find_gpu(f"{gpu.name} {size}GB").memory
            assert memory == pytest.approx(size, rel=0 if gpu.vendor == "apple" else 0.1), gpu.name


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("M3 Max", "128 GiB of memory assumed, the most that it is sold with.*'M3 Max 64GB'"),
        ("M4", "32 GiB of memory assumed"),
        ("CPU", "64 GiB of memory assumed, a common amount"),
        ("V100", "taken as V100 SXM2 16GB; there is also .*V100 SXM2 32GB"),
        ("a100", "taken as A100 SXM 80GB; there is also .*A100 SXM 40GB"),
        ("H100", "taken as H100 SXM; there is also H100 NVL, H100 PCIe"),
        ("RTX 4060 Ti", "there is also RTX 4060 Ti 16GB"),
        ("RTX 4090 48GB", "48 GB of memory as named; the catalogue's RTX 4090 has 23.99 GiB"),
        ("A16", "one of the 4 GPUs of the board, which is '4xA16'"),
        ("MI250X 128GB", "128 GB are the memory of the board, which has 2 MI250X"),
        ("RTX 4090 Laptop", "clocks differ from laptop to laptop: .* 71% of the highest clock"),
        ("g5.12xlarge", "g5.12xlarge: 4 x A10G"),
    ],
)
def test_what_a_name_leaves_open_is_in_the_notes(name, note):
    assert re.search(note, "\n".join(find_device(name).notes))


@pytest.mark.parametrize("name", ["RTX 4090", "M3 Max 64GB", "H100 PCIe", "L40S", "A100 PCIe 40GB"])
def test_a_name_that_leaves_nothing_open_has_no_notes(name):
    assert find_device(name).notes == ()


def test_a_share_of_a_device_has_its_sevenths_and_eighths():
    whole, share = find_gpu("A100-SXM4-80GB"), find_gpu("NVIDIA A100-SXM4-80GB MIG 3g.40gb")
    assert share.memory == whole.memory / 2
    assert share.bandwidth == whole.bandwidth / 2
    assert share.tflops == pytest.approx(whole.tflops * 3 / 7, rel=1e-3)
    assert share.capability == whole.capability


def test_a_device_that_is_named_twice_is_listed_once():
    names = ("H100", "h100 sxm", "2xH100", "L40S", "NVIDIA H100 80GB HBM3")
    assert [meaning_of(one) for one in find_devices(names)] == [
        "1 x H100 SXM",
        "2 x H100 SXM",
        "1 x L40S",
    ]


# Names without a device


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RTX 4091", "RTX 4090"),
        ("H10O", "H100 SXM"),
        ("MI300Z", "MI300X"),
        ("rtx 4080 sper", "RTX 4080 Super"),
        ("RTX 4095 Laptop GPU", "RTX 4090 Laptop"),
        ("M6 Max", "M5 Max"),
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


@pytest.mark.parametrize("name", ["", " ", "nvidia", "GeForce RTX", "\x00", "🙂", "(", "zzz\n"])
def test_a_name_without_content_gets_examples(name):
    with pytest.raises(RequestError, match=f"Try one of: {', '.join(EXAMPLES)}. Or"):
        find_gpu(name)


@pytest.mark.parametrize("name", ["GB", "24GB", "[a-z]*", "٢٤GB"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(RequestError, match="Unknown device"):
        find_gpu(name)


@pytest.mark.parametrize("name", ["x" * 200_000, "RTX 4090" + " " * 200_000, "9" * 5000 + "GB"])
def test_a_name_without_end_is_refused_in_a_short_message(name):
    with pytest.raises(RequestError, match=re.escape(repr(name[:LONGEST]))) as error:
        find_gpu(name)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_in_the_catalogue(name):
    assert find_gpu(name).name == name
