"""The arguments that vLLM 0.32's server takes: names, what their values are, short forms.

Listed from the server's own parser (vllm/entrypoints/launchers/cli_args.py and
vllm/engine/arg_utils.py of 0.32.0). Left out: what each argument does.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["flag", "integer", "size", "number", "list", "json", "text"]

_NAMES: tuple[tuple[Kind, str], ...] = (
    (
        "flag",
        """
        aggregate_engine_logging allow_credentials allow_deprecated_quantization async_scheduling
        cohere_is_reasoning_model cudagraph_metrics data_parallel_external_lb
        data_parallel_hybrid_lb data_parallel_multi_port_external_lb dcp_q_replicate
        disable_cascade_attn disable_chunked_mm_input disable_custom_all_reduce
        disable_fastapi_docs disable_hybrid_kv_cache_manager disable_log_stats
        disable_nccl_for_dp_synchronization disable_sliding_window disable_uvicorn_access_log
        enable_auto_tool_choice enable_batch_sharded_sampling enable_chunked_prefill
        enable_cumem_allocator enable_dbo enable_elastic_ep enable_ep_weight_filter enable_eplb
        enable_expert_parallel enable_fault_tolerance enable_flash_late_interaction
        enable_flashinfer_autotune enable_force_include_usage enable_hc_sp
        enable_layerwise_nvtx_tracing enable_log_deltas enable_log_outputs enable_log_requests
        enable_logging_iteration_details enable_lora enable_mamba_cache_stochastic_rounding
        enable_mamba_shared_prefix_checkpoint enable_mfu_metrics enable_mixed_moe_lora_format
        enable_mm_embeds enable_mm_processor_stats enable_moe_shared_loras enable_nccl_comm_suspend
        enable_offline_docs enable_per_request_metrics enable_prefix_caching enable_prompt_embeds
        enable_prompt_tokens_details enable_request_id_headers enable_return_routed_experts
        enable_scale_out enable_server_load_tracking enable_shm_tensor_arena enable_sleep_mode
        enable_ssl_refresh enable_tokenizer_info_endpoint enable_tower_connector_lora
        enable_trace_replay enforce_eager exclude_tools_when_tool_choice_none
        fail_on_environ_validation fully_sharded_loras grpc headless interleave_mm_strings
        jit_monitor_verbose kv_cache_metrics kv_sharing_fast_prefill language_model_only
        log_error_stack long_prefill_token_threshold_adaptive mm_device_do_normalize
        mm_encoder_only numa_bind ray_workers_use_nsight return_sampling_mask
        return_tokens_as_token_ids scheduler_reserve_full_isl skip_mm_profiling skip_tokenizer_init
        sleep_mode_offload_cudagraph specialize_active_lora swa_bounded_replay tokens_only
        trust_remote_code trust_request_chat_template trust_request_mm_kwargs use_fp64_gumbel
        use_replayssm use_tqdm_on_load
        """,
    ),
    (
        "integer",
        """
        api_server_count block_size cp_kv_cache_interleave_size cpu_distributed_timeout_seconds
        data_parallel_rank data_parallel_rpc_port data_parallel_size data_parallel_size_local
        data_parallel_start_rank data_parallel_supervisor_port dbo_decode_token_threshold
        dbo_prefill_token_threshold dcp_kv_cache_interleave_size decode_context_parallel_size
        distributed_timeout_seconds dp_supervisor_probe_failure_threshold dp_sync_interval
        elastic_ep_max_dp_size grpc_port h11_max_header_count h11_max_incomplete_event_size
        long_prefill_token_threshold mamba_block_size mamba_cache_philox_rounds master_port
        max_cpu_loras max_cudagraph_capture_size max_log_len max_logprobs max_lora_cls_labels
        max_lora_rank max_loras max_num_active_seqs max_num_queued_reqs max_num_seqs
        max_parallel_loading_workers mm_shm_cache_max_object_size_mb nnodes node_rank
        num_gpu_blocks_override offload_group_size offload_num_in_group offload_prefetch_step
        pipeline_parallel_size port prefill_context_parallel_size prefill_schedule_interval
        prefix_cache_retention_interval prefix_match_unit renderer_num_workers replayssm_buffer_len
        safetensors_prefetch_num_threads seed shutdown_timeout spec_tokens sse_keep_alive_interval
        ssl_cert_reqs stream_interval tensor_parallel_size ubatch_size
        """,
    ),
    # integers that may be written 32k (thousands) or 32K (1024s)
    (
        "size",
        """
        kv_cache_memory_bytes max_model_len max_num_batched_tokens max_num_queued_tokens
        max_num_scheduled_tokens safetensors_prefetch_block_size
        """,
    ),
    (
        "number",
        """
        cpu_offload_gb dp_supervisor_probe_interval_s dp_supervisor_probe_timeout_s
        gpu_memory_utilization kv_cache_metrics_sample kv_offloading_size
        mm_encoder_fp8_scale_save_margin mm_ipc_gpu_memory_gb mm_processor_cache_gb
        video_pruning_rate watermark
        """,
    ),
    # one or several words
    (
        "list",
        """
        allowed_media_domains api_key collect_detailed_traces cpu_offload_params
        cudagraph_capture_sizes ignore_patterns kv_cache_dtype_skip_layers logits_processors
        lora_modules lora_target_modules numa_bind_cpus numa_bind_nodes offload_params
        served_model_name sleep_preserve_parameter_names
        """,
    ),
    # a JSON object, or --name.key value
    (
        "json",
        """
        additional_config allowed_headers allowed_methods allowed_origins attention_config
        aux_output_config compilation_config custom_histogram_buckets default_chat_template_kwargs
        default_mm_loras diffusion_config ec_manager_config ec_transfer_config engram_config
        eplb_config fault_tolerance_config hf_overrides ir_op_priority kernel_config
        kv_events_config kv_transfer_config limit_mm_per_prompt logging_config mamba_config
        media_io_kwargs mm_processor_kwargs model_class_overrides model_loader_extra_config
        override_generation_config pooler_config profiler_config pt_load_map_location
        quantization_config reasoning_config speculative_config structured_outputs_config
        watermark_config weight_transfer_config
        """,
    ),
    (
        "text",
        """
        all2all_backend allowed_local_media_path anthropic_disabled_thinking_effort
        attention_backend chat_template chat_template_content_format code_revision cohere_format
        config config_format convert data_parallel_address data_parallel_backend dcp_comm_backend
        device_ids disable_access_log_for_endpoints distributed_executor_backend download_dir dtype
        expert_placement_strategy fingerprint_mode fingerprint_value gdn_prefill_backend
        generation_config hf_config_path hf_token host io_processor_plugin jit_monitor_mode
        kda_decode_backend kda_prefill_backend kv_cache_dtype kv_offloading_backend linear_backend
        load_format log_config_file log_level logprobs_mode lora_dtype mamba_backend
        mamba_cache_dtype mamba_cache_mode mamba_ssm_cache_dtype mamba_ssu_algorithm master_addr
        middleware mm_encoder_attn_backend mm_encoder_attn_dtype mm_encoder_fp8_scale_path
        mm_encoder_fp8_scale_save_path mm_encoder_tp_mode mm_hasher_algorithm
        mm_processor_cache_type mm_processor_device mm_tensor_ipc model model_impl moe_backend
        offload_backend optimization_level otlp_traces_endpoint per_request_spec_decode_metrics
        performance_mode prefix_caching_hash_algo quantization reasoning_parser
        reasoning_parser_plugin response_role revision root_path runner safetensors_load_strategy
        scheduler_cls scheduling_policy show_hidden_metrics_for_version sparse_indexer_topk_backend
        spec_method spec_model ssl_ca_certs ssl_certfile ssl_ciphers ssl_keyfile tokenizer
        tokenizer_mode tokenizer_revision tool_call_parser tool_parser_plugin tool_server
        tool_strict_level uds uvicorn_log_level video_pruning_method worker_cls
        worker_extension_cls
        """,
    ),
)
KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES for name in names.split()}
# flags whose default is not false, so that false says something
_ON = """
    async_scheduling cohere_is_reasoning_model dcp_q_replicate disable_cascade_attn
    disable_hybrid_kv_cache_manager disable_nccl_for_dp_synchronization
    enable_batch_sharded_sampling enable_chunked_prefill enable_flash_late_interaction
    enable_flashinfer_autotune enable_log_deltas enable_lora enable_prefix_caching
    mm_device_do_normalize scheduler_reserve_full_isl swa_bounded_replay use_tqdm_on_load
