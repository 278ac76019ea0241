package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"

	"cocoon/enclave/netdev"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// What the engines answer. llama-server's is as it was seen (llama.cpp 0.7.0);
// vLLM's and SGLang's are synthesised from their documentation: neither was
// ever run here.
var answers = map[string]struct {
	health, models, metrics string
	want                    Metrics
}{
	evidence.EngineLlamaServer: {
		health: `{"status":"ok"}`,
		models: `{"models":[{"name":"m"}],"object":"list","data":[{"id":"m","object":"model","owned_by":"llamacpp","meta":{"n_ctx":4096}}]}`,
		metrics: `# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 33
llamacpp:tokens_predicted_total 12
llamacpp:n_decode_total 13
llamacpp:requests_processing 1
llamacpp:requests_deferred 0
`,
		want: Metrics{Running: 1, Prompt: 33, Generated: 12, KV: -1},
	},
	evidence.EngineVLLM: {
		models: `{"object":"list","data":[{"id":"m","object":"model","owned_by":"vllm","root":"/models","max_model_len":32768}]}`,
		metrics: `vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+06
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 900.0 1764151000000
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 7.0
`,
		want: Metrics{Running: 5, Waiting: 4, Prompt: 1.5e6, Generated: 900, KV: 0.25},
	},
	evidence.EngineSGLang: {
		models: `{"object":"list","data":[{"id":"m","object":"model","owned_by":"sglang","root":"m","max_model_len":32768}]}`,
		metrics: `sglang:num_running_reqs{model_name="m",tp_rank="0"} 1.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 2.0
sglang:token_usage{model_name="m}"} 0.5
sglang:prompt_tokens_total{model_name="m"} 10.0
sglang:generation_tokens_total{model_name="m"} 20.0
`,
		want: Metrics{Running: 1, Waiting: 2, Prompt: 10, Generated: 20, KV: 0.5},
	},
}

// engineOf answers as a kind of engine.
func engineOf(kind string, asked func(route string)) http.Handler {
	a := answers[kind]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked(r.Method + " " + r.URL.Path)
		body, ok := map[string]string{"/health": a.health, "/v1/models": a.models, "/metrics": a.metrics,
			"/v1/chat/completions": `{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":1}}`}[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, body)
	})
}

func serveUnix(t *testing.T, h http.Handler) func(context.Context) (net.Conn, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return unixDial(path)
}

