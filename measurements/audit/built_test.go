package audit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
	"cocoon/measurements/audit"
	"cocoon/measurements/release"
)

// TestTheBuiltReleasePasses audits what "make release" wrote, then changes one
// byte of each kind of file in it: exactly the rows of that file fail.
func TestTheBuiltReleasePasses(t *testing.T) {
	root, err := toolstree.RepoRoot()
	check(t, err)
	built := filepath.Join(root, "build", "release")
	keys, err := os.ReadFile(filepath.Join(root, "build", "keys", release.KeysFile))
	if _, e := os.Stat(filepath.Join(built, release.ManifestFile)); e != nil || err != nil {
		t.Skip("there is no release of these programs: run make release first")
	}
	trust, err := release.ParseTrust(keys)
	check(t, err)
	m := &made{dir: filepath.Join(t.TempDir(), "release"), trust: trust}
	src, err := audit.OpenSource(built)
	check(t, err)
	files, err := src.Files()
	check(t, err)
	for _, f := range files {
		to := filepath.Join(m.dir, f.Name)
		check(t, os.MkdirAll(filepath.Dir(to), 0o755))
		if os.Link(filepath.Join(built, f.Name), to) != nil {
			b, err := audit.ReadAll(src, f.Name, 1<<30)
			check(t, err)
			check(t, os.WriteFile(to, b, 0o644))
		}
	}
	start := time.Now()
	r := m.audit(t, nil)
	t.Logf("%d rows in %.1f s", len(r.Rows), time.Since(start).Seconds())
	if !r.Passed {
		t.Fatalf("failed: %v", failed(r))
	}
	if testing.Short() {
		return
	}
	packages := 0
	for _, f := range files {
		dir, _, _ := strings.Cut(f.Name, "/")
		// One package stands for all.
		if dir == release.PackagesDir {
			if packages++; packages > 1 {
				continue
			}
		}
		to := filepath.Join(m.dir, f.Name)
		good, err := audit.ReadAll(src, f.Name, 1<<30)
		check(t, err)
		good[len(good)/2] ^= 1
		check(t, os.Remove(to)) // a link: the release itself stays as it is
		check(t, os.WriteFile(to, good, 0o644))
		r := m.audit(t, nil)
		if code := fault.ExitCode(r.Err()); code != fault.ExitRefused {
			t.Errorf("%s: exit code %d", f.Name, code)
		}
		own := false
		for _, row := range failed(r) {
			own = own || strings.Contains(row, f.Name)
			about := strings.HasPrefix(row, "register.") && (dir == release.ImageDir || dir == release.FirmwareDir)
			if !strings.Contains(row, f.Name) && !about && f.Name != release.ManifestFile {
				t.Errorf("%s: fails also %s", f.Name, row)
			}
		}
		if !own {
			t.Errorf("%s: no row of its own fails: %v", f.Name, failed(r))
		}
		good[len(good)/2] ^= 1
		check(t, os.WriteFile(to, good, 0o644))
	}
}
