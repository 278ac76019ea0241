package launch

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/toolstree"
	"cocoon/internal/vectors"
	"cocoon/measurements/digest"
	"cocoon/measurements/mrtd"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdvf"
)

// Where the golden test looks for Debian's firmware files, beside the tools
// tree and /usr/share.
const (
	envFirmware = "COCOON_FIRMWARE"       // directories, with colons between
	envFetch    = "COCOON_FETCH_FIRMWARE" // fetch the packages that are not found, with apt-get
)

// goldenFile is one firmware file with the values that reference tools give.
type goldenFile struct {
	SHA256     string            `json:"sha256"`
	SinglePass string            `json:"mrtd_single_pass"`
	TwoPass    string            `json:"mrtd_two_pass"`
	SNP        map[string]string `json:"snp"`
}

// firmwareFiles returns every firmware file in reach, by hash and by MRTD: the
// table has a file of which it does not know the hash.
func firmwareFiles(t testing.TB, dirs []string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".fd" {
				return nil // what cannot be read is not there
			}
			b, err := os.ReadFile(path)
			if err != nil || len(b) > tdvf.MaxSize {
				return nil
			}
			out[digest.Sum256(b).String()] = b
			if f, err := tdvf.Parse(b); err == nil {
				if v, err := mrtd.Measure(f); err == nil {
					out[v.SinglePass.String()] = b
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// goldenShape reads "4xEPYC-Milan kernel="…" initrd="…" append="…"".
func goldenShape(t testing.TB, s string) (snp.Shape, *snp.Kernel) {
	t.Helper()
	shape, rest, _ := strings.Cut(s, " ")
	n, model, ok := strings.Cut(shape, "x")
	vcpus, err := strconv.Atoi(n)
	if err != nil || !ok {
		t.Fatalf("shape %q", s)
	}
	var kernel *snp.Kernel
	if rest != "" {
		var k, i, a string
		if _, err := fmt.Sscanf(rest, "kernel=%q initrd=%q append=%q", &k, &i, &a); err != nil {
			t.Fatalf("shape %q: %v", s, err)
		}
		kernel = snp.HashKernel([]byte(k), []byte(i), a)
	}
	return snp.Shape{VMM: snp.QEMU, VCPUs: vcpus, VCPUType: model, Features: snp.DefaultFeatures}, kernel
}

// TestGoldenFirmware computes MRTD and launch digests of Debian's OVMF builds
// and prints the table. A build whose file is not in reach is listed as such;
// COCOON_FETCH_FIRMWARE=1 fetches it by its package.
func TestGoldenFirmware(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "launch", "debian-golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Files map[string]goldenFile `json:"files"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	dirs := []string{"/usr/share/ovmf", "/usr/share/OVMF"}
	if tools, err := toolstree.Find(); err == nil {
		dirs = append(dirs, filepath.Dir(tools.OVMF()))
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv(envFirmware))...)
	files := firmwareFiles(t, dirs)
	names := make([]string, 0, len(doc.Files))
	for name := range doc.Files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		g := doc.Files[name]
		file, ok := files[g.SHA256]
		if !ok {
			file, ok = files[g.SinglePass]
		}
		if !ok && os.Getenv(envFetch) != "" {
			fetched := firmwareFiles(t, []string{fetchFirmware(t, name)})
			if file, ok = fetched[g.SHA256]; !ok {
				file, ok = fetched[g.SinglePass]
			}
		}
		if !ok {
			t.Logf("– %s: no file with this SHA-256 is in reach (%s, or %s=1)", name, envFirmware, envFetch)
			continue
		}
		g.check(t, name, file)
	}
}

func (g *goldenFile) check(t *testing.T, name string, file []byte) {
	t.Helper()
	f, err := ReadFirmware(name, file)
	if err != nil {
		t.Error(err)
		return
	}
	row := func(what, got, want string) {
		if got != want {
			t.Errorf("%s: %s is %s, want %s", name, what, got, want)
			return
		}
		t.Logf("✓ %s %s %s", name, what, got)
	}
	if g.SinglePass != "" {
		row("MRTD single-pass", f.TDX.MRTD.SinglePass.String(), g.SinglePass)
		row("MRTD two-pass", f.TDX.MRTD.TwoPass.String(), g.TwoPass)
	}
	for s, want := range g.SNP {
		shape, kernel := goldenShape(t, s)
		d, err := snp.Measure(*f.SNP, kernel, shape)
		if err != nil {
			t.Errorf("%s: %s: %v", name, s, err)
			continue
		}
		row("SNP "+s, d.String(), want)
	}
}

// fetchFirmware downloads and unpacks the package that a name of the table
// begins with, "SUITE PACKAGE VERSION …", from the machine's own mirror. What
// cannot be had leaves the directory empty.
func fetchFirmware(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	suite, rest, _ := strings.Cut(name, " ")
	pkg, _, _ := strings.Cut(rest, " ")
	run := func(name string, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Logf("%s %s: %v", name, strings.Join(args, " "), err)
		}
		return out
	}
	var mirror string
	for _, line := range strings.Split(string(run("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(RELEASE)", "Created-By: Packages")), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[1] == "Debian" && !strings.Contains(f[2], "-") {
			mirror = f[0]
		}
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	source := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	// A suite that moves has an expiry date on its index; what is fetched is
	// matched by hash.
	apt := []string{"-o", "Dir::Etc::sourcelist=" + dir + "/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::lists=" + dir + "/lists",
		"-o", "Dir::Cache=" + dir + "/cache", "-o", "Acquire::Check-Valid-Until=false", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"}
	run("apt-get", append(apt, "update")...)
	run("apt-get", append(apt, "download", pkg)...)
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range debs {
		run("dpkg-deb", "-x", d, filepath.Join(dir, "files"))
	}
	return dir
}
