package nvgpu_test

import (
	"fmt"
	"slices"
	"testing"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgputest"
	"cocoon/verifier/result"
)

// realBoard returns the 8 GPUs and 4 switches of one real machine.
func realBoard(t testing.TB) ([]nvgpu.Item, *nvgpu.Options) {
	t.Helper()
	var items []nvgpu.Item
	o := &nvgpu.Options{Now: at("2026-11-22T00:00:00Z"), GPUs: 8, NoRIM: true}
	for i := range 8 {
		it, nonce := sample(t, fmt.Sprint("nvtrust-ppcie-gpu-", i))
		items, o.Nonce = append(items, it), nonce
	}
	for i := range 4 {
		it, _ := sample(t, fmt.Sprint("nvtrust-ppcie-switch-", i))
		items = append(items, it)
	}
	return items, o
}

func TestARealBoardIsOneMachine(t *testing.T) {
	items, o := realBoard(t)
	o.Cache = nvgpu.NewCache(nvgpu.CacheOptions{})
	m := verified(t, items, o)
	if bad := m.Failed(); len(bad) > 0 {
		t.Fatalf("%+v", bad)
	}
	if m.Topology.Mode != nvgpu.PPCIE || len(m.Topology.GPUs) != 8 || len(m.Topology.Switches) != 4 {
		t.Errorf("topology %+v", m.Topology)
	}
	for _, d := range m.Devices {
		if c := d.Check("gpu.measurements"); c.Status != result.Skip {
			t.Errorf("measurements of %s: %+v", d.PDI, c)
		}
	}
	if issuers, chains := o.Cache.Len(); issuers != 2 || chains != 12 {
		t.Errorf("cache has %d issuers, %d chains", issuers, chains)
	}
	// The order of the devices says nothing.
	slices.Reverse(items)
	if bad := verified(t, items, o).Failed(); len(bad) > 0 {
		t.Errorf("in another order: %+v", bad)
	}

	foreign := map[nvgpu.Kind]string{nvgpu.KindGPU: "google-hopper-550.90.07", nvgpu.KindSwitch: "sdk-switch-c"}
	for i, d := range m.Devices {
		at := len(items) - 1 - i
		other, _ := sample(t, foreign[m.Devices[i].Kind])
		same, _ := sample(t, "sdk-multigpu-hopper-0") // of the same machine, for another nonce
		for name, set := range map[string][]nvgpu.Item{
			"dropped":            slices.Delete(slices.Clone(items), at, at+1),
			"doubled":            append(slices.Clone(items), items[at]),
			"another twice":      slices.Replace(slices.Clone(items), at, at+1, items[(at+1)%len(items)]),
			"from elsewhere":     slices.Replace(slices.Clone(items), at, at+1, other),
			"from another nonce": slices.Replace(slices.Clone(items), at, at+1, same),
		} {
			if m := verified(t, set, o); len(m.Failed()) == 0 {
				t.Errorf("%s %s: %s: accepted", d.Kind, d.PDI, name)
			}
			// The count is not what finds it.
			open := *o
			open.GPUs = 0
			if m := verified(t, set, &open); len(m.Failed()) == 0 {
				t.Errorf("%s %s: %s: accepted where no count is claimed", d.Kind, d.PDI, name)
			}
		}
	}
}

// board makes a board under the test root, after change.
func board(t *testing.T, change func([]nvgputest.Device) []nvgputest.Device) ([]nvgpu.Item, *nvgpu.Options) {
	t.Helper()
	p, err := nvgputest.New("board")
	if err != nil {
		t.Fatal(err)
	}
	ds := nvgputest.Board()
	if change != nil {
		ds = change(ds)
	}
	items, err := p.Items(ds, [32]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	return items, &nvgpu.Options{Roots: p.Roots(), RIMRoots: p.RIMRoots(), Now: nvgputest.Now, Nonce: [32]byte{7}, GPUs: 8, NoRIM: true}
}

func TestMachinesThatAreNotOne(t *testing.T) {
	if items, o := board(t, nil); len(verified(t, items, o).Failed()) > 0 {
		t.Fatalf("the board itself: %+v", verified(t, items, o).Failed())
	}
	type ds = []nvgputest.Device
	for name, c := range map[string]struct {
		change func(ds) ds
		want   string
	}{
		"a GPU that lists a switch that is not there": {func(d ds) ds { d[3].Switches[1][0] ^= 1; return d }, "topology"},
		"a GPU that lists three of the switches":      {func(d ds) ds { d[3].Switches = d[3].Switches[:3]; return d }, "topology"},
		"a GPU that lists no switch":                  {func(d ds) ds { d[3].Switches = nil; return d }, "topology"},
		"a switch that lists a GPU twice":             {func(d ds) ds { d[9].GPUs[1] = d[9].GPUs[0]; return d }, "topology"},
		"a switch that lists a GPU that is not there": {func(d ds) ds { d[9].GPUs[7][0] ^= 1; return d }, "topology"},
		"a switch that lists no GPU":                  {func(d ds) ds { d[9].GPUs = nil; return d }, "topology"},
		"seven GPUs":                                  {func(d ds) ds { return d[1:] }, "count topology"},
		"three switches":                              {func(d ds) ds { return d[:11] }, "topology"},
		"no switch":                                   {func(d ds) ds { return d[:8] }, "topology"},
		"one GPU in single passthrough":               {func(d ds) ds { d[0].Feature, d[0].Protected = 0, 0x55; return d }, "modes"},
		"all GPUs in single passthrough": {func(d ds) ds {
			for i := range 8 {
				d[i].Feature, d[i].Protected = 0, 0x55
			}
			return d
		}, "topology"},
		"another board's reports, all but its certificates": {func(d ds) ds {
			// The lists agree with each other, as NVIDIA's own check wants, but
			// not with the certificates.
			for i := range 8 {
				for k := range d[i].Switches {
					d[i].Switches[k][7] ^= 0x55
				}
			}
			return d
		}, "topology"},
		"one device twice": {func(d ds) ds { d[1] = d[0]; return d }, "distinct topology"},
	} {
		t.Run(name, func(t *testing.T) {
			items, o := board(t, c.change)
			m := verified(t, items, o)
			if got := failed(m.Checks()); got != c.want {
				t.Errorf("failed %q, want %q\n%+v", got, c.want, m.Failed())
			}
		})
	}
}

func TestNoDeviceIsNoMachine(t *testing.T) {
	items, o := board(t, nil)
	for _, n := range []int{0, nvgpu.MaxDevices + 1} {
		set := make([]nvgpu.Item, n)
		for i := range set {
			set[i] = items[i%len(items)]
		}
		if got := failed(verified(t, set, o).Checks()); got != "count" {
			t.Errorf("%d devices: failed %q", n, got)
		}
	}
}
