package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/fault"
)

const good = `{"version":1,"name":"worker-1","tee":"vtpm","memory_mib":1024,"cpus":2,"image":"image",
"packs":{"engine":"packs/engine.img","model":"/abs/model.img"},"config":"config.json","operator":"operator.json",
"fw_cfg":{"ton-global.json":"ton.json"},
"forwards":[{"guest":"10.0.2.100:443","target":"127.0.0.1:8443"},{"guest":"10.0.2.101:80","target":"unix:/run/x.sock"}]}`

func TestParseTakesAGoodSpecAndResolveMakesItsPathsAbsolute(t *testing.T) {
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CheckAbsolute(); err == nil {
		t.Error("relative paths passed CheckAbsolute")
	}
	s.Resolve("/base")
	if err := s.CheckAbsolute(); err != nil {
		t.Errorf("CheckAbsolute after Resolve = %v", err)
	}
	if s.Packs.Engine != "/base/packs/engine.img" || s.Packs.Model != "/abs/model.img" || s.FwCfg["ton-global.json"] != "/base/ton.json" {
		t.Errorf("resolved to %+v", s)
	}
}

// TestAHandOversFilesAreFound beside the spec, and checked with the others.
func TestAHandOversFilesAreFound(t *testing.T) {
	var m map[string]any
	if err := json.Unmarshal([]byte(good), &m); err != nil {
		t.Fatal(err)
	}
	m["tee"], m["handover"] = "snp", map[string]any{"manifest": "m.json", "collateral": "c.json"}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	s.Resolve("/base")
	if f := s.Files(); f["manifest"] != "/base/m.json" || f["collateral"] != "/base/c.json" || s.CheckAbsolute() != nil {
		t.Errorf("files %v", f)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, change := range map[string]func(m map[string]any){
		"an unknown field":                      func(m map[string]any) { m["monitor"] = "tcp" },
		"another version":                       func(m map[string]any) { m["version"] = 2 },
		"a name that is a path":                 func(m map[string]any) { m["name"] = "../x" },
		"a name with a comma":                   func(m map[string]any) { m["name"] = "a,b" },
		"an empty name":                         func(m map[string]any) { m["name"] = "" },
		"an unknown tee":                        func(m map[string]any) { m["tee"] = "sgx" },
		"too little memory":                     func(m map[string]any) { m["memory_mib"] = 16 },
		"no processors":                         func(m map[string]any) { m["cpus"] = 0 },
		"no image":                              func(m map[string]any) { m["image"] = "" },
		"a fw_cfg name that is the config's":    func(m map[string]any) { m["fw_cfg"] = map[string]any{"config.json": "x"} },
		"a fw_cfg name with a slash":            func(m map[string]any) { m["fw_cfg"] = map[string]any{"a/b": "x"} },
		"a fw_cfg entry without a file":         func(m map[string]any) { m["fw_cfg"] = map[string]any{"a": ""} },
		"a forward outside the guest's network": forward("192.168.0.1:80", "127.0.0.1:80"),
		"a forward on the guest's own address":  forward("10.0.2.15:80", "127.0.0.1:80"),
		"a forward on the host's address":       forward("10.0.2.2:80", "127.0.0.1:80"),
		"a forward without a port":              forward("10.0.2.100", "127.0.0.1:80"),
		"a forward in another spelling":         forward("10.0.2.100:080", "127.0.0.1:80"),
		"a target that would split words":       forward("10.0.2.100:80", "127.0.0.1' sh:80"),
		"a target without a port":               forward("10.0.2.100:80", "127.0.0.1"),
		"a relative socket target":              forward("10.0.2.100:80", "unix:x.sock"),
		"a path with a newline":                 func(m map[string]any) { m["config"] = "a\nb" },
		"a stop grace that is too long":         func(m map[string]any) { m["stop_grace_s"] = 601 },
		"a hand-over without a manifest":        func(m map[string]any) { m["tee"], m["handover"] = "snp", map[string]any{} },
		"a hand-over of a software TPM's":       func(m map[string]any) { m["handover"] = map[string]any{"manifest": "m.json"} },
		"a hand-over with a newline":            func(m map[string]any) { m["tee"], m["handover"] = "snp", map[string]any{"manifest": "m\nn"} },
		"a tpm ca that is a path":               func(m map[string]any) { m["tpm_ca"] = "../ca" },
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
			if _, err := Parse(b); fault.ExitCode(err) != fault.ExitParse {
				t.Errorf("Parse() = %v, want a refusal as unparsable", err)
			}
		})
	}
}

func forward(guest, target string) func(map[string]any) {
	return func(m map[string]any) {
		m["forwards"] = []any{map[string]any{"guest": guest, "target": target}}
	}
}

func TestParseReportsAllThatIsWrongAtOnce(t *testing.T) {
	_, err := Parse([]byte(strings.NewReplacer(`"vtpm"`, `"x"`, `1024`, `1`, `:443"`, `"`).Replace(good)))
	for _, want := range []string{"tee", "memory_mib", "forward 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse() = %v, want it to name %s", err, want)
		}
	}
}

func TestCheckFilesNamesEveryFileThatIsMissingOrUnfit(t *testing.T) {
	dir := t.TempDir()
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	s.Resolve(dir)
	s.Packs.Model = filepath.Join(dir, "model.img")
	if err := os.MkdirAll(filepath.Join(dir, "image", "initrd"), 0o700); err != nil { // a directory in place of a file
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), make([]byte, MaxFwCfgSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	err = s.CheckFiles()
	for code, n := range map[string]int{"vm.file.missing": 7, "vm.file.irregular": 1, "vm.file.too_large": 1} {
		got := 0
		for _, f := range fault.All(err) {
			if f.Code == code {
				got++
			}
		}
		if got != n {
			t.Errorf("%d faults %s, want %d, in: %v", got, code, n, err)
		}
	}
}

func TestCmdlineLosesOneNewlineAndTakesPrintableASCIIOnly(t *testing.T) {
	s := &Spec{Image: t.TempDir()}
	for in, want := range map[string]string{"a b\n": "a b", "a b": "a b", "a\n\n": "", "a\x00": "", "a\tb": "", "é": ""} {
		if err := os.WriteFile(filepath.Join(s.Image, CmdlineFile), []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Cmdline()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Cmdline() of %q = %q, %v, want %q", in, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		if err := s.Validate(); err != nil {
			t.Errorf("an accepted spec does not validate: %v", err)
		}
	})
}
