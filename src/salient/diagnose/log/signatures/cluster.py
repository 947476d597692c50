"""Lines about several GPUs: NCCL, Ray, tensor parallelism, processes that wait for each other.

Texts of vLLM 0.32 from v1/executor/, config/ and distributed/; of NCCL, PyTorch and Ray.
"""

from salient.diagnose.log.signature import BEFORE, Signature

NCCL_LOOK = (
    "Run once with NCCL_DEBUG=INFO; its last lines before the error name the interface or GPU.",
    "Name the right interface: NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0, and each node's "
    "own VLLM_HOST_IP.",
    "In a container: --ipc=host (or --shm-size 16g) and --ulimit memlock=-1.",
)
FEWER_GPUS = "Set --tensor-parallel-size to the number of GPUs that vLLM sees (nvidia-smi -L)."

CLUSTER = (
    Signature(
        id="nccl-error",
        level="error",
        anchor="NCCL error",
        pattern=r"NCCL error(?: in)?: (?P<fault>.+)",
        title="GPUs could not talk to each other: NCCL error {fault}",
        do=(
            *NCCL_LOOK,
            "Without NVLink try NCCL_P2P_DISABLE=1; `nvidia-smi topo -m` shows the links.",
        ),
        rank=14,
        example="RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for "
        "details)",
    ),
    Signature(
        id="nccl-warn",
        level="warning",
        anchor=" NCCL WARN ",
        pattern=r"\S+:\d+:\d+ \[\d+\] .*NCCL WARN (?P<fault>(?!.*No space left on device).+)",
        title="NCCL warns: {fault}",
        do=NCCL_LOOK,
        rank=13,
        example="node-0:53:272 [0] transport/net_ib.cc:172 NCCL WARN NET/IB : No device found.",
    ),
    Signature(
        id="nccl-timeout",
        level="error",
        anchor="Watchdog caught collective operation timeout",
        pattern=r"(?:\[[^\]]*\b[Rr]ank \d+\]:? ?)*Watchdog caught collective operation timeout",
        title="A GPU waited in vain for the others",
        matters="One rank failed or hung; the error of that rank, if any, is the cause.",
        do=("Look for the first error of any rank above.", *NCCL_LOOK),
        rank=60,
        example="[rank1]:[E1003 18:37:01.832146912 ProcessGroupNCCL.cpp:607] [Rank 1] Watchdog "
        "caught collective operation timeout: WorkNCCL(SeqNum=6463, OpType=ALLREDUCE, NumelIn=1, "
        "NumelOut=1, Timeout(ms)=1800000) ran for 1800017 milliseconds before timing out.",
        consequence=True,
    ),
    Signature(
        id="nccl-socket",
        level="slow",
        anchor=" via NET/Socket",
        pattern=r"(?:\S+:\d+:\d+ \[\d+\] )?NCCL INFO Channel .* via NET/Socket",
        title="GPUs of different nodes talk over plain TCP sockets",
        certainty="likely",
        matters="vLLM's documentation wants `via NET/IB/GDRDMA`. Every token of every layer passes "
        "here when tensor parallelism crosses nodes.",
        do=(
            "With InfiniBand or RoCE: docker run --device /dev/infiniband --ulimit memlock=-1, and "
            "NCCL_IB_HCA=mlx5",
            "Without: keep --tensor-parallel-size within a node, and --pipeline-parallel-size "
            "across nodes.",
        ),
        rank=35,
        example="esm2-worker-0:53:271 [0] NCCL INFO Channel 00/0 : 2[0] -> 3[0] [receive] via "
        "NET/Socket/0",
    ),
    Signature(
        id="tensor-parallel-gpus",
        level="error",
        anchor="exceeds available GPUs (",
        pattern=r"Tensor parallel size \((?P<asked>\d+)\) exceeds available GPUs \((?P<has>\d+)\)",
        title="--tensor-parallel-size wants {asked} GPUs, there are {has}",
        do=(FEWER_GPUS, "CUDA_VISIBLE_DEVICES, --gpus all and ray status say what is visible."),
        rank=10,
        example="Tensor parallel size (8) exceeds available GPUs (4). This may result in Ray "
        "placement group allocation failures.",
    ),
    Signature(
        id="placement-impossible",
        level="error",
        anchor="The number of required GPUs exceeds the total number of available GPUs",
        title="The cluster has fewer GPUs than the model was told to use",
        do=(FEWER_GPUS, "ray status shows what the cluster has."),
        rank=11,
        example="ValueError: The number of required GPUs exceeds the total number of available "
        "GPUs in the placement group.",
    ),
    Signature(
        id="placement-none",
        level="error",
        anchor="Cannot provide a placement group ",
        pattern=r"Cannot provide a placement group (?:requiring (?P<gpus>\d+) GPUs|of )",
        title="Ray found no place for the workers in time",
        do=(
            FEWER_GPUS,
            "ray status; all nodes need the same image, and VLLM_HOST_IP as Ray sees it.",
        ),
        rank=11,
        example="ValueError: Cannot provide a placement group requiring 8 GPUs "
        "(placement_group_specs=[{'GPU': 1.0}]) within 1800 seconds.",
    ),
    Signature(
        id="placement-waiting",
        level="warning",
        anchor="Waiting for creating a placement group of specs for ",
        pattern=r"Waiting for creating a placement group of specs for (?P<seconds>\d+) seconds",
        title="Ray waits for GPUs that it does not have, or not free",
        do=(
            "ray status and ray list nodes; compare with --tensor-parallel-size times "
            "--pipeline-parallel-size.",
            "Each node's VLLM_HOST_IP must be the address that Ray uses.",
        ),
        rank=20,
        example="Waiting for creating a placement group of specs for 10 seconds. specs=[{'GPU': "
        "1.0}]. Check `ray status` and `ray list nodes` to see if you have enough resources",
    ),
    Signature(
        id="ray-no-node",
        level="error",
        anchor="No available node types can fulfill",
        pattern=r"(?:Error: )?No available node types can fulfill resource requests? (?P<what>.+)",
        title="No node of the Ray cluster has {what}",
        do=("ray status; start the nodes with --num-gpus, or ask for fewer GPUs.",),
        rank=12,
        example="(autoscaler +24s) Error: No available node types can fulfill resource request "
        "{'GPU': 1.0, 'node:10.0.0.2': 0.001}.",
    ),
    Signature(
        id="heads-indivisible",
        level="error",
        anchor="must be divisible by tensor parallel size",
        pattern=r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor "
        r"parallel size \((?P<size>\d+)\)",
        title="{heads} attention heads cannot be shared by {size} GPUs",
        do=(
            "Take a --tensor-parallel-size that divides {heads}, and --pipeline-parallel-size for "
            "the rest.",
        ),
        rank=10,
        example="Value error, Total number of attention heads (28) must be divisible by tensor "
        "parallel size (8).",
    ),
    Signature(
        id="size-indivisible",
        level="error",
        anchor=" is not divisible by ",
        pattern=r"(?P<size>\d+) is not divisible by (?P<parts>\d+)$",
        title="A layer of {size} cannot be shared by {parts} GPUs",
        do=(
            "Take a --tensor-parallel-size that divides {size}, and --pipeline-parallel-size for "
            "the rest.",
        ),
        rank=11,
        example="AssertionError: 29568 is not divisible by 5",
    ),
    Signature(
        id="data-parallel-dense",
        level="error",
        anchor="Non-MoE models do not support external data parallel mode.",
        title="External data parallelism is for mixtures of experts only",
        do=("Start independent servers without --data-parallel-*, behind a load balancer.",),
        rank=10,
        example="ValueError: Non-MoE models do not support external data parallel mode. For "
        "external load balancing, launch independent vLLM instances without --data-parallel-* "
        "arguments.",
    ),
    Signature(
        id="custom-allreduce",
        level="note",
        anchor="Custom allreduce is disabled ",
        pattern=r"Custom allreduce is disabled (?:because|due to) (?:it's )?(?P<why>[^.]+)",
        title="vLLM's own sum over GPUs is off: {why}",
        matters="NCCL does it instead; small batches of a model over several GPUs lose some speed.",
        do=(
            "Nothing, where GPUs have PCIe only. There --pipeline-parallel-size or several servers "
            "with one GPU each may be faster than tensor parallelism.",
        ),
        rank=60,
        example="Custom allreduce is disabled because your platform lacks GPU P2P capability or "
        "P2P test failed. To silence this warning, specify disable_custom_all_reduce=True "
        "explicitly.",
    ),
    Signature(
        id="broadcast-waiting",
        level="warning",
        anchor="No available shared memory broadcast block found in ",
        title="A process waits for another one for a minute or longer",
        matters="Harmless while kernels compile. Again and again in service it means that a worker "
        "hangs or that a step takes very long.",
        do=(
            "Look at the last line of each worker; py-spy dump --pid PID shows where it stands.",
            "docker run --ipc=host, if /dev/shm is small.",
        ),
        rank=60,
        example="No available shared memory broadcast block found in 60 seconds. This typically "
        "happens when some processes are hanging or doing some time-consuming work (e.g. "
        "compilation, weight/kv cache quantization).",
    ),
    Signature(
        id="port-in-use",
        level="error",
        anchor="address already in use",
        pattern=r"\[Errno 98\] error while attempting to bind on address \((?P<address>[^)]*)\): "
        r"address already in use",
        title="Another program listens at {address}",
        do=("Find it: ss -ltnp | grep PORT. End it, or serve with --port 8001",),
        rank=8,
        example="[Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address "
        "already in use",
    ),
    Signature(
        id="port-in-use-os",
        level="error",
        anchor="Errno 98] Address already in use",
        pattern=r"\[Errno 98\] Address already in use",
        title="Another program listens at the server's port",
        do=("Find it: ss -ltnp | grep PORT. End it, or serve with --port 8001",),
        rank=8,
        example="OSError: [Errno 98] Address already in use",
    ),
    Signature(
        id="port-in-use-ranks",
        level="error",
        anchor="The server socket has failed to listen on any local network address",
        pattern=BEFORE + r"The server socket has failed to listen on any local network address\..*"
        r"(?:errno: 98|EADDRINUSE|code: -98)",
        title="The port where ranks meet is taken by another program",
        do=("End the earlier run, or set another --master-port (VLLM_PORT for one machine).",),
        rank=8,
        example="torch.distributed.DistNetworkError: The server socket has failed to listen on any "
        "local network address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: "
        "address already in use",
    ),
)
