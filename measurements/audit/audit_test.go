package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/measurements/audit"
	"cocoon/measurements/digest"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

func TestAReleaseThatIsWhatItSaysPasses(t *testing.T) {
	m := newRelease(t)
	r := m.audit(t, nil)
	if !r.Passed || r.Err() != nil {
		t.Fatalf("failed: %v", r.Failed())
	}
	for _, g := range audit.Groups() {
		want := "✓"
		switch g.Title {
		case "registry", "rebuild", "machine":
			want = "–"
		case "registers of TDX", "launch digest of SEV-SNP":
			if !m.tdx {
				want = "–"
			}
		}
		if got := audit.Status(g.Of(r.Rows)); got != want {
			t.Errorf("%s is %s, want %s", g.Title, got, want)
		}
	}
	n := 0
	for _, g := range audit.Groups() {
		n += len(g.Of(r.Rows))
	}
	if n != len(r.Rows) {
		t.Errorf("the groups have %d rows of %d", n, len(r.Rows))
	}
}

// TestOneChangedByteFailsExactlyTheRightRows flips a byte at several places of
// each file, and takes each file away.
func TestOneChangedByteFailsExactlyTheRightRows(t *testing.T) {
	flipEach(t, newRelease(t), func(string) bool { return true })
}

// TestOneChangedByteFailsTheRegistersOfEveryTEE does so with a real firmware,
// for the files that registers are computed from.
func TestOneChangedByteFailsTheRegistersOfEveryTEE(t *testing.T) {
	m := newReleaseWith(t, realFirmware(t))
	if r := m.audit(t, nil); !r.Passed {
		t.Fatalf("failed: %v", r.Failed())
	}
	flipEach(t, m, func(name string) bool {
		return name == "image/vmlinuz" || name == "image/initrd" || name == "image/cmdline" || strings.HasPrefix(name, "firmware/")
	})
}

