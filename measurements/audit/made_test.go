package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"cocoon/internal/bootargs"
	"cocoon/internal/toolstree"
	"cocoon/measurements/audit"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/release"
	"cocoon/measurements/verity"
)

// TestMain silences the log's storage.
func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// made is a small release with everything that a release has.
type made struct {
	dir   string
	trust *release.Trust
	log   *tiles.Log
	v     *manifest.Verified
	tdx   bool // the firmware is a real one
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *made) write(t testing.TB, name string, b []byte) manifest.Artifact {
	t.Helper()
	path := filepath.Join(m.dir, name)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, b, 0o644))
	return manifest.Artifact{Name: name, SHA256: digest.Sum256(b), Size: int64(len(b))}
}

// disk returns four blocks and their hash tree.
func disk(t testing.TB, fill byte) ([]byte, [32]byte) {
	t.Helper()
	data := bytes.Repeat([]byte{fill}, 4*verity.BlockSize)
	tree, root, err := verity.Build(bytes.NewReader(data), 4, []byte("salt"))
	check(t, err)
	return append(data, tree...), root
}

// kernel returns a PE32+ image of one section.
func kernel() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x200, 0x300)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x46:], 1)
	le.PutUint16(b[0x54:], 240)
	le.PutUint16(b[0x58:], 0x20b)
	le.PutUint32(b[0x58+60:], 0x200)
	le.PutUint32(b[0x58+108:], 16)
	le.PutUint32(b[0x58+240+16:], 0x100)
	le.PutUint32(b[0x58+240+20:], 0x200)
	return append(b, bytes.Repeat([]byte{'k'}, 0x100)...)
}

// newRelease makes one with a firmware that is none: it is quick, and has a TPM
// section only.
func newRelease(t testing.TB) *made { return newReleaseWith(t, nil) }

// realFirmware returns the tools tree's, for TPM, TDX and SEV-SNP.
func realFirmware(t testing.TB) []byte {
	t.Helper()
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("the tools tree is absent: %v", err)
	}
	b, err := os.ReadFile(tools.OVMF())
	if err != nil {
		t.Skipf("the tools tree has no firmware: %v", err)
	}
	return b
}

func newReleaseWith(t testing.TB, firmware []byte) *made {
	t.Helper()
	m := &made{dir: filepath.Join(t.TempDir(), "release"), tdx: firmware != nil}
	if firmware == nil {
		firmware = bytes.Repeat([]byte("firmware"), 1024)
	}
	root, hash := disk(t, 'r')
	engine, engineRoot := disk(t, 'e')
	model, modelRoot := disk(t, 'm')
	cmdline := bootargs.Root{Hash: hash, Salt: []byte("salt"), Blocks: 4}.String()
	packs := []byte(`{"packs":[{"name":"engine","verity":{"salt":"73616c74","data_blocks":4}},{"name":"model","verity":{"salt":"73616c74","data_blocks":4}}]}`)
	rules, err := manifest.DefaultRelease()
	check(t, err)
	in := manifest.Inputs{
		Image: manifest.Image{Name: "cocoon-cpu", Version: 3, Profile: "cpu"}, Epoch: now.AddDate(0, -1, 0), Engine: engineRoot, Model: modelRoot, Release: *rules,
		Files: pcr.Files{Kernel: kernel(), Initrd: []byte("initrd"), Cmdline: cmdline},
		Artifacts: []manifest.Artifact{m.write(t, "image/vmlinuz", kernel()), m.write(t, "image/initrd", []byte("initrd")), m.write(t, "image/root.img", root),
			m.write(t, "image/cmdline", []byte(cmdline)), m.write(t, "packs/engine.img", engine), m.write(t, "packs/model.img", model)},
		Inputs: []manifest.Artifact{m.write(t, "image/image.json", []byte("{}")), m.write(t, "packs/packs.json", packs), m.write(t, "locks/tools.lock", []byte("lock")),
			m.write(t, "firmware/OVMF.fd", firmware)},
	}
	sum := digest.Sum256([]byte("a package"))
	m.write(t, release.PackagePath(sum), []byte("a package"))
	in.Inputs = append(in.Inputs, manifest.Artifact{Name: "deb/base_1_amd64", SHA256: sum}, manifest.Artifact{Name: "toolchain/go1.26.8", SHA256: sum})
	fw := pcr.Firmware{Name: "test", SHA256: digest.Sum256(firmware), PCR0: sum, PCR7: sum, Provenance: pcr.ProvenanceRecorded, Cmdline: pcr.CmdlineInitrdFirst}
	if m.tdx {
		rec, err := pcr.Recorded()
		check(t, err)
		if known, err := rec.Find(fw.SHA256); err == nil {
			fw = known
		}
		im, err := launch.ReadImage(in.Files.Kernel, in.Files.Initrd, cmdline)
		check(t, err)
		l, err := launch.ReadFirmware("OVMF.fd", firmware)
		check(t, err)
		in.TDX, err = manifest.NewTDX(im, []*launch.Firmware{l})
		check(t, err)
		in.SNP, err = manifest.NewSNP(im, []*launch.Firmware{l}, 8)
		check(t, err)
		if in.TDX == nil || in.SNP == nil {
			t.Fatal("the tools tree's firmware is not for TDX and SEV-SNP")
		}
	}
	in.Firmwares = []pcr.Firmware{fw}
	doc, err := manifest.Build(in)
	check(t, err)
	m.sign(t, doc)
	return m
}

func key(name string) ed25519.PrivateKey {
	seed := digest.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// sign does what "cocoon release" does.
func (m *made) sign(t testing.TB, doc *manifest.Manifest) {
	t.Helper()
	keys := []ed25519.PrivateKey{key("one"), key("two")}
	env, err := manifest.Sign(doc, keys...)
	check(t, err)
	m.v, err = manifest.Read(env, nil)
	check(t, err)
	m.log, err = tiles.Init(t.Context(), filepath.Join(t.TempDir(), "log"), "log.example.org/cocoon", key("log"))
	check(t, err)
	for _, d := range []digest.SHA256{digest.Sum256([]byte("earlier")), m.v.SHA256} {
		before, err := m.log.Checkpoint(t.Context())
		check(t, err)
		_, err = m.log.Append(t.Context(), key("log"), d)
		check(t, err)
		co, err := m.log.ProveConsistency(t.Context(), before.Raw)
		check(t, err)
		m.write(t, release.ConsistencyFile, co.Text())
	}
	incl, err := m.log.ProveInclusion(t.Context(), m.v.SHA256)
	check(t, err)
	m.write(t, release.InclusionFile, incl.Text())
	m.write(t, release.ManifestFile, append(env, '\n'))
	k := m.log.Key()
	m.trust = release.NewTrust([]ed25519.PublicKey{keys[0].Public().(ed25519.PublicKey), keys[1].Public().(ed25519.PublicKey)}, &k)
	own, err := m.trust.Encode()
	check(t, err)
	m.write(t, release.KeysFile, own)
	docs, err := audit.Documents(m.v)
	check(t, err)
	for name, b := range docs {
		m.write(t, name, b)
	}
}

func (m *made) audit(t testing.TB, change func(*audit.Options)) *audit.Report {
	t.Helper()
	src, err := audit.OpenSource(m.dir)
	check(t, err)
	defer src.Close()
	o := audit.Options{Source: src, Name: "release", Now: now, Trust: m.trust}
	if change != nil {
		change(&o)
	}
	r, err := audit.Run(t.Context(), o)
	check(t, err)
	return r
}

func failed(r *audit.Report) []string {
	out := []string{}
	for _, row := range r.Failed() {
		out = append(out, row.Check+" "+row.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
