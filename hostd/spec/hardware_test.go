package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
)

func TestHardwareThatIsNotPossibleIsRefused(t *testing.T) {
	gpu := []any{"0000:1b:00.0"}
	for name, change := range map[string]func(m map[string]any){
		"odd huge pages":                      func(m map[string]any) { m["hugepages"] = "4K" },
		"memory that is no multiple of them":  func(m map[string]any) { m["hugepages"], m["memory_mib"] = "1G", 1500 },
		"a window that is no power of two":    func(m map[string]any) { m["mmio64_mib"] = 3000 },
		"nodes with other memory than the VM": numa(map[string]any{"host_node": 0, "memory_mib": 512, "cpus": 2}),
		"nodes with other cpus than the VM":   numa(map[string]any{"host_node": 0, "memory_mib": 1024, "cpus": 1}),
		"too few host cpus":                   numa(map[string]any{"host_node": 0, "memory_mib": 1024, "cpus": 2, "host_cpus": "3"}),
		"a host cpu twice":                    numa(map[string]any{"host_node": 0, "memory_mib": 1024, "cpus": 2, "host_cpus": "3,3"}),
		"host cpus that are no list":          numa(map[string]any{"host_node": 0, "memory_mib": 1024, "cpus": 2, "host_cpus": "a-b"}),
		"host cpus backwards":                 numa(map[string]any{"host_node": 0, "memory_mib": 1024, "cpus": 2, "host_cpus": "9-2"}),
		"a negative host node":                numa(map[string]any{"host_node": -1, "memory_mib": 1024, "cpus": 2}),
		"a gpu that is no address":            gpus("vtpm", "off", "1b:00.0"),
		"a gpu twice":                         gpus("vtpm", "off", "0000:1b:00.0", "0000:1b:00.0"),
		"a gpu in mode cc without a TEE":      gpus("vtpm", "cc", "0000:1b:00.0"),
		"a gpu in mode off with a TEE":        gpus("tdx", "off", "0000:1b:00.0"),
		"a gpu in mode devtools":              gpus("tdx", "devtools", "0000:1b:00.0"),
		"part of a board in protected PCIe":   gpus("tdx", "ppcie", "0000:1b:00.0"),
		"no gpu in the list":                  gpus("tdx", "cc"),
		"snp settings for a tdx guest":        func(m map[string]any) { m["tee"], m["snp"] = "tdx", map[string]any{} },
		"tdx settings for an snp guest":       func(m map[string]any) { m["tee"], m["tdx"] = "snp", map[string]any{} },
		"a quote socket that is relative":     func(m map[string]any) { m["tee"], m["tdx"] = "tdx", map[string]any{"quote_socket": "qgs"} },
		"a vcpu type without a signature":     snpWith("vcpu_type", "host"),
		"a debug policy":                      snpWith("policy", "0xb0000"),
		"a policy that AMD refuses":           snpWith("policy", "0x10000"),
		"a policy that is no number":          snpWith("policy", "30000"),
		"an id block without its signature":   snpWith("id_block", "x"),
		"a c-bit out of range":                snpWith("cbitpos", 5),
		"an unknown field among the gpus":     func(m map[string]any) { m["gpus"] = map[string]any{"devices": gpu, "mode": "off", "x": 1} },
	} {
		t.Run(name, func(t *testing.T) {
			var m map[string]any
			if err := json.Unmarshal([]byte(good), &m); err != nil {
				t.Fatal(err)
			}
			change(m)
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(b); !fault.Has(err, "vm.spec.invalid") && !fault.Has(err, "vm.spec.malformed") {
				t.Errorf("Parse() = %v", err)
			}
		})
	}
}

func numa(nodes ...any) func(map[string]any) {
	return func(m map[string]any) { m["numa"] = nodes }
}

func gpus(tee, mode string, devices ...string) func(map[string]any) {
	return func(m map[string]any) {
		m["tee"], m["gpus"] = tee, map[string]any{"devices": append([]string{}, devices...), "mode": mode}
	}
}

func snpWith(k string, v any) func(map[string]any) {
	return func(m map[string]any) { m["tee"], m["snp"] = "snp", map[string]any{k: v} }
}

func TestParseCPUs(t *testing.T) {
	got, err := ParseCPUs("0-3,8,10-11")
	if diff := cmp.Diff([]int{0, 1, 2, 3, 8, 10, 11}, got); err != nil || diff != "" {
		t.Errorf("ParseCPUs (-want +got), %v:\n%s", err, diff)
	}
}

const goodYAML = `version: 1
name: worker-1
tee: tdx
memory_mib: 1024
cpus: 2
image: image
packs: {engine: packs/engine.img, model: ""}
config: config.json
operator: operator.json
gpus:
  devices: ["0000:1b:00.0"]
  mode: cc
`

func TestYAMLIsAsStrictAsJSON(t *testing.T) {
	load := func(text string) (*Spec, error) {
		path := filepath.Join(t.TempDir(), "vm.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(path)
	}
	s, err := load(goodYAML)
	if err != nil || s.GPUs == nil || s.GPUs.Devices[0] != "0000:1b:00.0" || !filepath.IsAbs(s.Config) {
		t.Fatalf("Load() = %+v, %v", s, err)
	}
	for name, text := range map[string]string{
		"an unknown key":         goodYAML + "monitor: tcp\n",
		"a key twice":            goodYAML + "cpus: 3\n",
		"a key that is a number": goodYAML + "1: 2\n",
		"a word for true":        goodYAML + "tdx: yes\n",
		"an alias":               "name: &n a\ntee: *n\n",
		"a list":                 "- 1\n",
		"no YAML":                "a: [",
		"nothing":                "",
	} {
		if _, err := load(text); !fault.Has(err, "vm.spec.malformed") && !fault.Has(err, "vm.spec.invalid") {
			t.Errorf("%s: Load() = %v", name, err)
		}
	}
}

func FuzzParseYAML(f *testing.F) {
	f.Add([]byte(goodYAML))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Parse(b); err == nil && s.Validate() != nil {
			t.Error("a parsed spec is not valid")
		}
	})
}

func TestFurtherModelPacks(t *testing.T) {
	s, err := Parse([]byte(strings.Replace(goodYAML, `model: ""`, "model: a.img, models: [b.img, c.img]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	s.Resolve("/d")
	if diff := cmp.Diff([]string{"/d/a.img", "/d/b.img", "/d/c.img"}, s.Packs.ModelPacks()); diff != "" {
		t.Errorf("packs (-want +got):\n%s", diff)
	}
	if fs := s.Files(); fs["model pack"] != "/d/a.img" || fs["model pack 3"] != "/d/c.img" {
		t.Errorf("files %v", fs)
	}
	for name, packs := range map[string]string{
		"without a first": `model: "", models: [b.img]`,
		"one twice":       "model: a.img, models: [a.img]",
		"one without":     `model: a.img, models: [""]`,
		"too many":        "model: a.img, models: [b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]",
	} {
		if _, err := Parse([]byte(strings.Replace(goodYAML, `model: ""`, packs, 1))); !fault.Has(err, "vm.spec.invalid") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
