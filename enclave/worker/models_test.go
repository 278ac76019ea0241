package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/enclave/engine"
	"cocoon/enclave/pack"
	"cocoon/verifier/evidence"
)

// TestEachModelHasItsOwnGPUsAndSocket: one alone has all, several what the config
// gives each.
func TestEachModelHasItsOwnGPUsAndSocket(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"config.json", "a.safetensors"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	adapter, err := engine.AdapterFor(evidence.EngineVLLM)
	if err != nil {
		t.Fatal(err)
	}
	for names, want := range map[string]string{
		"a":   "/run/cocoon/engine nvidia.com/gpu=all",
		"a b": "/run/cocoon/engine-1 nvidia.com/gpu=0 nvidia.com/gpu=1|/run/cocoon/engine-2 nvidia.com/gpu=2 nvidia.com/gpu=3",
	} {
		w := newWorker()
		w.config = &evidence.Config{Engine: evidence.ConfigEngine{Kind: evidence.EngineVLLM}, GPUs: evidence.ConfigGPUs{Count: 4, Mode: evidence.GPUModeOn}}
		for i, name := range strings.Fields(names) {
			m := evidence.ConfigModel{Name: name}
			if w.models = append(w.models, served{config: m, pack: pack.Mounted{Dir: dir}}); i == 0 {
				w.config.Model = m
			} else {
				w.config.Models = append(w.config.Models, m)
			}
		}
		var got []string
		for i := range w.models {
			c, err := w.container(adapter, i, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, c.SocketDir+" "+strings.Join(c.Devices, " "))
			if !strings.Contains(strings.Join(c.Argv, " "), "--served-model-name "+w.models[i].config.Name) {
				t.Errorf("model %d is started by %v", i, c.Argv)
			}
		}
		if text := strings.Join(got, "|"); text != want {
			t.Errorf("%s: %s, want %s", names, text, want)
		}
	}
}
