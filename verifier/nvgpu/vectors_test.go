package nvgpu_test

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/result"
)

// sample reads one item of real evidence and the nonce that it answers.
func sample(t testing.TB, name string) (nvgpu.Item, [32]byte) {
	t.Helper()
	dir := filepath.Join(vectors.Dir(t), "gpu", "evidence", name)
	read := func(file string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	it := nvgpu.Item{Report: read("report.bin")}
	for rest := read("chain.pem"); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		it.Chain = append(it.Chain, block.Bytes)
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(read("nonce.hex"))))
	if err != nil || len(nonce) != 32 {
		t.Fatalf("%s: nonce: %v", name, err)
	}
	return it, [32]byte(nonce)
}

func vector(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{vectors.Dir(t), "gpu"}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

// failed returns the IDs of the checks that failed, without their prefix.
func failed(checks []result.Check) string {
	var ids []string
	for _, c := range checks {
		if c.Status == result.Fail {
			ids = append(ids, strings.TrimPrefix(c.ID, "gpu."))
		}
	}
	return strings.Join(ids, " ")
}

// want is the verdict of the vectors' README on one item.
type want struct {
	name, arch, driver, vbios string
	mode                      nvgpu.Mode
	rims                      []string // below the vectors; none: no RIM is at hand
	ocsp                      []string
	at                        string
	failed                    string // checks that fail; empty: PASS
	measured                  string // what the measurement check says
	unmeasured                string // why it was skipped, where that is looked at
	noFWID, noRIM             bool
}

func wants() []want {
	const google = "evidence/google-hopper-550.90.07/"
	list := []want{
		{name: "google-hopper-550.90.07", arch: "hopper", driver: "550.90.07", vbios: "96.00.9F.00.01", mode: nvgpu.SPT, rims: []string{google + "driver.swidtag", google + "vbios.swidtag"}, at: "2025-09-01T00:00:00Z", measured: "32 of 32 match; 35 is not compared: NVDEC0 is disabled"},
		{name: "google-hopper-550.90.07", arch: "hopper", driver: "550.90.07", vbios: "96.00.9F.00.01", mode: nvgpu.SPT, rims: []string{google + "driver.swidtag", google + "vbios.swidtag"}, at: "2025-08-21T12:00:00Z", measured: "32 of 32 match; 35 is not compared: NVDEC0 is disabled",
			ocsp: []string{google + "ocsp-gpu_certificate_l2.der", google + "ocsp-gpu_certificate_l3.der", google + "ocsp-gpu_certificate_l4.der"}},
		{name: "google-hopper-550.90.07", arch: "hopper", driver: "550.90.07", vbios: "96.00.9F.00.01", mode: nvgpu.SPT, rims: []string{google + "driver.swidtag", google + "vbios.swidtag"}, at: "2026-11-22T00:00:00Z", failed: "rim.driver rim.vbios"},
		{name: "sdk-hopper-certhold", arch: "hopper", driver: "570.86.10", vbios: "96.00.AF.00.01", mode: nvgpu.SPT},
		{name: "sdk-hopper-b", arch: "hopper", driver: "535.86.09", vbios: "96.00.5E.00.01", mode: nvgpu.SPT, noFWID: true},
		{name: "sdk-hopper-b", arch: "hopper", driver: "535.86.09", vbios: "96.00.5E.00.01", mode: nvgpu.SPT, noFWID: true, at: "2025-06-01T00:00:00Z",
			rims: []string{"rims/1010_0200_882_96005E0001_PROD.swidtag", "rims/NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml"}, failed: "rim.digest rim.driver"},
		{name: "sdk-hopper-b", arch: "hopper", driver: "535.86.09", vbios: "96.00.5E.00.01", mode: nvgpu.SPT, noFWID: true, at: "2025-06-01T00:00:00Z", noRIM: true,
			rims: []string{"rims/1010_0200_882_96005E0001_PROD.swidtag"}, unmeasured: "reference measurements are missing; the 12 that are known match"},
		{name: "sdk-hopper-badsig", arch: "hopper", driver: "560.00", vbios: "96.00.A5.00.01", mode: nvgpu.PPCIE, failed: "signature fwid"},
		{name: "sdk-blackwell", arch: "blackwell", driver: "575.32", vbios: "97.00.88.00.0F", mode: nvgpu.SPT},
		{name: "sdk-hopper-590", arch: "hopper", driver: "590.12", vbios: "96.00.A5.00.01", mode: nvgpu.PPCIE},
		{name: "sdk-switch-c", arch: "ls10", vbios: "96.10.55.00.01", rims: []string{"evidence/sdk-switch-c/bios.xml"}, at: "2026-06-01T00:00:00Z", measured: "31 of 31 match"},
		{name: "sdk-switch-c", arch: "ls10", vbios: "96.10.55.00.01", rims: []string{"rims/NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature.xml"}, at: "2026-06-01T00:00:00Z", failed: "rim.digest rim.vbios"},
		{name: "sdk-switch-badsig", arch: "ls10", vbios: "96.10.52.00.00", failed: "signature arch"},
		{name: "google-mpt-blackwell-0", arch: "blackwell", driver: "590.48.01", vbios: "97.00.D9.00.35", mode: nvgpu.MPT},
	}
	for i := range 4 {
		list = append(list, want{name: fmt.Sprint("sdk-multigpu-hopper-", i), arch: "hopper", driver: "590.12", vbios: "96.00.A5.00.01", mode: nvgpu.PPCIE})
	}
	for i := range 8 {
		list = append(list, want{name: fmt.Sprint("nvtrust-ppcie-gpu-", i), arch: "hopper", driver: "590.12", vbios: "96.00.A5.00.01", mode: nvgpu.PPCIE})
	}
	for i := range 4 {
		list = append(list, want{name: fmt.Sprint("nvtrust-ppcie-switch-", i), arch: "ls10", vbios: "96.10.73.00.01"})
	}
	return list
}

// TestRealEvidenceGivesItsVerdict prints one table: each item of real
// evidence, and what is said of it. Devices are looked at alone.
func TestRealEvidenceGivesItsVerdict(t *testing.T) {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 8, 1, ' ', 0)
	fmt.Fprintln(w, "item\tarch\tdriver\tVBIOS\tmode\tverdict\tmeasurements\tskipped")
	cache := nvgpu.NewCache(nvgpu.CacheOptions{})
	seen := map[string]bool{}
	for _, c := range wants() {
		it, nonce := sample(t, c.name)
		it.Arch = nvgpu.Arch(c.arch)
		o := &nvgpu.Options{Now: at("2026-11-22T00:00:00Z"), Nonce: nonce, Partial: true, Cache: cache, NoRIM: len(c.rims) == 0 || c.noRIM}
		if c.at != "" {
			o.Now = at(c.at)
		}
		for _, name := range c.rims {
			o.RIMs = append(o.RIMs, vector(t, name))
		}
		for _, name := range c.ocsp {
			o.OCSP = append(o.OCSP, vector(t, name))
		}
		m := verified(t, []nvgpu.Item{it}, o)
		d := m.Devices[0]
		seen[c.name] = true
		verdict, skipped := "PASS", []string{}
		if bad := failed(m.Checks()); bad != "" {
			verdict = "FAIL: " + bad
		}
		for _, k := range d.Checks {
			if k.Status == result.Skip {
				skipped = append(skipped, strings.TrimPrefix(k.ID, "gpu."))
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.name, d.Arch, d.Driver, d.VBIOS, d.Mode, verdict, d.Check("gpu.measurements").Actual, strings.Join(skipped, " "))
		if got := failed(m.Checks()); got != c.failed {
			t.Errorf("%s at %s: failed %q, want %q\n%+v", c.name, c.at, got, c.failed, m.Failed())
		}
		if string(d.Arch) != c.arch || d.Driver != c.driver || d.VBIOS != c.vbios || d.Mode != c.mode || d.Check("gpu.measurements").Actual != c.measured {
			t.Errorf("%s: %s %s %s %s, measurements %+v", c.name, d.Arch, d.Driver, d.VBIOS, d.Mode, d.Check("gpu.measurements"))
		}
		if c.unmeasured != "" && d.Check("gpu.measurements").Reason != c.unmeasured {
			t.Errorf("%s: measurements %+v", c.name, d.Check("gpu.measurements"))
		}
		if c.failed == "" {
			for _, id := range []string{"gpu.parse", "gpu.chain", "gpu.signature", "gpu.nonce", "gpu.arch"} {
				if d.Check(id).Status != result.Pass {
					t.Errorf("%s: %s is %q", c.name, id, d.Check(id).Status)
				}
			}
			if fwid := d.Check("gpu.fwid").Status; fwid != result.Pass && !c.noFWID && d.Kind == nvgpu.KindGPU {
				t.Errorf("%s: gpu.fwid is %q", c.name, fwid)
			}
			if c.ocsp != nil && d.Check("gpu.ocsp").Status != result.Pass {
				t.Errorf("%s: gpu.ocsp is %+v", c.name, d.Check("gpu.ocsp"))
			}
		}
	}
	w.Flush()
	t.Logf("\n%s", table.String())
	dirs, err := os.ReadDir(filepath.Join(vectors.Dir(t), "gpu", "evidence"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !seen[d.Name()] {
			t.Errorf("%s has no verdict here", d.Name())
		}
	}
}