"""
ON_BY_DEFAULT = tuple(_ON.split())
# what a value of each kind looks like, for messages
WORDS: dict[Kind, str] = {
    "flag": "true or false",
    "integer": "a whole number",
    "size": "a whole number, or one such as 32k",
    "number": "a number",
    "list": "one or several words",
    "json": "a JSON object",
    "text": "a word",
}
_SHORT = """
    O=optimization_level ac=attention_config asc=api_server_count cc=compilation_config
    dc=diffusion_config dcp=decode_context_parallel_size dp=data_parallel_size
    dpa=data_parallel_address dpb=data_parallel_backend dpe=data_parallel_external_lb
    dph=data_parallel_hybrid_lb dpl=data_parallel_size_local
    dpm=data_parallel_multi_port_external_lb dpn=data_parallel_rank dpp=data_parallel_rpc_port
    dpr=data_parallel_start_rank ep=enable_expert_parallel n=nnodes
    pcp=prefill_context_parallel_size pp=pipeline_parallel_size q=quantization r=node_rank
    sc=speculative_config tp=tensor_parallel_size
"""
SHORT: dict[str, str] = {
    short: name for short, _, name in (pair.partition("=") for pair in _SHORT.split())
}
ALIASES = {"device_memory_utilization": "gpu_memory_utilization", "model_tag": "model"}
# SGLang's words for the same things
SGLANG = {
    "model_path": "model",
    "tp": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "dp_size": "data_parallel_size",
    "context_length": "max_model_len",
    "max_running_requests": "max_num_seqs",
    "disable_cuda_graph": "enforce_eager",
}
SGLANG_FLAGS = ("enforce_eager", "trust_remote_code", "disable_radix_cache")
_CHOICES = (
    ("dtype", "auto bfloat16 float float16 float32 half"),
    (
        "kv_cache_dtype",
        """
        auto bfloat16 float16 fp8 fp8_ds_mla fp8_e4m3 fp8_e5m2 fp8_inc fp8_per_token_head
        int4_per_token_head int8_per_token_head nvfp4 nvfp4_4over6 nvfp4_ds_mla turboquant_3bit_nc
        turboquant_4bit_nc turboquant_k3v4_nc turboquant_k8v4 ultraquant_4bit
        """,
    ),
    (
        "linear_backend",
        """
        aiter auto b12x conch cutlass deep_gemm emulation exllama fbgemm flashinfer_b12x
        flashinfer_cudnn flashinfer_cutedsl flashinfer_cutlass flashinfer_trtllm humming machete
        marlin torch triton xpu xpu_woq
        """,
    ),
    ("performance_mode", "balanced interactivity throughput"),
    # vllm/model_executor/layers/quantization/__init__.py, and "marlin", which AWQ also answers to
    (
        "quantization",
        """
        awq auto_awq fp8 fbgemm_fp8 fp_quant modelopt modelopt_fp4 modelopt_mxfp8 modelopt_mixed
        auto_gptq gptq gptq_marlin awq_marlin humming compressed-tensors experts_int8 quark
        moe_wna16 torchao inc mxfp4 gpt_oss_mxfp4 deepseek_v4_fp8 online fp8_per_tensor
        fp8_per_block fp8_per_channel int8_per_channel_weight_only nvfp4_per_token mxfp8 marlin
        """,
    ),
)
CHOICES = {name: tuple(words.split()) for name, words in _CHOICES}


@dataclass(frozen=True)
class RemovedArgument:
    """An argument of older releases. since: the first without it, where that is known."""

    name: str
    instead: str
    since: tuple[int, int] | None = None


# Absent from 0.32's parser. Releases: swap_space, unsloth-zoo issue 1210; disable_log_requests,
# vLLM pull request 29402 and llm-d-benchmark pull request 781.
GONE = (
    RemovedArgument(
        "swap_space", "leave it out (kv_offloading_size keeps cache in main memory)", (0, 18)
    ),
    RemovedArgument(
        "disable_log_requests", "leave it out: requests are not logged by default", (0, 17)
    ),
    RemovedArgument("task", "runner: pooling, or convert, for models that do not generate"),
    RemovedArgument("device", "leave it out: the installed build decides"),
    RemovedArgument("num_scheduler_steps", "leave it out"),
    RemovedArgument("multi_step_stream_outputs", "leave it out"),
    RemovedArgument("use_v2_block_manager", "leave it out"),
    RemovedArgument("preemption_mode", "leave it out"),
    RemovedArgument("num_lookahead_slots", "leave it out"),
    RemovedArgument("scheduler_delay_factor", "leave it out"),
    RemovedArgument(
        "tokenizer_pool_size", "leave it out (api_server_count starts more front ends)"
    ),
    RemovedArgument("disable_frontend_multiprocessing", "leave it out"),
    RemovedArgument("enable_reasoning", "leave it out: reasoning_parser alone suffices"),
    RemovedArgument("guided_decoding_backend", "structured_outputs_config, key backend"),
    RemovedArgument("rope_scaling", "hf_overrides, key rope_parameters"),
    RemovedArgument("rope_theta", "hf_overrides, key rope_parameters"),
    RemovedArgument("max_seq_len_to_capture", "max_cudagraph_capture_size"),
    RemovedArgument("max_context_len_to_capture", "max_cudagraph_capture_size"),
    RemovedArgument("cuda_graph_sizes", "cudagraph_capture_sizes"),
    RemovedArgument("worker_use_ray", "distributed_executor_backend: ray"),
    RemovedArgument("engine_use_ray", "leave it out"),
    RemovedArgument("speculative_model", "speculative_config, key model"),
    RemovedArgument("num_speculative_tokens", "speculative_config, key num_speculative_tokens"),
    RemovedArgument("calculate_kv_scales", "leave it out"),
    RemovedArgument("enable_prompt_adapter", "leave it out"),
    RemovedArgument("override_neuron_config", "leave it out"),
)
