package appraise_test

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/internal/vectors"
	"cocoon/verifier/appraise"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/pck"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/sgx"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tpmtest"
)

// factsOf is Facts of what a verification found.
func factsOf(t *testing.T, v any) map[string]any {
	t.Helper()
	f, err := appraise.Facts(v)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readVector(t *testing.T, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{vectors.Dir(t)}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// realQuote verifies a quote of the vectors with its collateral.
func realQuote(t *testing.T, name, collat string, at int64) any {
	t.Helper()
	raw, err := collateral.ParseJSON(readVector(t, name+"."+collat+".collateral.json"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := collateral.Open(raw, pck.IntelRoots())
	if err != nil {
		t.Fatal(err)
	}
	quote, o := readVector(t, name+".quote.bin"), &dcap.Options{Now: time.Unix(at, 0), Collateral: set}
	if strings.HasPrefix(name, "sgx/") {
		r, err := sgx.Verify(quote, o)
		if r == nil {
			t.Fatal(err)
		}
		return &r.Result
	}
	r, err := tdx.Verify(quote, o)
	if r == nil {
		t.Fatal(err)
	}
	return &r.Result
}

func realReport(t *testing.T, name, cert string) any {
	t.Helper()
	r, err := snp.Verify(readVector(t, "snp", name+".report.bin"), &snp.Options{Now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), Certificate: readVector(t, "snp", name+"."+cert+".der")})
	if r == nil {
		t.Fatal(err)
	}
	return r
}

func realGPU(t *testing.T, name string, rims ...string) any {
	t.Helper()
	it := nvgpu.Item{Report: readVector(t, "gpu", "evidence", name, "report.bin")}
	for block, rest := pem.Decode(readVector(t, "gpu", "evidence", name, "chain.pem")); block != nil; block, rest = pem.Decode(rest) {
		it.Chain = append(it.Chain, block.Bytes)
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(readVector(t, "gpu", "evidence", name, "nonce.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	o := &nvgpu.Options{Now: time.Date(2025, 9, 1, 0, 0, 0, 0, time.UTC), Nonce: [32]byte(nonce), Partial: true}
	for _, r := range rims {
		o.RIMs = append(o.RIMs, readVector(t, "gpu", "evidence", name, r))
	}
	return nvgpu.Verify([]nvgpu.Item{it}, o).Devices[0]
}

// TestRulesOverRealHardware holds what was found of real quotes, reports and
// devices against rules of a site.
func TestRulesOverRealHardware(t *testing.T) {
	tdx := factsOf(t, realQuote(t, "tdx/tdx-v4-dcap-qvl-20a06f000000-9069", "e17", 1758093775))
	sgx := factsOf(t, realQuote(t, "sgx/sgx-v3-dcap-qvl-00a067110000-f8b8", "e17", 1751624924))
	milan := factsOf(t, realReport(t, "snp-v3-milan-vcek-oak-810e", "vcek"))
	siena := factsOf(t, realReport(t, "snp-v5-siena-vcek-attestation-rs-7ea4", "vcek"))
	vlek := factsOf(t, realReport(t, "snp-v3-milan-vlek-trustee-decd", "vlek"))
	hopper := factsOf(t, realGPU(t, "google-hopper-550.90.07", "driver.swidtag", "vbios.swidtag"))
	blackwell := factsOf(t, realGPU(t, "google-mpt-blackwell-0"))
	nvswitch := factsOf(t, realGPU(t, "nvtrust-ppcie-switch-0"))
	type facts = map[string]any
	for expression, c := range map[string]struct {
		cpu  facts
		gpus []facts
		want bool
	}{
		`cpu.tee == "tdx" && cpu.tcb.status == "UpToDate" && cpu.genuine`:        {cpu: tdx, want: true},
		`cpu.platform.fmspc == "20a06f000000" && cpu.platform.ca == "platform"`:  {cpu: tdx, want: true},
		`cpu.platform.fmspc in ["00806f050000", "b0c06f000000"]`:                 {cpu: tdx},
		`"INTEL-SA-00615" in cpu.tcb.advisories`:                                 {cpu: sgx, want: true},
		`cpu.tcb.advisories.all(a, a in ["INTEL-SA-00289"])`:                     {cpu: sgx},
		`cpu.tee == "snp" && cpu.product == "Milan" && cpu.signer == "VCEK"`:     {cpu: milan, want: true},
		`cpu.tcb.reported.snp >= 24 && cpu.tcb.reported.microcode >= 219`:        {cpu: milan, want: true},
		`cpu.tcb.reported.snp >= 25`:                                             {cpu: milan},
		`!cpu.policy.debug && cpu.vmpl == 0 && !cpu.policy.migration_agent`:      {cpu: milan, want: true},
		`cpu.firmware.committed.major > 1 || cpu.firmware.committed.minor >= 55`: {cpu: milan, want: true},
		`cpu.product == "Siena" && cpu.platform.ecc && !cpu.platform.tsme`:       {cpu: siena, want: true},
		`has(cpu.mitigations)`:                                                     {cpu: siena, want: true},
		`cpu.certificate.chip_id != ""`:                                            {cpu: siena, want: true},
		`cpu.signer == "VLEK" && has(cpu.certificate.csp)`:                         {cpu: vlek, want: true},
		`has(cpu.mitigations) && cpu.version >= 5`:                                 {cpu: milan},
		`gpus.all(g, g.arch == "hopper" && g.mode == "spt")`:                       {gpus: []facts{hopper}, want: true},
		`gpus.exists(g, g.model == "H100" && g.driver.startsWith("550."))`:         {gpus: []facts{hopper}, want: true},
		`size(gpus[0].rims) == 2`:                                                  {gpus: []facts{hopper}, want: true},
		`gpus.all(g, g.mode == "mpt" && g.chip == "GB100")`:                        {gpus: []facts{blackwell}, want: true},
		`gpus.all(g, has(g.rims))`:                                                 {gpus: []facts{hopper, blackwell}},
		`gpus.filter(g, g.kind == "switch").size() == 1`:                           {gpus: []facts{hopper, nvswitch}, want: true},
		`gpus.all(g, g.kind == "gpu")`:                                             {gpus: []facts{hopper, nvswitch}},
		`gpus.map(g, g.pdi).all(p, size(p) == 16) && gpus[0].ueid != gpus[1].ueid`: {gpus: []facts{hopper, blackwell}, want: true},
		`cpu.product == "Milan" && gpus.all(g, g.arch == "hopper")`:                {cpu: milan, gpus: []facts{hopper}, want: true},
	} {
		set, err := rules.Compile([]rules.Rule{{ID: "it", Expression: expression, Reason: "r"}})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		got := set.Appraise(&rules.Facts{CPU: c.cpu, GPUs: c.gpus, Now: tpmtest.Now})
		if (got[0].Status == "pass") != c.want || strings.HasPrefix(got[0].Actual, "cannot") {
			t.Errorf("%s: %+v, want %v", expression, got[0], c.want)
		}
	}
}

// paths lists the names of facts, as "cpu.tcb.status"; what is below a list is
// not named.
func paths(prefix string, m map[string]any, into map[string]bool) {
	for k, v := range m {
		name := prefix + k
		if sub, ok := v.(map[string]any); ok {
			paths(name+".", sub, into)
			continue
		}
		into[name] = true
	}
}

// found are the facts of every kind of machine: those of the test authorities,
// and, where there are vectors, of real hardware.
func found(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	add := func(prefix string, v any) { paths(prefix, factsOf(t, v), names) }
	for _, v := range []snptest.Report{snptest.Default(2, report.Milan, report.VCEK), snptest.Default(5, report.Turin, report.VCEK), snptest.Default(3, report.Milan, report.VLEK)} {
		pki, err := snptest.New("facts")
		if err != nil {
			t.Fatal(err)
		}
		raw, cert, err := pki.Make(&v)
		if err != nil {
			t.Fatal(err)
		}
		list := snptest.DefaultCRL(v.Product)
		crl, err := pki.CRL(&list)
		if err != nil {
			t.Fatal(err)
		}
		r, err := snp.Verify(raw, &snp.Options{Now: snptest.Now, Roots: pki.Roots(), Certificate: cert, CRL: crl})
		if r == nil {
			t.Fatal(err)
		}
		add("cpu.", r)
	}
	if vectors.Find() == "" {
		return names
	}
	b := readVector(t, "index.json")
	var index struct {
		DCAP []struct {
			Quote string
			Cases []struct {
				Collateral string
				VerifyAt   int64 `json:"verify_at"`
			}
		}
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	for _, q := range index.DCAP {
		for _, c := range q.Cases {
			name := strings.TrimSuffix(q.Quote, ".quote.bin")
			add("cpu.", realQuote(t, name, strings.TrimSuffix(strings.TrimPrefix(c.Collateral, name+"."), ".collateral.json"), c.VerifyAt))
		}
	}
	for _, d := range []string{"google-hopper-550.90.07", "google-mpt-blackwell-0", "nvtrust-ppcie-switch-0"} {
		add("gpu.", realGPU(t, d, map[string][]string{"google-hopper-550.90.07": {"driver.swidtag", "vbios.swidtag"}}[d]...))
	}
	return names
}

var (
	fact   = regexp.MustCompile("`((?:cpu|gpu)\\.[a-z0-9_.{}, ]+)`")
	braces = regexp.MustCompile(`^([^{}]*)\{([^{}]*)\}(.*)$`)
)

// expand writes out what a name with braces stands for: "a.{b, c}" is a.b and a.c.
func expand(name string, into map[string]bool) {
	m := braces.FindStringSubmatch(name)
	if m == nil {
		into[name] = true
		return
	}
	for _, part := range strings.Split(m[2], ",") {
		expand(m[1]+strings.TrimSpace(part)+m[3], into)
	}
}

// TestEveryFactIsOnThePage holds the tables of docs/policy.md against what rules
// can see, both ways.
func TestEveryFactIsOnThePage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range fact.FindAllSubmatch(page, -1) {
		expand(string(m[1]), named)
	}
	all := found(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !named[name] {
			t.Errorf("%s is not on the page", name)
		}
	}
	if vectors.Find() == "" {
		return // most kinds are not looked at
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if !all[name] {
			t.Errorf("nothing has %s", name)
		}
	}
}
