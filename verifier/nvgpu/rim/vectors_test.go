package rim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/result"
)

// sample is a real document: when it is looked at and what should come out.
type sample struct {
	at     string
	failed string // IDs that fail, space-separated; empty: accepted
	active int    // measurements, where accepted
}

// samples has every file under gpu/rims. Documents of 2023 have signers that
// expired in 2025.
func samples() map[string]sample {
	m := map[string]sample{
		"NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml":        {"2025-09-01T00:00:00Z", "rim.digest", 0},
		"NV_GPU_DRIVER_GH100_550.144.03.xml":                            {"2025-09-01T00:00:00Z", "", 21},
		"NV_GPU_DRIVER_GH100_550.90.07.xml":                             {"2025-09-01T00:00:00Z", "", 21},
		"NV_GPU_VBIOS_1010_0200_882_96009F0001.xml":                     {"2025-09-01T00:00:00Z", "", 12},
		"NV_SWITCH_BIOS_5612_0002_890_9610550001.xml":                   {"2026-09-01T00:00:00Z", "", 31},
		"NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature.xml": {"2026-09-01T00:00:00Z", "rim.digest", 0},
		"incorrect_cert_chain_driver_rim.xml":                           {"2025-09-01T00:00:00Z", "rim.chain", 0},
	}
	for _, f := range strings.Fields(`1010_0200_882_96005E0001 1010_0200_882_96005E0003 1010_0200_882_960074001A
		1010_0200_882_960074001C 1010_0205_862_96005E0002 1010_0205_862_96005E0004 1010_0205_862_960074001F
		1010_0210_886_9600740011 g520_0200_885_9600740001 g520_0200_885_960074000D g520_0202_885_96006D0008
		g520_0202_885_96006D0027 g520_0202_885_9600740014 g520_0202_885_9600740018 g520_0205_865_9600740006
		g520_0205_865_960074000F g520_0207_865_9600740015 g520_0213_881_96006D0007 g520_0228_889_96006D0029`) {
		m[f+"_PROD.swidtag"] = sample{"2024-06-01T00:00:00Z", "", 12}
	}
	return m
}

func failedIDs(checks []result.Check) string {
	var out []string
	for _, c := range checks {
		if c.Status == result.Fail {
			out = append(out, c.ID)
		}
	}
	return strings.Join(out, " ")
}

func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEveryRealDocumentGivesItsVerdict(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t), "gpu", "rims")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := samples()
	if len(files) != len(all) {
		t.Errorf("%d files, %d in the table", len(files), len(all))
	}
	cache := rim.NewCache()
	for _, f := range files {
		s, ok := all[f.Name()]
		if !ok {
			t.Errorf("%s is not in the table", f.Name())
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		now := at(t, s.at)
		for range 2 { // the second time from the cache
			d, checks, err := rim.Verify(raw, &rim.Options{Now: now, Cache: cache})
			got := failedIDs(checks)
			if len(checks) != 5 {
				t.Errorf("%s: %d checks, want 5", f.Name(), len(checks))
			}
			if got != s.failed || (err == nil) != (s.failed == "") || (d == nil) != (s.failed != "") {
				t.Errorf("%s at %s: failed %q, want %q: %v", f.Name(), s.at, got, s.failed, err)
				continue
			}
			for _, id := range strings.Fields(s.failed) {
				if !fault.Has(err, id) {
					t.Errorf("%s: error %v lacks %s", f.Name(), err, id)
				}
			}
			if d == nil {
				t.Logf("%-66s refused  %s", f.Name(), got)
				break
			}
			active := 0
			for _, m := range d.Measurements {
				if m.Active {
					active++
				}
			}
			if active != s.active || d.ManufacturerID != "5703" || d.TagID == "" || len(d.Chain) != 4 {
				t.Errorf("%s: %d active, manufacturer %s, chain of %d", f.Name(), active, d.ManufacturerID, len(d.Chain))
			}
			if !strings.Contains(strings.ToUpper(strings.ReplaceAll(f.Name(), ".", "")), strings.ToUpper(strings.ReplaceAll(d.Version, ".", ""))) {
				t.Errorf("%s has version %s", f.Name(), d.Version)
			}
			t.Logf("%-66s accepted %s %s, %d active, until %s", f.Name(), d.Product, d.Version, active, d.NotAfter.Format(time.DateOnly))
		}
		// Outside the signer's time it is refused, and only for that.
		if s.failed == "" {
			_, checks, err := rim.Verify(raw, &rim.Options{Now: at(t, "2030-01-01T00:00:00Z")})
			if failedIDs(checks) != rim.CheckValidity || err == nil {
				t.Errorf("%s in 2030: failed %q", f.Name(), failedIDs(checks))
			}
			if _, checks, err = rim.Verify(raw, &rim.Options{Now: at(t, "2030-01-01T00:00:00Z"), AllowExpired: true}); err != nil || checks[4].Status != result.Skip {
				t.Errorf("%s in 2030, expiry allowed: %v, validity is %q", f.Name(), err, checks[4].Status)
			}
			_, checks, _ = rim.Verify(raw, &rim.Options{Now: at(t, "2023-01-01T00:00:00Z"), AllowExpired: true})
			if failedIDs(checks) != rim.CheckValidity {
				t.Errorf("%s before its time, expiry allowed: failed %q", f.Name(), failedIDs(checks))
			}
		}
	}
}

func TestRealEvidenceNamesItsDocuments(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t), "gpu", "evidence", "google-hopper-550.90.07")
	b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	var meta struct{ Driver, VBIOS string }
	if err := json.Unmarshal(b, &meta); err != nil {
		t.Fatal(err)
	}
	if got, want := rim.DriverID("HOPPER", "", meta.Driver), "NV_GPU_DRIVER_GH100_550.90.07"; got != want {
		t.Errorf("driver id %s, want %s", got, want)
	}
	if got, want := rim.VBIOSID("1010", "0200", "882", meta.VBIOS), "NV_GPU_VBIOS_1010_0200_882_96009F0001"; got != want {
		t.Errorf("VBIOS id %s, want %s", got, want)
	}
	if got, want := rim.SwitchID("96.10.6d.00.01"), "NV_SWITCH_BIOS_5612_0002_890_96106D0001"; got != want {
		t.Errorf("switch id %s, want %s", got, want)
	}
	for _, c := range [][3]string{{"", "575.32", "NV_GPU_CC_DRIVER_GB100_575.32"}, {"GB20X", "590.48.01", "NV_GPU_CC_DRIVER_GB20X_590.48.01"}} {
		if got := rim.DriverID("blackwell", c[0], c[1]); got != c[2] {
			t.Errorf("driver id %s, want %s", got, c[2])
		}
	}
}
