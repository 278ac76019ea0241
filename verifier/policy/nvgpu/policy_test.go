package nvgpu_test

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/manifest"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgputest"
	policy "cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/result"
)

func TestPoliciesThatMakeNoSenseAreRefused(t *testing.T) {
	for name, doc := range map[string]string{
		"an unknown key":              `{"allow_everything":true}`,
		"a key twice":                 `{"models":["H100"],"models":["H200"]}`,
		"data after it":               `{} {}`,
		"an unknown architecture":     `{"architectures":["ampere"]}`,
		"a switch as an architecture": `{"architectures":["ls10"]}`,
		"an architecture twice":       `{"architectures":["hopper","hopper"]}`,
		"an unknown mode":             `{"modes":["devtools"]}`,
		"a mode twice":                `{"modes":["spt","spt"]}`,
		"a model in lower case":       `{"models":["h100"]}`,
		"half a board":                `{"models":["G520/0200"]}`,
		"an empty model":              `{"models":[""]}`,
		"a floor of an unknown arch":  `{"floors":[{"arch":"ampere","driver":"","vbios":""}]}`,
		"a floor twice":               `{"floors":[{"arch":"hopper","driver":"","vbios":""},{"arch":"hopper","driver":"","vbios":""}]}`,
		"a driver that is no version": `{"floors":[{"arch":"hopper","driver":"550.x","vbios":""}]}`,
		"a VBIOS that is no version":  `{"floors":[{"arch":"hopper","driver":"","vbios":"96.00.GG"}]}`,
		"a negative age":              `{"ocsp":{"max_age_seconds":-1}}`,
		"an age of a month":           `{"ocsp":{"max_age_seconds":2592000}}`,
		"a floor that is not strict":  `{"floors":[{"arch":"hopper","driver":"","vbios":"","gpu":1}]}`,
	} {
		if _, err := policy.Parse([]byte(doc)); !fault.Has(err, "gpu.policy.parse") || fault.ExitCode(err) != fault.ExitParse {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := policy.Parse([]byte(`{}`)); err != nil || p.AllowUnmeasured || p.OCSP.AllowMissing {
		t.Errorf("the empty policy: %+v, %v", p, err)
	}
}

// failed returns the policy's checks that fail for a device.
func failed(checks []result.Check) string {
	var out []string
	for _, c := range checks {
		if c.Status == result.Fail {
			out = append(out, strings.TrimPrefix(c.ID, "gpu.policy."))
			if result.ExitOf(c.ID) != fault.ExitPolicy {
				out = append(out, "with another exit code")
			}
		}
	}
	return strings.Join(out, " ")
}

func TestDevicesAgainstPolicies(t *testing.T) {
	p, err := nvgputest.New("policy")
	if err != nil {
		t.Fatal(err)
	}
	const open = `"allow_unmeasured":true,"ocsp":{"allow_missing":true}`
	floor := func(arch, driver, vbios string) []manifest.GPUFloor {
		return []manifest.GPUFloor{{Arch: arch, Driver: driver, VBIOS: vbios}}
	}
	old := nvgputest.GPU(0)
	old.NoFWID = true
	for name, c := range map[string]struct {
		device   nvgputest.Device
		doc      string
		manifest []manifest.GPUFloor
		want     string
	}{
		"nothing shown":                        {nvgputest.GPU(0), `{}`, nil, "measurements ocsp"},
		"nothing shown, which is allowed":      {nvgputest.GPU(0), `{` + open + `}`, nil, ""},
		"a nonce wanted in OCSP responses":     {nvgputest.GPU(0), `{"allow_unmeasured":true,"ocsp":{"allow_missing":true,"require_nonce":true}}`, nil, "ocsp_nonce"},
		"no firmware ID":                       {old, `{` + open + `}`, nil, "fwid"},
		"no firmware ID, which is allowed":     {old, `{` + open + `,"allow_no_fwid":true}`, nil, ""},
		"a switch":                             {nvgputest.Switch(0), `{` + open + `,"architectures":["blackwell"],"models":["B200"],"modes":["mpt"]}`, nil, ""},
		"another architecture":                 {nvgputest.GPU(0), `{` + open + `,"architectures":["blackwell"]}`, nil, "arch"},
		"another model":                        {nvgputest.GPU(0), `{` + open + `,"models":["H200","B200"]}`, nil, "model"},
		"the model":                            {nvgputest.GPU(0), `{` + open + `,"models":["H200","H100"]}`, nil, ""},
		"the board":                            {nvgputest.GPU(0), `{` + open + `,"models":["1010/0200/882"]}`, nil, ""},
		"another mode":                         {nvgputest.GPU(0), `{` + open + `,"modes":["ppcie","mpt"]}`, nil, "mode"},
		"the very floor":                       {nvgputest.GPU(0), `{` + open + `,"floors":[{"arch":"hopper","driver":"550.90.07","vbios":"96.00.9F.00.01"}]}`, nil, ""},
		"an older floor, shorter":              {nvgputest.GPU(0), `{` + open + `,"floors":[{"arch":"hopper","driver":"550.90","vbios":"96.00.9E"}]}`, nil, ""},
		"a newer driver wanted":                {nvgputest.GPU(0), `{` + open + `,"floors":[{"arch":"hopper","driver":"550.100","vbios":""}]}`, nil, "driver"},
		"a newer VBIOS wanted, in hex":         {nvgputest.GPU(0), `{` + open + `,"floors":[{"arch":"hopper","driver":"","vbios":"96.00.a0.00.00"}]}`, nil, "vbios"},
		"a floor of another architecture":      {nvgputest.GPU(0), `{` + open + `,"floors":[{"arch":"blackwell","driver":"","vbios":""}]}`, nil, "floor"},
		"a floor for the switch":               {nvgputest.Switch(0), `{` + open + `,"floors":[{"arch":"ls10","driver":"","vbios":"96.10.74.00.00"}]}`, nil, "vbios"},
		"the manifest's floor":                 {nvgputest.GPU(0), `{` + open + `}`, floor("hopper", "570.1", ""), "driver"},
		"the manifest's floor, not the policy": {nvgputest.GPU(0), `{` + open + `,"floors":[{"arch":"hopper","driver":"535.0","vbios":""}]}`, floor("hopper", "570.1", "97"), "driver vbios"},
		"the manifest knows other GPUs":        {nvgputest.GPU(0), `{` + open + `}`, floor("blackwell", "", ""), "floor"},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := policy.Parse([]byte(c.doc))
			if err != nil {
				t.Fatal(err)
			}
			it, err := p.Make(&c.device, [32]byte{})
			if err != nil {
				t.Fatal(err)
			}
			o := &nvgpu.Options{Roots: p.Roots(), RIMRoots: p.RIMRoots(), Now: nvgputest.Now}
			q.Apply(o)
			o.NoRIM = true
			m := nvgpu.Verify([]nvgpu.Item{it}, o)
			if bad := m.Failed(); len(bad) > 0 {
				t.Fatal(bad)
			}
			checks := q.Appraise(m.Devices[0], c.manifest, false)
			if got := failed(checks); got != c.want {
				t.Errorf("failed %q, want %q\n%+v", got, c.want, checks)
			}
			for _, id := range []string{"gpu.measurements", "gpu.ocsp"} {
				if policy.Waived(id, checks) != q.AllowUnmeasured {
					t.Errorf("%s is waived: %v", id, policy.Waived(id, checks))
				}
			}
			if policy.Waived("gpu.signature", checks) || policy.Waived("gpu.count", checks) {
				t.Error("what no policy judges is waived")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"architectures":["hopper"],"models":["H100"],"modes":["spt"],"floors":[{"arch":"hopper","driver":"550.90.07","vbios":"96.00.9F.00.01"}],"ocsp":{"max_age_seconds":60}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := policy.Parse(in)
		if err != nil {
			return
		}
		a, err := jcs.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := policy.Parse(a)
		if err != nil {
			t.Fatalf("accepted policy is refused when written again: %v", err)
		}
		if b, err := jcs.Marshal(q); err != nil || !bytes.Equal(a, b) {
			t.Fatalf("policy changes when it is written again: %v", err)
		}
	})
}