func TestEveryKindIsReadyMeteredAndKeptToItsRoutes(t *testing.T) {
	for kind, a := range answers {
		t.Run(kind, func(t *testing.T) {
			adapter, err := AdapterFor(kind)
			if err != nil || adapter.Kind() != kind {
				t.Fatal(err)
			}
			var routes []string
			api := NewAPI(adapter, serveUnix(t, engineOf(kind, func(r string) { routes = append(routes, r) })))
			if err := adapter.Ready(t.Context(), api, "m"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"GET /health", "GET /v1/models", "POST /v1/chat/completions"}, routes); diff != "" {
				t.Errorf("probes (-want +got):\n%s", diff)
			}
			if err := adapter.Ready(t.Context(), api, "another"); err == nil {
				t.Error("an engine with another model is ready")
			}
			got, err := adapter.Metrics(t.Context(), api)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(a.want, got); diff != "" {
				t.Errorf("metrics (-want +got):\n%s", diff)
			}
			before := len(routes)
			for _, r := range []string{"GET /slots", "GET /props", "POST /flush_cache", "POST /update_weights_from_disk", "POST /v1/load_lora_adapter", "GET /metrics",
				"POST /v1/chat/completions/../../flush_cache", "DELETE /v1/chat/completions", "POST /tokenize", "POST /v1/files"} {
				method, path, _ := strings.Cut(r, " ")
				req, err := http.NewRequest(method, "http://engine"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if rsp, err := api.RoundTrip(req); !fault.Has(err, CodeRoute) {
					t.Errorf("%s: %v, %v", r, rsp, err)
				}
			}
			if len(routes) != before {
				t.Errorf("the engine was asked for %v", routes[before:])
			}
			req, err := http.NewRequest(http.MethodPost, "http://engine/v1/chat/completions", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if rsp, err := api.RoundTrip(req); err != nil || rsp.StatusCode != http.StatusOK {
				t.Errorf("an allowed route: %v, %v", rsp, err)
			} else {
				rsp.Body.Close()
			}
		})
	}
	if _, err := AdapterFor("ollama"); !fault.Has(err, CodeArgument) {
		t.Errorf("an unknown kind: %v", err)
	}
}

func TestCommandLinesOfEnginesOnGPUs(t *testing.T) {
	c := config("--tensor-parallel-size", "8", "--gpu-memory-utilization", "0.90")
	c.Engine.Kind = evidence.EngineVLLM
	a, err := AdapterFor(c.Engine.Kind)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Argv(c, ".")
	if err != nil {
		t.Fatal(err)
	}
	if want := "/usr/local/bin/vllm serve /models --served-model-name m --uds /run/engine/engine.sock --disable-uvicorn-access-log --no-enable-log-requests " +
		"--no-enable-prefix-caching --load-format safetensors --tensor-parallel-size 8 --gpu-memory-utilization 0.90"; strings.Join(got, " ") != want {
		t.Errorf("got %q", got)
	}
	for _, kind := range []string{evidence.EngineVLLM, evidence.EngineSGLang} {
		for _, args := range [][]string{{"--trust-remote-code", "true"}, {"--model", "/x"}, {"--host", "0.0.0.0"}, {"--api-key", "x"}, {"--load-format", "pickle"},
			{"--gpu-memory-utilization", "1.00"}, {"--mem-fraction-static", "0.9"}, {"--mem-fraction-static", "0.05"}, {"--chat-template", "/x"}} {
			c := config(args...)
			c.Engine.Kind = kind
			if err := Check(c); !fault.Has(err, CodeArgument) {
				t.Errorf("%s %v: %v", kind, args, err)
			}
		}
	}
	var shape Container
	a.Shape(&shape)
	if shape.PIDs < 4096 || shape.SharedMemory == 0 || shape.Cache == 0 || len(shape.Devices) != 1 {
		t.Errorf("the container is %+v", shape)
	}
}

// TestModelsOnOneGPUSayHowMuchEachHas: without it the first engine takes all.
func TestModelsOnOneGPUSayHowMuchEachHas(t *testing.T) {
	type args = []string
	for _, c := range []struct {
		kind         string
		gpus, models int
		args         args
		want         string // empty: taken
	}{
		{evidence.EngineVLLM, 1, 1, nil, ""},
		{evidence.EngineVLLM, 2, 2, nil, ""},
		{evidence.EngineVLLM, 1, 2, nil, "--gpu-memory-utilization does not say how much of it each has, at most 0.49"},
		{evidence.EngineVLLM, 1, 2, args{"--gpu-memory-utilization", "0.49"}, ""},
		{evidence.EngineVLLM, 1, 2, args{"--gpu-memory-utilization", "0.50"}, "at most 0.49"},
		{evidence.EngineVLLM, 2, 6, args{"--gpu-memory-utilization", "0.33"}, "3 models share a GPU: at most 0.32"},
		{evidence.EngineVLLM, 8, 2, args{"--tensor-parallel-size", "4"}, ""},
		{evidence.EngineVLLM, 8, 2, args{"--tensor-parallel-size", "8"}, "each of 2 models has 4"},
		{evidence.EngineVLLM, 8, 1, args{"--tensor-parallel-size", "8"}, ""},
		{evidence.EngineSGLang, 1, 3, nil, "--mem-fraction-static"},
		{evidence.EngineSGLang, 4, 2, args{"--tp-size", "4"}, "each of 2 models has 2"},
		{evidence.EngineLlamaServer, 1, 2, nil, ""}, // it is given no GPU
		{evidence.EngineLlamaServer, 0, 2, nil, ""},
	} {
		cfg := config(c.args...)
		cfg.Engine.Kind, cfg.GPUs.Count = c.kind, c.gpus
		cfg.Models = make([]evidence.ConfigModel, c.models-1)
		err := Check(cfg)
		if (err == nil) != (c.want == "") || err != nil && (!fault.Has(err, CodeArgument) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %d models on %d GPUs, %v: %v", c.kind, c.models, c.gpus, c.args, err)
		}
	}
}

func TestModelsThatAnEngineIsNotGiven(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		files      []string
		want       string // empty: refused
	}{
		{"one gguf", evidence.EngineLlamaServer, []string{"README", "chat.gguf"}, "chat.gguf"},
		{"a split gguf", evidence.EngineLlamaServer, []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}, "m-00001-of-00002.gguf"},
		{"no gguf", evidence.EngineLlamaServer, []string{"README"}, ""},
		{"two gguf", evidence.EngineLlamaServer, []string{"a.gguf", "b.gguf"}, ""},
		{"a directory", evidence.EngineVLLM, []string{"config.json", "tokenizer.json", "model.safetensors"}, "."},
		{"no weights", evidence.EngineVLLM, []string{"config.json"}, ""},
		{"no config", evidence.EngineSGLang, []string{"model.safetensors"}, ""},
		{"pickled weights beside", evidence.EngineSGLang, []string{"config.json", "model.safetensors", "pytorch_model.bin"}, ""},
		{"code of the model's", evidence.EngineVLLM, []string{"config.json", "model.safetensors", "modeling_x.py"}, ""},
	} {
		dir := fstest.MapFS{}
		for _, f := range c.files {
			dir[f] = &fstest.MapFile{Data: []byte("x")}
		}
		a, err := AdapterFor(c.kind)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := a.Source(dir); got != c.want || (c.want == "") != fault.Has(err, CodeModel) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

// An engine that knows no UNIX socket listens in a network namespace that has
// nothing but its loopback device.
func TestTheSupervisorReachesAPortInsideTheContainersNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envInside + "=" + evidence.EngineSGLang}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("this machine makes no network namespace: %v", err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil { // it listens
		t.Fatal(err)
	}
	adapter, err := AdapterFor(evidence.EngineSGLang)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context) (net.Conn, error) { return dialInside(ctx, cmd.Process.Pid, adapter.Port()) }
	if err := adapter.Ready(t.Context(), NewAPI(adapter, dial), "m"); err != nil {
		t.Errorf("through the namespace: %v", err)
	}
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", adapter.Port()), time.Second); err == nil {
		c.Close()
		t.Error("the port is open outside of it")
	}
	if _, err := dialInside(t.Context(), cmd.Process.Pid, adapter.Port()+1); err == nil {
		t.Error("a port that nobody listens on answered")
	}
	if _, err := dialInside(t.Context(), 0, adapter.Port()); err == nil {
		t.Error("no process has a network")
	}
}

