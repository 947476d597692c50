"""What to change where nothing will do; every suggestion is planned again before it is printed.

The cheapest knobs are searched for in three ways: the whole load on the same devices, less of the
load on them, the whole load on more or larger devices.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice, product

from salient.core.report import mebibytes
from salient.shapes.model_shape import ModelShape

from .engine_profiles import ENGINES, GIB
from .gpus import Gpu, catalogue
from .knobs import Knob, Options, free_knobs, merged, option_text, with_options
from .memory import Workload, budget, largest_context
from .ranking import Candidate, candidate, candidates
from .requirements import Requirements
from .stored_format import SOURCE_NEEDED, STORED
from .weight_formats import WeightFormat

LEAST_CONTEXT = 256  # tokens, and the share of the context: less is of no use
LEAST_SHARE = 1 / 8
ROUND_CONTEXT = 1024
MOST_CHANGES = 3
MOST_DEVICES = 3
MORE_SEQUENCES = (4, 16, 64)  # times those that were planned
MOST_PARTS = 6  # of a load, that are planned
TP_SIZES = (1, 2, 4, 8)
# A device that reads this much slower than the one that was named is no replacement of it.
LEAST_BANDWIDTH = 0.8
MUCH_MORE = 1.3  # times the load that makes a second suggestion worth its knobs
SHORTER = 0.5  # what a token of context is worth next to one of another sequence, which can wait
LOAD_OPTIONS = ("engine", "gpu", "tensor_parallel_size", "concurrency", "context_length")
# Costs of what is no knob, next to those of knobs.
LESS_LOAD, MORE_LOAD, SOURCE_16_BIT, MORE_GPUS, OTHER_ENGINE, OTHER_DEVICE = 4, 5, 6, 8, 9, 10


@dataclass(frozen=True)
class Change:
    """A suggestion that was planned again: `candidate` runs, fits and meets the requirements.

    text: for people, with what it leads to
    options: what differs from the plan, by the names of plan's options; where several devices will
        do, "gpu" has their names, separated by commas, and `load` is that of the first
    load: the workload with these options
    cost: of what is lost by it, to order changes
    """

    text: str
    options: Options
    load: Workload
    candidate: Candidate
    cost: int = 0


def changes(
    shape: ModelShape, load: Workload, required: Requirements, ranked: list[Candidate]
) -> tuple[Change, ...]:
    """Up to MOST_CHANGES changes with which a format will do, the cheapest first.

    Empty where the best of `ranked` will do, or where no change helps. Where the best must be made
    of the 16-bit model, those with which the stored one will do.
    """
    if not ranked[0].good:
        return _changes(shape, load, required, ranked)
    own = [one for one in ranked if one.form.name == STORED and not one.good]
    stored = _changes(shape, load, required, own) if own else ()
    return tuple(change for change in stored if change.candidate.form.name == STORED)


def _changes(
    shape: ModelShape, load: Workload, required: Requirements, ranked: list[Candidate]
) -> tuple[Change, ...]:
    search = _Search(shape, load, required, ranked)
    if ranked[0].route.pace == "refused":
        others = [*search.other_gpus(), *search.other_engine()] or [*search.other_devices()]
        return tuple(_by_cost(others))
    whole = search.cheapest({}, 0)
    less = [] if whole and whole.cost < LESS_LOAD else [*search.more_load(), *search.less_load()]
    most = [part for part in less[1:] if part.cost < OTHER_DEVICE]
    less = [*less[:1], *most[-1:]]  # the fewest knobs, and the most of the load
    more = [*search.other_gpus(), *search.other_devices()]
    first = [*([whole] if whole else []), *less[:1], *more[:1]]
    return tuple(_by_cost([*first, *_by_cost([*less[1:], *more[1:]])][:MOST_CHANGES]))


def _by_cost(every: Iterable[Change]) -> list[Change]:
    return sorted(every, key=lambda change: change.cost)[:MOST_CHANGES]


@dataclass(frozen=True)
class _Search:
    """The changes of one device's plan."""

    shape: ModelShape
    load: Workload
    required: Requirements
    ranked: list[Candidate]

    @property
    def forms(self) -> list[WeightFormat]:
        """What the engine runs there, else all: what exists first, then the best."""
        runs = [one for one in self.ranked if one.route.pace != "refused"]
        order = sorted(runs or self.ranked, key=lambda one: (one.form.name != STORED, -one.score))
        return [one.form for one in order]

    @property
    def _choices(self) -> list[list[WeightFormat]]:
        """The stored format, then all: more devices are worth what exists already."""
        own = [form for form in self.forms if form.name == STORED]
        return [own, self.forms] if own else [self.forms]

    def cheapest(
        self, options: Options, cost: int, choice: list[WeightFormat] | None = None
    ) -> Change | None:
        """The whole load under `options`, with the cheapest knobs under which a format will do."""
        load = with_options(self.load, options)
        knobs = [
            knob
            for knob in free_knobs(self.shape, load)
            if not (options and "enforce_eager" in knob.options)
        ]
        every = with_options(load, merged(knobs))
        forms = [form for form in choice or self.forms if self._fits(form, every)]
        sets = [chosen for n in range(len(knobs) + 1) for chosen in combinations(knobs, n)]
        tries = [
            (_cost(chosen) + self._source_cost(form), len(chosen), index, chosen)
            for chosen in sets
            for index, form in enumerate(forms)
        ]
        slow: set[int] = set()  # knobs make no format faster
        for extra, _, index, chosen in sorted(tries, key=lambda one: one[:3]):
            if index in slow or not self._fits(forms[index], with_options(load, merged(chosen))):
                continue
            change = self._planned(forms[index], options | merged(chosen), cost + extra)
            if change:
                return change
            slow.add(index)
        return None

    def less_load(self) -> Iterator[Change]:
        """What fits with the fewest knobs, then much more of the load with more of them."""
        parts = [
            part
            for knobs in _growing(free_knobs(self.shape, self.load))
            for form in self.forms
            for part in self._parts(form, knobs)
        ]
        least, tries = 0.0, MOST_PARTS
        for part in sorted(parts, key=lambda one: (one.cost, -one.value)):
            if tries and part.value > least * MUCH_MORE:
                tries -= 1
                if change := self._planned_part(part):
                    yield change
                    least = part.value

    def more_load(self) -> Iterator[Change]:
        """More sequences together, where the throughput of all is too little."""
        tries = (self.cheapest(options, MORE_LOAD) for options in self._loads() if options)
        return islice(filter(None, tries), 1)

    def _loads(self) -> list[Options]:
        """The load, and where all its sequences together are too slow, more of them."""
        times = MORE_SEQUENCES if self.required.throughput else ()
        return [{}, *({"concurrency": self.load.sequences * n} for n in times)]

    def _parts(self, form: WeightFormat, knobs: tuple[Knob, ...]) -> Iterator["_Part"]:
        """Fewer sequences, and a shorter context, that fit with these knobs."""
        options, cost = merged(knobs), _cost(knobs) + self._source_cost(form) + LESS_LOAD
        load = with_options(self.load, options)
        memory = budget(self.shape, form, load)
        most = memory.most_sequences
        if 0 < most < load.sequences:
            fewer: Options = {"max_num_seqs": most} if "max_num_seqs" in options else {}
            fewer["concurrency"] = most
            yield _Part(form, options | fewer, cost, most / load.sequences)
        room = memory.available - sum(item.bytes for item in memory.items[:-1])
        for sequences in (
            (load.sequences, 1) if not most and load.sequences > 1 else (load.sequences,)
        ):
            context = _rounded(largest_context(self.shape, load, room // sequences))
            least = max(LEAST_CONTEXT, LEAST_SHARE * load.context)
            if least <= context < load.context:
                fewer = {"concurrency": 1} if sequences < load.sequences else {}
                fewer |= {"max_num_seqs": 1} if fewer and "max_num_seqs" in options else {}
                value = context / load.context * sequences / load.sequences * SHORTER
                yield _Part(
                    form,
                    options | fewer | {"context_length": context},
                    cost + (LESS_LOAD if fewer else 0),
                    value,
                )

    def _planned_part(self, part: "_Part") -> Change | None:
        """The part without the knobs that it does not need; fewer sequences where it is slow."""
        options, cost = dict(part.options), part.cost
        for knob in reversed(free_knobs(self.shape, self.load)):
            fewer = {name: value for name, value in options.items() if name not in knob.options}
            if fewer != options and self._fits(part.form, with_options(self.load, fewer)):
                options, cost = fewer, cost - knob.cost
        while (change := self._planned(part.form, options, cost)) is None:
            sequences = int(options.get("concurrency", self.load.sequences)) // 2
            if not sequences:
                return None
            options["concurrency"] = sequences
        return change

    def other_gpus(self) -> Iterator[Change]:
        """The smallest other number of the same devices."""
        load = self.load
        if not load.engine.tensor_parallel or load.gpu.vendor == "cpu":
            return
        most = 2 if load.gpu.unified else TP_SIZES[-1]
        refused = self.ranked[0].route.pace == "refused"
        for choice, tp in product(self._choices, TP_SIZES):
            options: Options = {"tensor_parallel_size": tp}
            if load.tp > 1 and load.gpu.bandwidth:  # where their number may be part of the name
                options["gpu"] = f"{tp}x{load.gpu.name}"
            if tp == load.tp or tp > most or (tp < load.tp and not refused):
                continue
            tries = (self.cheapest(options | more, MORE_GPUS, choice) for more in self._loads())
            every = [self._best(options, MORE_GPUS)] if refused else tries
            if change := next(filter(None, every), None):
                yield change
                return

    def other_devices(self) -> Iterator[Change]:
        """The smallest devices that will do without knobs, in the smallest number."""
        load = self.load
        sizes = TP_SIZES if load.engine.tensor_parallel else (load.tp,)
        sizes = [tp for tp in sizes if tp >= load.tp]
        for choice, tp, more in product(self._choices, sizes, self._loads()):
            options: Options = more | ({"tensor_parallel_size": tp} if tp > 1 else {})
            devices = (
                gpu.name
                for gpu in self._replacements(tp)
                if self._will_do(choice, with_options(load, options | {"gpu": gpu.name}))
            )
            if names := list(islice(devices, MOST_DEVICES)):
                options = {"gpu": ",".join(names), **options}
                yield from filter(None, [self._best(options, OTHER_DEVICE)])
                return

    def _replacements(self, tp: int) -> Iterator[Gpu]:
        """Devices of the same vendor that may help, one of each kind, the smallest first."""
        own, best = self.load.gpu, self.ranked[0]
        reads = own.bandwidth * max(LEAST_BANDWIDTH, self._too_slow() / 2 * self.load.tp / tp)
        weights = min(one.budget.stored.total for one in self.ranked) / tp
        kinds: set[tuple[str, int]] = set()
        for gpu in sorted(catalogue(), key=lambda gpu: (gpu.memory, -gpu.bandwidth)):
            larger = gpu.memory > own.memory or tp > self.load.tp
            helps = gpu.bandwidth > own.bandwidth if best.runs else larger
            kind = gpu.architecture, round(gpu.memory)
            if (
                gpu.vendor == own.vendor
                and gpu.slowest == 1
                and helps
                and gpu.bandwidth >= reads
                and gpu.memory * GIB > weights
                and kind not in kinds
            ):
                kinds.add(kind)
                yield gpu

    def _too_slow(self) -> float:
        """How many times faster the best would have to be, 1 without bounds."""
        speed, required = self.ranked[0].forecast, self.required
        if speed is None:
            return 1.0
        together = speed.together.middle
        return max(
            1.0,
            (required.decode or 0) * self.load.sequences / together,
        )

    def other_engine(self) -> Iterator[Change]:
        """The engines of a stored format that this one refuses, then llama.cpp in place of vLLM."""
        current, engines = self.load.engine.name, list[str]()
        for one in self.ranked:
            if one.form.name == STORED and one.route.pace == "refused":
                engines += [name for name in one.form.engines if name in ENGINES]
        engines += ["llama.cpp"] if self.load.engine.family == "vllm" else []
        for name in dict.fromkeys(engines):
            if name != current:
                yield from self._with_engine(name)

    def _with_engine(self, name: str) -> Iterator[Change]:
        options: Options = {"engine": name}
        if self.load.tp > 1:
            options["tensor_parallel_size"] = 1
        if self.load.kv_dtype != "auto":
            options["kv_dtype"] = "auto"
        load = with_options(self.load, options)
        other = _Search(
            self.shape, load, self.required, candidates(self.shape, load, self.required)
        )
        if change := other.cheapest({}, OTHER_ENGINE) or next(other.less_load(), None):
            options |= change.options
            text = _text(options, change.load, change.candidate)
            yield replace(change, text=text, options=options)

    def _fits(self, form: WeightFormat, load: Workload) -> bool:
        memory = budget(self.shape, form, load)
        return memory.fits and memory.taken <= (self.required.memory or memory.taken)

    def _will_do(self, choice: list[WeightFormat], load: Workload) -> bool:
        """Whether a format does on another device: the best that fits, or the smallest."""
        forms = [form for form in choice if self._fits(form, load)]
        return any(
            candidate(self.shape, form, load, self.required).good
            for form in (*forms[:1], *forms[-1:])
        )

    def _planned(self, form: WeightFormat, options: Options, cost: int) -> Change | None:
        """The change, if `form` does under it."""
        load = with_options(self.load, options)
        good = candidate(self.shape, form, load, self.required).good
        return self._best(options, cost) if good else None

    def _best(self, options: Options, cost: int) -> Change | None:
        """The change planned with every format, if one does."""
        load, names = with_options(self.load, options), {one.form.name for one in self.ranked}
        ranked = candidates(self.shape, load, self.required)
        best = next((one for one in ranked if one.good and one.form.name in names), None)
        return Change(_text(options, load, best), options, load, best, cost) if best else None

    def _source_cost(self, form: WeightFormat) -> int:
        return SOURCE_16_BIT if self.shape.quantization and not form.ready else 0


@dataclass(frozen=True)
class _Part:
    """Less of a load that fits. value: the share of the load that it is"""

    form: WeightFormat
    options: Options
    cost: int
    value: float


def _growing(knobs: tuple[Knob, ...]) -> Iterator[tuple[Knob, ...]]:
    """No knob, the cheapest, the two cheapest ..."""
    return (knobs[:count] for count in range(len(knobs) + 1))


def _cost(knobs: Iterable[Knob]) -> int:
    return sum(knob.cost for knob in knobs)


def _rounded(context: int) -> int:
    return context // ROUND_CONTEXT * ROUND_CONTEXT or context


def _text(options: Options, load: Workload, best: Candidate) -> str:
    """ "--tp 2 --kv-dtype fp8 (2 x RTX 4090): AWQ w4-g128 takes 17.72 GiB of 22.08 GiB each"."""
    memory, first = best.budget, [name for name in LOAD_OPTIONS if name in options]
    ordered = {name: options[name] for name in (*first, *sorted(options.keys() - {*first}))}
    each = " each" if load.tp > 1 else ""
    count = f" ({load.tp} x {load.gpu.name})" if load.tp > 1 and "gpu" not in options else ""
    text = f"{option_text(ordered)}{count}: {best.form.title} takes {mebibytes(memory.taken)} of "
    text += mebibytes(memory.available) + each
    return text + (f"; {SOURCE_NEEDED}" if SOURCE_NEEDED in best.reasons else "")