func flipEach(t *testing.T, m *made, which func(name string) bool) {
	t.Helper()
	tee := func(rows ...string) []string {
		var out []string
		for _, r := range rows {
			if m.tdx || strings.HasPrefix(r, "register.tpm") {
				out = append(out, r)
			}
		}
		return out
	}
	name := m.v.Manifest.TPM.Firmwares[0].Name
	var shapes []string
	if m.tdx {
		for _, s := range m.v.Manifest.SNP.Firmwares[0].Shapes {
			shapes = append(shapes, "register.snp OVMF.fd qemu "+s.VCPUType+" 1 vCPU")
		}
	}
	pkg := release.PackagePath(digest.Sum256([]byte("a package")))
	want := map[string][]string{
		"image/vmlinuz": append(append([]string{"artifact.hash image/vmlinuz"}, tee("register.tpm kernel, Authenticode SHA-256", "register.tpm "+name+" PCR 4",
			"register.tdx kernel, Authenticode SHA-384", "register.tdx OVMF.fd RTMR1", "register.snp kernel, SHA-256")...), shapes...),
		"image/initrd": append(append([]string{"artifact.hash image/initrd"}, tee("register.tpm initrd, SHA-256", "register.tpm "+name+" PCR 9",
			"register.tdx initrd, SHA-384", "register.tdx OVMF.fd RTMR2", "register.snp initrd, SHA-256")...), shapes...),
		"image/cmdline": append(append([]string{"artifact.hash image/cmdline"}, tee("register.tpm "+name+" PCR 9", "register.tdx OVMF.fd RTMR2",
			"register.snp command line, SHA-256")...), shapes...),
		"image/root.img":     {"artifact.hash image/root.img", "artifact.verity image/root.img"},
		"packs/engine.img":   {"artifact.hash packs/engine.img", "artifact.verity packs/engine.img"},
		"packs/model.img":    {"artifact.hash packs/model.img", "artifact.verity packs/model.img"},
		"image/image.json":   {"input.hash image/image.json"},
		"packs/packs.json":   {"input.hash packs/packs.json"},
		"locks/tools.lock":   {"input.hash locks/tools.lock"},
		"firmware/OVMF.fd":   append([]string{"input.hash firmware/OVMF.fd", "register.tpm " + name + ", firmware file"}, tee("register.tdx OVMF.fd, firmware file", "register.snp OVMF.fd, firmware file")...),
		pkg:                  {"input.hash deb/base_1_amd64 (" + pkg + ")"},
		"README.md":          {"document.page README.md"},
		"sbom.spdx.json":     {"document.sbom sbom.spdx.json"},
		"manifest.corim":     {"document.corim manifest.corim"},
		"keys.json":          {"document.keys keys.json"},
		"log/inclusion":      {"log.inclusion log/inclusion"},
		"log/consistency":    {"log.consistency log/consistency"},
		"manifest.json":      nil, // below: what fails depends on the byte
		"nobody/knows/it.md": {"artifact.extra nobody/knows/it.md"},
	}
	seen := map[string]bool{}
	src, err := audit.OpenSource(m.dir)
	check(t, err)
	files, err := src.Files()
	check(t, err)
	for _, f := range files {
		seen[f.Name] = true
		if !which(f.Name) {
			continue
		}
		expect, ok := want[f.Name]
		if !ok {
			t.Errorf("%s: no rows are written down for it", f.Name)
			continue
		}
		slices.Sort(expect)
		path := filepath.Join(m.dir, f.Name)
		good, err := os.ReadFile(path)
		check(t, err)
		places := []int{0, len(good) - 1}
		if f.Name == release.ManifestFile {
			places = nil
			for i := 0; i < len(good); i += 1 + len(good)/12 {
				places = append(places, i)
			}
			places = append(places, bytes.Index(good, []byte("keyid"))+10, bytes.LastIndex(good, []byte(`"sig"`))+10, len(good)-1)
		}
		for _, at := range places {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			check(t, os.WriteFile(path, bad, 0o644))
			r := m.audit(t, nil)
			got := failed(r)
			if f.Name == release.ManifestFile {
				if !slices.ContainsFunc(got, func(s string) bool {
					return strings.HasPrefix(s, "manifest.form") || strings.HasPrefix(s, "manifest.signatures")
				}) {
					t.Errorf("manifest.json, byte %d: %v", at, got)
				}
			} else if diff := cmp.Diff(expect, kernelHole(f.Name, at, expect, got)); diff != "" {
				t.Errorf("%s, byte %d (-want +got):\n%s", f.Name, at, diff)
			}
			if code := fault.ExitCode(r.Err()); code != fault.ExitRefused {
				t.Errorf("%s, byte %d: exit code %d", f.Name, at, code)
			}
			for _, row := range r.Failed() {
				if row.Reason == "" || row.Means == "" || row.Remedy == "" {
					t.Errorf("%s: row %+v leaves its reader alone", f.Name, row)
				}
			}
		}
		check(t, os.Remove(path))
		if r := m.audit0(t); r != nil && r.Passed {
			t.Errorf("%s is missing, and the audit passes", f.Name)
		}
		check(t, os.WriteFile(path, good, 0o644))
	}
	m.write(t, "nobody/knows/it.md", []byte("extra"))
	if diff := cmp.Diff(want["nobody/knows/it.md"], failed(m.audit(t, nil))); diff != "" {
		t.Errorf("an extra file (-want +got):\n%s", diff)
	}
	check(t, os.RemoveAll(filepath.Join(m.dir, "nobody")))
	for name := range want {
		if !seen[name] && !strings.HasPrefix(name, "nobody") {
			t.Errorf("%s is not in the release", name)
		}
	}
	if r := m.audit(t, nil); !r.Passed {
		t.Errorf("with every file as it was: %v", failed(r))
	}
}

// kernelHole is for a changed first byte of the kernel, without which it is no
// PE file: no register can be computed then, which is one row for each TEE.
func kernelHole(file string, at int, expect, got []string) []string {
	if file != "image/vmlinuz" || at != 0 {
		return got
	}
	for _, row := range got[1:] {
		if !strings.HasSuffix(row, " files") {
			return got
		}
	}
	return expect
}

func (m *made) audit0(t testing.TB) *audit.Report {
	t.Helper()
	src, err := audit.OpenSource(m.dir)
	check(t, err)
	r, err := audit.Run(t.Context(), audit.Options{Source: src, Name: "release", Now: now, Trust: m.trust})
	if err != nil {
		return nil
	}
	return r
}

