package engine

import (
	"fmt"
	"time"

	"cocoon/verifier/evidence"
)

// portInside is where an engine listens that knows no UNIX sockets: on the
// loopback device of a network namespace that nobody else is in.
const portInside = 30000

// cacheDir is where engines keep what they compile: a tmpfs of their own.
const cacheDir = "/cache"

// gpuShape is the container of an engine that computes on GPUs.
func gpuShape(env ...string) func(*Container) {
	return func(c *Container) {
		c.PIDs = 8192 // a process or more for each GPU, with their threads
		c.SharedMemory = 16 << 30
		c.Cache = 8 << 30
		c.Devices = []string{"nvidia.com/gpu=all"}
		c.Env = append([]string{
			"HOME=" + cacheDir, "XDG_CACHE_HOME=" + cacheDir, "TRITON_CACHE_DIR=" + cacheDir + "/triton", "TORCHINDUCTOR_CACHE_DIR=" + cacheDir + "/inductor",
			// Nothing could get out; these keep them from waiting for it.
			"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "DO_NOT_TRACK=1",
		}, env...)
	}
}

// GPUDevices returns the CDI names of some GPUs, as NVIDIA's toolkit gives them
// by index (nvidia-ctk cdi generate, --device-name-strategy).
func GPUDevices(gpus []int) []string {
	var names []string
	for _, i := range gpus {
		names = append(names, fmt.Sprintf("nvidia.com/gpu=%d", i))
	}
	return names
}

// kinds is the table of engines.
//
// llama-server: no web pages, no /slots (it shows prompts), no request log,
// no download, no file paths and no templates from the config. It starts a
// prompt from what a slot still has of another one's beginning unless the
// request says otherwise, and its answer's time would tell that beginning.
//
// vLLM (vllm serve) and SGLang (sglang.launch_server): no log of requests, no
// code from the model's directory (they refuse it without a flag that is not
// in the list), and no prefix cache, whose hits would tell one client how
// another's prompt begins.
var kinds = []*kind{
	{
		kind:    evidence.EngineLlamaServer,
		command: []string{"/usr/bin/llama-server"},
		fixed: func(model, source string) []string {
			return []string{
				"--model", modelDir + "/" + source,
				"--alias", model,
				"--host", socketDir + "/" + SocketName,
				"--no-ui", "--no-slots", "--offline", "--log-disable", "--metrics",
			}
		},
		flags: map[string]check{
			"--ctx-size":     intRange(128, 1<<20),
			"--parallel":     intRange(1, 256),
			"--threads":      intRange(1, 512),
			"--batch-size":   intRange(1, 1<<16),
			"--ubatch-size":  intRange(1, 1<<16),
			"--n-gpu-layers": intRange(0, 1024),
			"--cache-type-k": oneOf("f32", "f16", "bf16", "q8_0", "q4_0"),
			"--cache-type-v": oneOf("f32", "f16", "bf16", "q8_0", "q4_0"),
			"--flash-attn":   oneOf("on", "off", "auto"),
		},
		// One thread: llama.cpp's spin barriers collapse when cores are shared.
		defaults: [][2]string{{"--threads", "1"}},
		source:   gguf,
		deadline: DefaultDeadline,
		watch:    15 * time.Second,
		health:   30 * time.Second,
		routes:   openAI,
		private:  `"cache_prompt":false`,
		names: names{
			running: "llamacpp:requests_processing", waiting: "llamacpp:requests_deferred",
			prompt: "llamacpp:prompt_tokens_total", generated: "llamacpp:tokens_predicted_total",
		},
	},
	{
		kind:    evidence.EngineVLLM,
		command: []string{"/usr/local/bin/vllm", "serve", modelDir},
		fixed: func(model, _ string) []string {
			return []string{
				"--served-model-name", model,
				"--uds", socketDir + "/" + SocketName,
				"--disable-uvicorn-access-log", "--no-enable-log-requests", "--no-enable-prefix-caching",
				"--load-format", "safetensors",
			}
		},
		flags: map[string]check{
			"--max-model-len":          intRange(128, 1<<24),
			"--max-num-seqs":           intRange(1, 4096),
			"--max-num-batched-tokens": intRange(128, 1<<20),
			"--tensor-parallel-size":   intRange(1, 16),
			"--pipeline-parallel-size": intRange(1, 16),
			"--gpu-memory-utilization": fraction,
			"--block-size":             oneOf("8", "16", "32", "64", "128"),
			"--dtype":                  oneOf("auto", "bfloat16", "float16"),
			"--kv-cache-dtype":         oneOf("auto", "fp8", "fp8_e4m3", "fp8_e5m2"),
			"--quantization":           oneOf("fp8", "awq", "awq_marlin", "gptq", "gptq_marlin", "compressed-tensors", "modelopt", "mxfp4"),
		},
		source:   transformers,
		shape:    gpuShape("VLLM_NO_USAGE_STATS=1", "VLLM_CACHE_ROOT="+cacheDir+"/vllm", "VLLM_CONFIG_ROOT="+cacheDir+"/vllm-config"),
		memory:   "--gpu-memory-utilization",
		parallel: "--tensor-parallel-size",
		deadline: 30 * time.Minute,
		watch:    15 * time.Second,
		health:   30 * time.Second,
		routes:   openAI,
		names: names{
			running: "vllm:num_requests_running", waiting: "vllm:num_requests_waiting",
			prompt: "vllm:prompt_tokens_total", generated: "vllm:generation_tokens_total",
			kv: []string{"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"},
		},
	},
	{
		kind:    evidence.EngineSGLang,
		command: []string{"/usr/bin/python3", "-m", "sglang.launch_server"},
		fixed: func(model, _ string) []string {
			return []string{
				"--model-path", modelDir, "--served-model-name", model,
				// It knows no UNIX socket.
				"--host", "127.0.0.1", "--port", "30000",
				"--load-format", "safetensors", "--enable-metrics", "--disable-radix-cache", "--log-level-http", "error",
			}
		},
		flags: map[string]check{
			"--context-length":       intRange(128, 1<<24),
			"--max-running-requests": intRange(1, 4096),
			"--max-total-tokens":     intRange(128, 1<<30),
			"--chunked-prefill-size": intRange(128, 1<<20),
			"--tp-size":              intRange(1, 16),
			"--dp-size":              intRange(1, 16),
			"--mem-fraction-static":  fraction,
			"--page-size":            oneOf("1", "16", "32", "64", "128"),
			"--dtype":                oneOf("auto", "bfloat16", "half"),
			"--kv-cache-dtype":       oneOf("auto", "fp8_e4m3", "fp8_e5m2"),
			"--quantization":         oneOf("fp8", "awq", "gptq", "gptq_marlin", "awq_marlin", "modelopt", "w8a8_fp8", "w8a8_int8"),
		},
		source:   transformers,
		memory:   "--mem-fraction-static",
		parallel: "--tp-size",
		shape:    gpuShape("SGLANG_DISABLE_USAGE_STATS=1"),
		deadline: 30 * time.Minute,
		// Each of its health checks generates a token and takes a second or more.
		watch:  time.Minute,
		health: time.Minute,
		port:   portInside,
		routes: openAI,
		names: names{
			running: "sglang:num_running_reqs", waiting: "sglang:num_queue_reqs",
			prompt: "sglang:prompt_tokens_total", generated: "sglang:generation_tokens_total",
			kv: []string{"sglang:token_usage"},
		},
	},
}
