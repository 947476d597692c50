"""What follows from an engine's statistics: the key-value cache, waiting requests, speed.

Speeds are told and not judged: a log does not name the GPU, so it proves nothing.
"""

from collections.abc import Callable, Set

from salient.diagnose.finding import Evidence, Finding

from .log_facts import LogFacts

FEW = 4.0  # requests of full length at once
HITS_LOW = 5.0  # percent
REQUESTS_MANY = 100
SAMPLES_MANY = 6  # lines of statistics, ten seconds apart: a minute
ACCEPTED_LOW = 40.0  # percent of drafted tokens
# What a rule is given: the facts, and the ids of what was found before it
Rule = Callable[[LogFacts, Set[str]], Finding | None]


def few_at_once(facts: LogFacts, told: Set[str]) -> Finding | None:
    if facts.concurrency is None or facts.concurrency >= FEW:
        return None
    length = facts.concurrency_context
    return Finding(
        "concurrency-low",
        "warning",
        f"The key-value cache holds {facts.concurrency:.2f} requests of {length:,} tokens at once",
        matters="Shorter requests fit more often; long ones wait for each other.",
        do=(
            "Lower --max-model-len to what your requests need.",
            "Halve the cache: --kv-cache-dtype fp8 (compute capability 8.9 or newer).",
            f"Raise --gpu-memory-utilization (now {facts.words()['utilization']}), or add GPUs.",
        ),
        evidence=(
            Evidence(
                "key-value cache",
                f"Maximum concurrency for {length:,} tokens per request: {facts.concurrency:.2f}x",
            ),
        ),
        rank=30,
    )


def waiting_for_memory(facts: LogFacts, told: Set[str]) -> Finding | None:
    traffic = facts.traffic
    if traffic.full < SAMPLES_MANY or traffic.full * 4 < traffic.samples:
        return None
    return Finding(
        "waiting-cache-full",
        "slow",
        f"Requests wait (up to {traffic.waiting_most}) because the key-value cache is full",
        matters="The GPU has no memory for more requests at once; their first token comes late.",
        do=(
            "Lower --max-model-len, or halve the cache: --kv-cache-dtype fp8",
            "Free memory for the cache: a 4-bit checkpoint, a higher --gpu-memory-utilization.",
            "Or serve from more GPUs.",
        ),
        evidence=(_statistics(facts),),
        count=traffic.full,
        rank=30,
    )


def waiting_for_slots(facts: LogFacts, told: Set[str]) -> Finding | None:
    traffic = facts.traffic
    if traffic.free < SAMPLES_MANY or traffic.free * 4 < traffic.samples:
        return None
    return Finding(
        "waiting-slots",
        "warning",
        f"Requests wait (up to {traffic.waiting_most}) though the key-value cache has room",
        certainty="likely",
        matters=f"At most {traffic.running_most} ran at once: --max-num-seqs or the tokens of a "
        "step are the limit, or requests come faster than they are served.",
        do=(
            f"Raise --max-num-seqs above {traffic.running_most} and --max-num-batched-tokens.",
            "If the throughput then stays the same, serve from more GPUs.",
        ),
        evidence=(_statistics(facts),),
        count=traffic.free,
        rank=40,
    )


def preemptions(facts: LogFacts, told: Set[str]) -> Finding | None:
    if not facts.traffic.preemptions:
        return None
    return Finding(
        "preemptions",
        "slow",
        "Requests are stopped and computed again: the key-value cache is too small",
        matters="A preempted request's tokens are computed twice.",
        do=(
            "Lower --max-num-seqs, so that fewer share the cache.",
            "Enlarge it: --gpu-memory-utilization, --kv-cache-dtype fp8, a 4-bit checkpoint.",
        ),
        evidence=(Evidence("statistics", f"Preemptions: {facts.traffic.preemptions}"),),
        count=facts.traffic.preemptions,
        rank=30,
    )


def few_prefix_hits(facts: LogFacts, told: Set[str]) -> Finding | None:
    hits = facts.traffic.prefix_hits
    if hits is None or hits >= HITS_LOW or facts.requests < REQUESTS_MANY:
        return None
    return Finding(
        "prefix-hits-low",
        "note",
        f"Only {hits:.1f}% of prompt tokens were found in the prefix cache",
        certainty="possible",
        matters="Where prompts share nothing at their beginning, that is as it must be.",
        do=(
            "Put what all prompts share first: system prompt and examples before dates and names.",
        ),
        evidence=(Evidence("statistics", f"Prefix cache hit rate: {hits:.1f}%"),),
        rank=60,
    )


def few_drafts_accepted(facts: LogFacts, told: Set[str]) -> Finding | None:
    rate = facts.traffic.acceptance
    if rate is None or rate >= ACCEPTED_LOW:
        return None
    return Finding(
        "drafts-refused",
        "warning",
        f"The model accepts only {rate:.1f}% of the drafted tokens",
        certainty="likely",
        matters="Refused tokens are computed for nothing; with many requests they cost throughput.",
        do=("Lower num_speculative_tokens of --speculative-config, or drop it and compare.",),
        evidence=(Evidence("statistics", f"Avg Draft acceptance rate: {rate:.1f}%"),),
        rank=40,
    )


def corrupted(facts: LogFacts, told: Set[str]) -> Finding | None:
    if not facts.traffic.corrupted:
        return None
    return Finding(
        "not-a-number-requests",
        "error",
        f"{facts.traffic.corrupted} requests had NaN in their logits: their answers are garbage",
        do=(
            "Serve with --dtype bfloat16: float16 may overflow.",
            f"Check the checkpoint: salient evaluate {facts.words()['model']}",
        ),
        evidence=(Evidence("statistics", f"Corrupted: {facts.traffic.corrupted} reqs"),),
        rank=10,
    )


def concurrency(facts: LogFacts, told: Set[str]) -> Finding | None:
    if facts.concurrency is None or facts.concurrency < FEW:
        return None
    title = f"{facts.concurrency:.1f} requests of {facts.concurrency_context:,} tokens fit at once"
    return Finding("concurrency", "good", title, evidence=(), rank=41)


def throughput(facts: LogFacts, told: Set[str]) -> Finding | None:
    traffic = facts.traffic
    if not traffic.best_generation:
        return None
    alone = f"; {traffic.alone:.1f} with one request" if traffic.alone else ""
    return Finding(
        "throughput",
        "good",
        f"Up to {traffic.best_generation:.1f} tokens/s were generated, by up to "
        f"{traffic.running_most} requests at once{alone}",
        evidence=(_statistics(facts),),
        rank=50,
    )


def _statistics(facts: LogFacts) -> Evidence:
    traffic = facts.traffic
    return Evidence(
        "statistics",
        f"running up to {traffic.running_most}, waiting up to {traffic.waiting_most}, cache up to "
        f"{traffic.cache_most:.1f}%, in {traffic.samples} lines looked at",
    )


TRAFFIC_RULES: tuple[Rule, ...] = (
    few_at_once,
    waiting_for_memory,
    waiting_for_slots,
    preemptions,
    few_prefix_hits,
    few_drafts_accepted,
    corrupted,
    concurrency,
    throughput,
)