func TestOnlyTheAuditorsKeysCount(t *testing.T) {
	m := newRelease(t)
	stranger := key("stranger").Public().(ed25519.PublicKey)
	logKey := *m.trust.Log
	otherLog := logKey
	otherLog.Public = stranger
	one := m.trust.Keys[0]
	for name, c := range map[string]struct {
		trust  *release.Trust
		failed []string
		groups map[string]string
	}{
		"none":                  {nil, []string{}, map[string]string{"transparency log": "–"}},
		"one of the two":        {&release.Trust{Format: 1, Keys: []digest.SHA256{one, digest.SHA256(stranger)}, Threshold: 1, Log: &logKey}, []string{}, nil},
		"a stranger's":          {&release.Trust{Format: 1, Keys: []digest.SHA256{digest.SHA256(stranger)}, Threshold: 1, Log: &logKey}, []string{"manifest.signatures manifest.json"}, nil},
		"more than have signed": {&release.Trust{Format: 1, Keys: []digest.SHA256{one, digest.SHA256(stranger)}, Threshold: 2, Log: &logKey}, []string{"manifest.signatures manifest.json"}, nil},
		"another log's":         {&release.Trust{Format: 1, Keys: m.trust.Keys, Threshold: 2, Log: &otherLog}, []string{"log.consistency log/consistency", "log.inclusion log/inclusion"}, nil},
	} {
		r := m.audit(t, func(o *audit.Options) { o.Trust = c.trust })
		if diff := cmp.Diff(c.failed, failed(r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, g := range audit.Groups() {
			if want, ok := c.groups[g.Title]; ok && audit.Status(g.Of(r.Rows)) != want {
				t.Errorf("%s: %s is %s, want %s", name, g.Title, audit.Status(g.Of(r.Rows)), want)
			}
		}
		for _, row := range r.Rows {
			if c.trust == nil && row.Status == audit.Pass && (strings.HasPrefix(row.Check, "log.") || row.Check == "manifest.signatures") {
				t.Errorf("without keys, %s passes", row.Check)
			}
		}
	}
}

func TestACheckpointThatWasKeptIsHeldAgainstTheLog(t *testing.T) {
	m := newRelease(t)
	now, err := m.log.Checkpoint(t.Context())
	check(t, err)
	prove := func(l *tiles.Log) func(context.Context, []byte) ([]byte, error) {
		return func(ctx context.Context, earlier []byte) ([]byte, error) {
			p, err := l.ProveConsistency(ctx, earlier)
			if err != nil {
				return nil, err
			}
			return p.Text(), nil
		}
	}
	_, err = m.log.Append(t.Context(), key("log"), digest.Sum256([]byte("later")))
	check(t, err)
	later, err := m.log.Checkpoint(t.Context())
	check(t, err)
	fork, err := tiles.Init(t.Context(), filepath.Join(t.TempDir(), "fork"), "log.example.org/cocoon", key("log"))
	check(t, err)
	_, err = fork.Append(t.Context(), key("log"), digest.Sum256([]byte("fork")))
	check(t, err)
	forked, err := fork.Checkpoint(t.Context())
	check(t, err)
	for name, c := range map[string]struct {
		earlier []byte
		log     *tiles.Log
		want    string
	}{
		"none":                             {nil, nil, audit.Skip},
		"that of the release":              {now.Raw, nil, audit.Pass},
		"a later one without the log":      {later.Raw, nil, audit.Skip},
		"a later one, with the log":        {later.Raw, m.log, audit.Pass},
		"a fork of the same size":          {forked.Raw, nil, audit.Fail},
		"a fork, with the log that forked": {later.Raw, fork, audit.Fail},
	} {
		r := m.audit(t, func(o *audit.Options) {
			o.Earlier = c.earlier
			if c.log != nil {
				o.Consistency = prove(c.log)
			}
		})
		for _, row := range r.Rows {
			if row.Check == "log.earlier" && row.Status != c.want {
				t.Errorf("%s: %+v, want %s", name, row, c.want)
			}
		}
	}
}

func TestWhatOthersSayIsHeldAgainstTheManifest(t *testing.T) {
	m := newRelease(t)
	model := m.v.Manifest.Models[0].VerityRoot
	registry := func(state string, until time.Time, models map[digest.SHA256]bool) func(context.Context, *manifest.Verified) (*audit.Manifests, error) {
		return func(context.Context, *manifest.Verified) (*audit.Manifests, error) {
			return &audit.Manifests{Address: "0:00", NetworkID: -3, Time: now, State: state, Until: until, Models: models}, nil
		}
	}
	good := map[digest.SHA256]bool{model: true}
	offline := fault.New(fault.ExitNetwork, "net", "try again", "no answer")
	for name, c := range map[string]struct {
		change func(*audit.Options)
		failed []string
		exit   int
	}{
		"listed":             {func(o *audit.Options) { o.Registry = registry("active", time.Time{}, good) }, []string{}, 0},
		"in grace":           {func(o *audit.Options) { o.Registry = registry("grace", now.Add(time.Hour), good) }, []string{}, 0},
		"after its grace":    {func(o *audit.Options) { o.Registry = registry("grace", now, good) }, []string{"registry.manifest 0:00 on network -3"}, 4},
		"revoked":            {func(o *audit.Options) { o.Registry = registry("revoked", time.Time{}, good) }, []string{"registry.manifest 0:00 on network -3"}, 4},
		"not listed":         {func(o *audit.Options) { o.Registry = registry("", time.Time{}, good) }, []string{"registry.manifest 0:00 on network -3"}, 4},
		"with another model": {func(o *audit.Options) { o.Registry = registry("active", time.Time{}, nil) }, []string{"registry.model chat"}, 4},
		"a ledger that is off": {func(o *audit.Options) {
			o.Registry = func(context.Context, *manifest.Verified) (*audit.Manifests, error) { return nil, offline }
		}, []string{"registry.state.unreachable registry"}, 3},
		"past its sunset": {func(o *audit.Options) { o.Now = now.AddDate(10, 0, 0) }, []string{"manifest.sunset manifest.json"}, 4},
		"rebuilt": {func(o *audit.Options) {
			o.Rebuild = func(context.Context) ([]audit.Compared, error) {
				a := m.v.Manifest.Artifacts[1]
				return []audit.Compared{{File: a.Name, Released: a.SHA256.String(), Rebuilt: a.SHA256.String()}}, nil
			}
		}, []string{}, 0},
		"rebuilt otherwise": {func(o *audit.Options) {
			o.Rebuild = func(context.Context) ([]audit.Compared, error) {
				return []audit.Compared{{File: "image/initrd", Rebuilt: "00", Because: "another Go"}}, nil
			}
		}, []string{"rebuild.artifact image/initrd"}, 2},
		"rebuilt as nothing": {func(o *audit.Options) {
			o.Rebuild = func(context.Context) ([]audit.Compared, error) { return nil, nil }
		}, []string{"rebuild.artifact image"}, 2},
		"a machine without checks": {func(o *audit.Options) {
			o.Machine = func(context.Context, *manifest.Verified) ([]audit.Row, error) { return nil, nil }
		}, []string{"machine.evidence machine"}, 2},
	} {
		r := m.audit(t, c.change)
		if diff := cmp.Diff(c.failed, failed(r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := fault.ExitCode(r.Err()); got != c.exit {
			t.Errorf("%s: exit code %d, want %d", name, got, c.exit)
		}
	}
}

func TestABundleHasTheSameRows(t *testing.T) {
	m := newRelease(t)
	src, err := audit.OpenSource(m.dir)
	check(t, err)
	want := m.audit(t, nil)
	var one, two bytes.Buffer
	check(t, audit.Save(&one, src, map[string][]byte{"audit/time": []byte("x")}))
	check(t, audit.Save(&two, src, map[string][]byte{"audit/time": []byte("x")}))
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two bundles of one release differ")
	}
	m.dir = filepath.Join(t.TempDir(), "bundle.tar")
	check(t, os.WriteFile(m.dir, one.Bytes(), 0o644))
	got := m.audit(t, nil)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bundle (-directory +bundle):\n%s", diff)
	}
	b, err := json.Marshal(got)
	check(t, err)
	if !bytes.Contains(b, []byte(`"passed":true`)) {
		t.Errorf("JSON is %.200s", b)
	}
}

// TestSourcesReadNothingOutside offers what would lead out of a release.
func TestSourcesReadNothingOutside(t *testing.T) {
	m := newRelease(t)
	src, err := audit.OpenSource(m.dir)
	check(t, err)
	for _, name := range []string{"../x", "/etc/passwd", "image/../../x", ""} {
		if _, err := src.Open(name); err == nil {
			t.Errorf("opened %q", name)
		}
	}
	check(t, os.Symlink("/etc/passwd", filepath.Join(m.dir, "link")))
	if _, err := src.Files(); err == nil {
		t.Error("a link is listed")
	}
	if _, err := src.Open("link"); err == nil {
		t.Error("a link is opened")
	}
}

func FuzzOpenBundle(f *testing.F) {
	m := newRelease(f)
	src, err := audit.OpenSource(m.dir)
	check(f, err)
	var b bytes.Buffer
	check(f, audit.Save(&b, src, nil))
	f.Add(b.Bytes()[:4096])
	path := filepath.Join(f.TempDir(), "bundle.tar")
	f.Fuzz(func(t *testing.T, in []byte) {
		check(t, os.WriteFile(path, in, 0o600))
		s, err := audit.OpenSource(path)
		if err != nil {
			return
		}
		defer s.Close()
		files, err := s.Files()
		check(t, err)
		for _, x := range files {
			if b, err := audit.ReadAll(s, x.Name, 1<<20); err == nil && int64(len(b)) != x.Size {
				t.Errorf("%s has %d bytes, listed are %d", x.Name, len(b), x.Size)
			}
		}
	})
}