func TestMain(m *testing.M) {
	if kind := os.Getenv(envInside); kind != "" {
		fmt.Fprintln(os.Stderr, engineInside(kind))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const envInside = "COCOON_ENGINE_INSIDE"

// engineInside is the engine of the test above.
func engineInside(kind string) error {
	if err := netdev.Loopback(netdev.Netlink{}); err != nil {
		return err
	}
	a, err := AdapterFor(kind)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", a.Port()))
	if err != nil {
		return err
	}
	fmt.Print(".")
	return http.Serve(ln, engineOf(kind, func(string) {}))
}

// An engine that runs and answers nobody is replaced.
func TestASickEngineIsStartedAgain(t *testing.T) {
	r := &fakeRuntime{t: t}
	changes := make(chan bool, 8)
	m := manager(t, r, changes)
	m.minBackoff, m.opt.Watch, m.opt.Log = time.Millisecond, time.Millisecond, slog.New(slog.DiscardHandler)
	sick := make(chan struct{})
	e := good()
	e.health = func() (int, string) {
		select {
		case <-sick:
			return 503, "EngineDeadError"
		default:
			return 200, ""
		}
	}
	r.engines = []*engineServer{e, good()}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { m.Supervise(ctx); close(ended) }()
	if !<-changes {
		t.Fatal("the engine is not up after Start")
	}
	close(sick)
	if up := <-changes; up {
		t.Error("a sick engine serves on")
	}
	if up := <-changes; !up {
		t.Error("it was not replaced")
	}
	<-r.task(0).removed
	cancel()
	<-ended
}

func TestMetricsThatAreNone(t *testing.T) {
	n := kinds[1].names
	for name, text := range map[string]string{
		"nothing": "", "html": "<html>", "half": "vllm:num_requests_running 1\n", "no numbers": strings.ReplaceAll(answers[evidence.EngineVLLM].metrics, ".0", "x"),
		"not finite": strings.ReplaceAll(answers[evidence.EngineVLLM].metrics, " 4.0", " NaN"),
	} {
		if m, err := n.read([]byte(text)); err == nil {
			t.Errorf("%s: read as %+v", name, m)
		}
	}
}

// FuzzMetrics: whatever an engine writes, figures that are read are figures.
func FuzzMetrics(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a.metrics))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, k := range kinds {
			m, err := k.names.read(b)
			if err != nil {
				continue
			}
			for _, v := range []float64{m.Running, m.Waiting, m.Prompt, m.Generated} {
				if math.IsNaN(v) || v < 0 {
					t.Fatalf("%+v", m)
				}
			}
		}
	})
}

func TestAnImageWithoutADriverGivesNoDevices(t *testing.T) {
	c := Container{Rootfs: "/rootfs", Argv: []string{"/bin/x"}, ModelDir: "/m", SocketDir: "/s", Memory: 1 << 30, CPUs: 1}
	kinds[1].Shape(&c)
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	if _, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "engine"}, specOpts(c)...); !fault.Has(err, CodeDevices) {
		t.Errorf("got %v", err)
	}
}
