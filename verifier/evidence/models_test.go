package evidence_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/tpmtest"
)

// further returns so many models beside a config's first.
func further(n int) []evidence.ConfigModel {
	out := make([]evidence.ConfigModel, n)
	for i := range out {
		name := fmt.Sprint("further-", i)
		out[i] = evidence.ConfigModel{Name: name, Verity: evidence.Verity{Root: digest.Sum256([]byte(name)), DataBlocks: 1}}
	}
	return out
}

func TestSeveralModelsInAConfig(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*evidence.Config)
		want   string // empty: the config is good
	}{
		"one more":            {func(c *evidence.Config) { c.Models = further(1) }, ""},
		"as many as may":      {func(c *evidence.Config) { c.Models = further(evidence.MaxModels - 1) }, ""},
		"more than may":       {func(c *evidence.Config) { c.Models = further(evidence.MaxModels) }, "17 models"},
		"a name twice":        {func(c *evidence.Config) { c.Models = further(2); c.Models[1].Name = c.Models[0].Name }, "twice"},
		"the first's name":    {func(c *evidence.Config) { c.Models = further(1); c.Models[0].Name = c.Model.Name }, "twice"},
		"the first's content": {func(c *evidence.Config) { c.Models = further(1); c.Models[0].Verity.Root = c.Model.Verity.Root }, "twice"},
		"a name for a path":   {func(c *evidence.Config) { c.Models = further(1); c.Models[0].Name = "../x" }, "not of the form"},
		"no content":          {func(c *evidence.Config) { c.Models = further(1); c.Models[0].Verity.DataBlocks = 0 }, "out of range"},
		"an encrypted one": {func(c *evidence.Config) {
			c.Models = further(1)
			k := digest.Sum256([]byte("key"))
			c.Models[0].KeySHA256 = &k
		}, ""},
		"an encrypted first": {func(c *evidence.Config) {
			c.Models = further(1)
			k := digest.Sum256([]byte("key"))
			c.Model.KeySHA256 = &k
		}, ""},
		"an encrypted one without a key's name": {func(c *evidence.Config) {
			c.Models = further(1)
			c.Models[0].KeySHA256 = new(digest.SHA256)
		}, "has no name"},
		"a registry": {func(c *evidence.Config) { c.Models, c.Registry = further(1), "0:registry" }, ""},
		"a GPU for two": {func(c *evidence.Config) {
			c.Models, c.GPUs = further(1), evidence.ConfigGPUs{Count: 1, Mode: evidence.GPUModeOn}
		}, ""},
		"eight GPUs for two": {func(c *evidence.Config) {
			c.Models, c.GPUs = further(1), evidence.ConfigGPUs{Count: 8, Mode: evidence.GPUModePPCIE}
		}, ""},
		"eight GPUs for three": {func(c *evidence.Config) {
			c.Models, c.GPUs = further(2), evidence.ConfigGPUs{Count: 8, Mode: evidence.GPUModePPCIE}
		}, "3 models cannot be divided evenly among 8 GPUs"},
		"two GPUs for three": {func(c *evidence.Config) {
			c.Models, c.GPUs = further(2), evidence.ConfigGPUs{Count: 2, Mode: evidence.GPUModeOn}
		}, "3 models cannot be divided evenly among 2 GPUs"},
	} {
		w := tpmtest.NewWorld(t)
		config := w.Config
		config.Registry, config.InitBlock = "", nil
		c.change(&config)
		err := config.Validate()
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestEachModelIsMeasured by an event of its own, in the config's order; one
// model alone is measured as before there were several.
func TestEachModelIsMeasured(t *testing.T) {
	c := tpmtest.NewWorld(t).Config
	for n := range 3 {
		c.Models = further(n)
		events, err := evidence.RuntimeEvents(&c)
		if err != nil {
			t.Fatal(err)
		}
		var names, roots, want []string
		for _, e := range events {
			names = append(names, e.Event)
			if e.Event == evidence.EventModel {
				roots = append(roots, e.Value)
			}
		}
		for _, m := range c.ServedModels() {
			want = append(want, m.Verity.Root.String())
		}
		order := slices.Concat([]string{evidence.EventConfig}, slices.Repeat([]string{evidence.EventModel}, n+1), []string{evidence.EventGPU, evidence.EventLatch})
		if !slices.Equal(names, order) || !slices.Equal(roots, want) {
			t.Errorf("with %d further models: events %v of roots %v", n, names, roots)
		}
	}
}

func TestWhatAnOperatorSaysOfAModel(t *testing.T) {
	o, err := evidence.ParseOperator([]byte(`{"version":1,"payout":"","verifier":"","gateways":[],"price":5,"model_keys":"http://a","limits":{"max_requests":0},
"models":{"further-0":{"price":7},"further-1":{"model_keys":"http://b"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{"chat": "5 http://a", "further-0": "7 http://a", "further-1": "5 http://b"} {
		if got := fmt.Sprint(o.PriceOf(model), " ", o.ModelKeysOf(model)); got != want {
			t.Errorf("%s: %s, want %s", model, got, want)
		}
	}
	c := tpmtest.NewWorld(t).Config
	c.Models = further(2)
	if err := o.CheckModels(&c); err != nil {
		t.Error(err)
	}
	c.Models = further(1)
	if err := o.CheckModels(&c); err == nil || !strings.Contains(err.Error(), "further-1") {
		t.Errorf("a model that the config has not: %v", err)
	}
	for _, models := range []string{`{"a":{"price":1000000000000001}}`, `{"a":{"prize":1}}`, `{"a":{"price":-1}}`} {
		if _, err := evidence.ParseOperator([]byte(`{"version":1,"payout":"","verifier":"","gateways":[],"limits":{"max_requests":0},"models":` + models + `}`)); err == nil {
			t.Errorf("%s was taken", models)
		}
	}
}

// TestEachGPUIsSomeModels and each model has as much of them as another.
func TestEachGPUIsSomeModels(t *testing.T) {
	for _, c := range []struct {
		gpus, models int
		want         string
	}{
		{0, 3, "[] [] [] 0"}, {1, 1, "[0] 1"}, {8, 1, "[0 1 2 3 4 5 6 7] 1"}, {8, 2, "[0 1 2 3] [4 5 6 7] 1"}, {4, 4, "[0] [1] [2] [3] 1"},
		{1, 2, "[0] [0] 2"}, {2, 4, "[0] [0] [1] [1] 2"}, {2, 6, "[0] [0] [0] [1] [1] [1] 3"},
	} {
		var got []string
		share := 0
		for i := range c.models {
			var gpus []int
			gpus, share = evidence.ConfigGPUs{Count: c.gpus}.Of(i, c.models)
			got = append(got, fmt.Sprint(gpus))
		}
		if text := fmt.Sprint(strings.Join(got, " "), " ", share); text != c.want {
			t.Errorf("%d GPUs for %d models: %s, want %s", c.gpus, c.models, text, c.want)
		}
	}
}

// FuzzParseOperator: whatever the host writes is read or refused, and what is read
// answers for every model.
func FuzzParseOperator(f *testing.F) {
	f.Add([]byte(`{"version":1,"payout":"","verifier":"http://10.0.2.101","gateways":["10.0.2.100:443"],"price":5,"limits":{"max_requests":8},"models":{"a":{"price":7,"model_keys":"http://b"}}}`))
	f.Add([]byte(`{"version":1,"models":{"":{}}}`))
	f.Add([]byte(`null`))
	config := tpmtest.NewWorld(f).Config
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := evidence.ParseOperator(b)
		if err != nil {
			return
		}
		if o.PriceOf("a") > evidence.MaxPrice {
			t.Errorf("price %d", o.PriceOf("a"))
		}
		if err := o.CheckModels(&config); err == nil && len(o.Models) > 1 {
			t.Errorf("models %v of a config of one", o.Models)
		}
	})
}
