package debs

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/image/lock"
)

func TestParseTargetsFindsTheMachinesMirrors(t *testing.T) {
	tests := []struct {
		name, out string
		want      Mirror
		fails     bool
	}{
		{
			name: "archive and security",
			out:  "http://m/debian/\tbookworm\tmain\tDebian\nhttp://m/debian/\tbookworm-updates\tmain\tDebian\nhttp://s/sec/\tbookworm-security\tmain\tDebian\n",
			want: Mirror{Main: "http://m/debian", Security: "http://s/sec"},
		},
		{
			name: "a third party's archive first",
			out:  "http://x/node/\tnodistro\tmain\t. nodistro\nhttp://m/debian/\tbookworm\tmain\tDebian\n",
			want: Mirror{Main: "http://m/debian"},
		},
		{name: "no Debian archive", out: "http://x/node/\tnodistro\tmain\tOther\n", fails: true},
		{name: "nothing", out: "", fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseTargets(tt.out)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v, want failure %v", err, tt.fails)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSourcesNameOnlyTheGivenMirror(t *testing.T) {
	got := Mirror{Main: "http://m/debian", Security: "http://s/sec"}.Sources("trixie", "main", "/k.gpg")
	want := "Types: deb\nURIs: http://m/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /k.gpg\n" +
		"\nTypes: deb\nURIs: http://s/sec\nSuites: trixie-security\nComponents: main\nSigned-By: /k.gpg\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestProxyLinesKeepOnlyProxies(t *testing.T) {
	dump := "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://p:1\";\nAcquire::https::Proxy::host \"DIRECT\";\nDir::Cache::pkgcache \"\";\nAcquire::Retries \"3\";\n"
	want := "Acquire::http::Proxy \"http://p:1\";\nAcquire::https::Proxy::host \"DIRECT\";\n"
	if got := proxyLines(dump); got != want {
		t.Errorf("got %q", got)
	}
}

func TestParseRecordsReadsEachStanza(t *testing.T) {
	out := "Package: a\nVersion: 1:2\nSize: 10\nSHA256: aa\nDescription: x\n more: y\n\nPackage: a\nVersion: 1:3\nSize: 11\nSHA256: bb\n"
	got, err := parseRecords([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Deb{
		"a=1:2": {Name: "a", Version: "1:2", SHA256: "aa", Size: 10},
		"a=1:3": {Name: "a", Version: "1:3", SHA256: "bb", Size: 11},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

const (
	sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	sumC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

func TestAPinFallsBackOnlyToTheNewestAtOrAboveItsFloor(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg compares versions and is not here")
	}
	p := lock.Package{Set: lock.SetTools, Name: "ovmf", Suite: "forky", Version: "2026.08-2", SHA256: sumA, Floor: "2026.08"}
	records := map[string]Deb{
		"ovmf=2026.08-2":  {Name: "ovmf", Version: "2026.08-2", SHA256: sumA, Size: 5},
		"ovmf=2026.08-9":  {Name: "ovmf", Version: "2026.08-9", SHA256: sumB, Size: 6},
		"ovmf=2026.08-10": {Name: "ovmf", Version: "2026.08-10", SHA256: sumC, Size: 7},
		"ovmf=2025.02-8":  {Name: "ovmf", Version: "2025.02-8", SHA256: sumC, Size: 8},
	}
	line := func(v, suite string) string {
		return " ovmf | " + v + " | http://m/debian " + suite + "/main amd64 Packages\n"
	}
	tests := []struct {
		name, offered string
		cached        bool
		want          Deb
		err           error
	}{
		{name: "the exact version is offered", offered: line("2026.08-9", "forky") + line("2026.08-2", "forky"),
			want: Deb{Name: "ovmf", Version: "2026.08-2", SHA256: sumA, Size: 5, Source: FromPin, Pinned: "2026.08-2"}},
		{name: "it is gone but cached", offered: line("2026.08-9", "forky"), cached: true,
			want: Deb{Name: "ovmf", Version: "2026.08-2", Arch: "all", SHA256: sumA, Source: FromPin, Pinned: "2026.08-2"}},
		{name: "it is gone: the newest by Debian's order, not the text's", offered: line("2026.08-9", "forky") + line("2026.08-10", "forky"),
			want: Deb{Name: "ovmf", Version: "2026.08-10", SHA256: sumC, Size: 7, Source: FromFallback, Pinned: "2026.08-2"}},
		{name: "only older ones are left", offered: line("2025.02-8", "forky"), err: ErrBelowFloor},
		{name: "newer ones are in another suite only", offered: line("2026.08-9", "sid"), err: ErrBelowFloor},
		{name: "nothing is offered", err: ErrBelowFloor},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &Archive{opts: Options{Cache: t.TempDir(), Log: io.Discard}, offered: map[string]string{"ovmf": tt.offered}, records: records}
			if tt.cached {
				buildDeb(t, filepath.Join(a.opts.Cache, sumA+".deb"))
			}
			got, err := a.pin(context.Background(), p)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// buildDeb makes a real, empty package.
func buildDeb(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	control := "Package: ovmf\nVersion: 2026.08-2\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: test\n"
	if err := os.WriteFile(filepath.Join(dir, "DEBIAN", "control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "--build", dir, path).CombinedOutput(); err != nil {
		t.Fatalf("building a package: %v\n%s", err, out)
	}
}

func TestAPinWithTheRightVersionAndAnotherHashIsNotExact(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg compares versions and is not here")
	}
	var log strings.Builder
	a := &Archive{
		opts:    Options{Cache: t.TempDir(), Log: &log},
		offered: map[string]string{"ovmf": " ovmf | 1 | http://m forky/main amd64 Packages\n"},
		records: map[string]Deb{"ovmf=1": {Name: "ovmf", Version: "1", SHA256: sumB, Size: 1}},
	}
	d, err := a.pin(context.Background(), lock.Package{Name: "ovmf", Suite: "forky", Version: "1", SHA256: sumA, Floor: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Source != FromFallback || !strings.Contains(log.String(), "pin unavailable: ovmf") {
		t.Errorf("got %+v and said %q, want a fallback that is said", d, log.String())
	}
}

func TestVerifyRemovesACorruptCachedFile(t *testing.T) {
	a := &Archive{opts: Options{Cache: t.TempDir(), Log: io.Discard}}
	d := Deb{Name: "x", SHA256: sumA}
	if err := os.WriteFile(a.Path(d), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.Verify([]Deb{d}); err == nil {
		t.Fatal("a file under a wrong hash was accepted")
	}
	if _, err := os.Stat(a.Path(d)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the corrupt file is still in the cache")
	}
}

func TestFurtherComponentsAreOfTheReleaseOnly(t *testing.T) {
	a := &Archive{opts: Options{Mirror: Mirror{Main: "http://m/debian", Security: "http://m/security"}, Components: []string{"contrib", "non-free"},
		Lock: lock.Lock{Release: "trixie", Packages: []lock.Package{{Name: "x", Suite: "forky"}}}}}
	lines := strings.Split(strings.TrimSpace(a.sources()), "\n")
	if len(lines) < 3 {
		t.Fatalf("sources are %q", lines)
	}
	for _, l := range lines {
		want := " main contrib non-free"
		if strings.Contains(l, " forky ") {
			want = " forky main"
		}
		if !strings.HasSuffix(l, want) {
			t.Errorf("%q does not end in %q", l, want)
		}
	}
}
