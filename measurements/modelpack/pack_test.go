package modelpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
	"cocoon/measurements/verity"
)

// model makes a directory as a model's: shards, a config, what a downloader
// leaves, and a file that is a link into its cache.
func model(t testing.TB, size int) string {
	t.Helper()
	dir, cache := t.TempDir(), t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	write := func(path string, b []byte) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "config.json"), []byte(`{"model_type":"test"}`))
	write(filepath.Join(dir, "tokenizer/vocab.txt"), []byte("a\nb\n"))
	write(filepath.Join(dir, "empty"), nil)
	write(filepath.Join(dir, "model-00001-of-00002.safetensors"), data)
	write(filepath.Join(cache, "blob"), data[:size/3])
	write(filepath.Join(dir, ".cache/huggingface/x.lock"), nil)
	write(filepath.Join(dir, ".gitattributes"), []byte("x"))
	if err := os.Symlink(filepath.Join(cache, "blob"), filepath.Join(dir, "model-00002-of-00002.safetensors")); err != nil {
		t.Fatal(err)
	}
	return dir
}

var opt = Options{Name: "test-1b", Revision: "2026-05"}

func build(t *testing.T, dir string, o Options) (string, *Description) {
	t.Helper()
	dest := filepath.Join(t.TempDir(), "m.pack")
	d, err := Make(t.Context(), dir, dest, o)
	if err != nil {
		t.Fatal(err)
	}
	return dest, d
}

func verifyFile(t *testing.T, path string, o Options) (*Description, error) {
	t.Helper()
	f, d, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return d, Verify(t.Context(), f, d, o)
}

func TestEqualModelsGiveEqualPacks(t *testing.T) {
	dir := model(t, 3<<20)
	a, d := build(t, dir, opt)
	one := opt
	one.Workers = 1
	b, _ := build(t, model(t, 3<<20), one)
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Error("two directories of equal files gave different packs")
	}
	if want := "test-1b@2026-05:" + d.Verity.Root.String(); d.ID() != want {
		t.Errorf("ID is %s", d.ID())
	}
	name, revision, root, err := ParseID(d.ID())
	if err != nil || name != d.Name || revision != d.Revision || root != d.Verity.Root {
		t.Errorf("the ID reads as %s %s %s, %v", name, revision, root, err)
	}
	want := []File{{"config.json", 21}, {"empty", 0}, {"model-00001-of-00002.safetensors", 3 << 20}, {"model-00002-of-00002.safetensors", 1 << 20}, {"tokenizer/vocab.txt", 4}}
	if diff := cmp.Diff(want, d.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	same, err := Identify(t.Context(), dir, opt)
	if err != nil || same.ID() != d.ID() {
		t.Errorf("the directory is %v, %v", same, err)
	}
	got, err := verifyFile(t, a, Options{})
	if err != nil || got.ID() != d.ID() {
		t.Errorf("the pack does not verify: %v", err)
	}
	other := opt
	other.Revision = "2026-06"
	if o, err := Identify(t.Context(), dir, other); err != nil || o.Verity.Root == d.Verity.Root {
		t.Errorf("another revision has the same root: %v", err)
	}
	if err := verity.Verify(bytes.NewReader(x), d.Verity.DataBlocks, d.Verity.Salt[:], d.Verity.Root); err != nil {
		t.Errorf("the tree is not the kernel's: %v", err)
	}
	if _, err := os.Stat(a + ".partial"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a partial file is left: %v", err)
	}
}

// What fsck.erofs of erofs-utils takes out of a pack are the model's files.
func TestThePackIsAFileSystem(t *testing.T) {
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("no tools tree: %v", err)
	}
	dir, out := model(t, 1<<20), filepath.Join(t.TempDir(), "out")
	pack, d := build(t, dir, opt)
	if text, err := tools.Command(t.Context(), "fsck.erofs", "--extract="+out, pack).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, f := range d.Files {
		a, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(out, f.Path)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v", f.Path, err)
		}
	}
}

func TestAnyChangedByteIsFound(t *testing.T) {
	path, d := build(t, model(t, 1<<20), opt)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	device := int(d.DeviceBytes())
	data := int(d.Verity.DataBlocks * verity.BlockSize)
	// Superblock, the last data block, padding, both levels of the tree, and the
	// description with its frame.
	for _, at := range []int{0, 1024, 5000, data - 1, data, data + 100, data + 5000, device - 1, device, device + 40, len(good) - 5, len(good) - 12, len(good) - 100} {
		bad := bytes.Clone(good)
		bad[at] ^= 0x20
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := verifyFile(t, path, Options{})
		if !fault.Has(err, CodeCorrupt) && !fault.Has(err, CodeFormat) {
			t.Errorf("a byte changed at %d of %d: %v", at, len(good), err)
		}
	}
	for _, n := range []int{0, 1, 4096, device, len(good) - 4096, len(good) - 1} {
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verifyFile(t, path, Options{}); !fault.Has(err, CodeFormat) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestAnEncryptedPackHasThePlainPacksNameAndNoneOfItsBytes(t *testing.T) {
	dir := model(t, 1<<20)
	plain, d := build(t, dir, opt)
	key := NewKey()
	o := opt
	o.Key = &key
	sealed, e := build(t, dir, o)
	if e.ID() != d.ID() || e.Cipher != Cipher || *e.KeySHA256 != key.ID() || len(e.Files) != 0 || e.DeviceBytes() != d.DeviceBytes() {
		t.Errorf("described as %+v", e)
	}
	a, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sealed)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCoder(&key)
	if err != nil {
		t.Fatal(err)
	}
	device := int(d.DeviceBytes())
	for i := 0; i < device; i += sectorSize {
		if bytes.Equal(a[i:i+sectorSize], b[i:i+sectorSize]) {
			t.Fatalf("the sector at %d is plain", i)
		}
	}
	c.decrypt(0, b[:device])
	if !bytes.Equal(a[:device], b[:device]) {
		t.Error("it does not decrypt to the plain pack")
	}
	if _, err := verifyFile(t, sealed, Options{}); !fault.Has(err, CodeKey) {
		t.Errorf("without its key: %v", err)
	}
	if _, err := verifyFile(t, sealed, Options{Key: &key}); err != nil {
		t.Errorf("with its key: %v", err)
	}
	wrong := NewKey()
	if _, err := verifyFile(t, sealed, Options{Key: &wrong}); !fault.Has(err, CodeKey) {
		t.Errorf("with another key: %v", err)
	}
	doc, err := MarshalKey(&key, e.ID())
	if err != nil {
		t.Fatal(err)
	}
	got, pack, err := ParseKey(doc)
	if err != nil || got != key || pack != e.ID() {
		t.Errorf("the key file reads as %s, %v", pack, err)
	}
	for _, bad := range []string{"", "{}", strings.Replace(string(doc), "key/1", "key/2", 1), strings.Replace(string(doc), "@", "#", 1), string(doc[:len(doc)-3])} {
		if _, _, err := ParseKey([]byte(bad)); !fault.Has(err, CodeKey) || strings.Contains(fmt.Sprint(err), fmt.Sprintf("%x", key[:4])) {
			t.Errorf("a key file that is none: %v", err)
		}
	}
}

// XTS-AES-256 of IEEE 1619-2007, vector 10: 512 bytes in sector 0xff, the
// definition that dm-crypt's aes-xts-plain64 follows.
func TestTheCipherIsDmCrypts(t *testing.T) {
	key := unhex(t, "2718281828459045235360287471352662497757247093699959574966967627"+
		"3141592653589793238462643383279502884197169399375105820974944592")
	p := make([]byte, sectorSize)
	for i := range p {
		p[i] = byte(i)
	}
	k := Key(key)
	c, err := newCoder(&k)
	if err != nil {
		t.Fatal(err)
	}
	c.encrypt(0xff*sectorSize, p)
	if got, want := fmt.Sprintf("%x", p[:16]), "1c3b3a102f770386e4836c99e370cf9b"; got != want {
		t.Errorf("the sector begins with %s, want %s", got, want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	var b []byte
	if _, err := fmt.Sscanf(s, "%x", &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestARunThatIsCutShortLeavesNoPackAndTheNextOneSucceeds(t *testing.T) {
	dir, dest := model(t, 2<<20), filepath.Join(t.TempDir(), "m.pack")
	ctx, cancel := context.WithCancel(t.Context())
	o := opt
	o.Progress = func(done, total uint64) {
		if done > total/2 {
			cancel()
		}
	}
	if _, err := Make(ctx, dir, dest, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("cut short: %v", err)
	}
	if _, err := os.Stat(dest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a pack: %v", err)
	}
	// As after a power cut: half a file under the name that is written first.
	if err := os.WriteFile(dest+".partial", bytes.Repeat([]byte("x"), 9<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), dir, dest, opt); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyFile(t, dest, Options{}); err != nil {
		t.Error(err)
	}
	f, err := os.OpenFile(dest+".partial", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), dir, dest, opt); !fault.Has(err, CodeBusy) {
		t.Errorf("beside another program: %v", err)
	}
}

func TestDirectoriesThatAreNoModels(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"empty":              func(string) error { return nil },
		"a FIFO":             func(d string) error { return unix.Mkfifo(filepath.Join(d, "p"), 0o600) },
		"a link to nothing":  func(d string) error { return os.Symlink("nowhere", filepath.Join(d, "l")) },
		"a link in a circle": func(d string) error { return os.Symlink(".", filepath.Join(d, "l")) },
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Make(t.Context(), dir, filepath.Join(t.TempDir(), "x"), opt); !fault.Has(err, CodeSource) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Identify(t.Context(), t.TempDir(), Options{Name: "Über", Revision: "1"}); !fault.Has(err, CodeName) {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestAFileThatChangesWhileItIsReadIsNotPacked(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"shorter": func(p string) error { return os.Truncate(p, 10) },
		"longer":  func(p string) error { return os.Truncate(p, 1<<21) },
		"gone":    os.Remove,
	} {
		dir := model(t, 1<<20)
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(filepath.Join(dir, "model-00001-of-00002.safetensors")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.hash(t.Context(), opt, nil); !fault.Has(err, CodeChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDescribe: whatever stands at the end of a file, a description that is
// accepted fits the file.
func FuzzDescribe(f *testing.F) {
	d := &Description{Format: Format, Name: "m", Revision: "1", Files: []File{{"x", 1}}, MetaBlocks: 1, Verity: Verity{DataBlocks: 1}}
	d.Verity.Root[0] = 1
	end, err := d.appendix()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(make([]byte, verity.BlockSize), end...))
	f.Add(end)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Describe(bytes.NewReader(b), int64(len(b)))
		if err == nil && (d.DeviceBytes() >= int64(len(b)) || d.DeviceBytes() < verity.BlockSize) {
			t.Fatalf("%d bytes hold a device of %d", len(b), d.DeviceBytes())
		}
	})
}

// BenchmarkPack compares packing a model with plain sha256 over the same files,
// one after the other in the same run, and prints the ratio of throughput by
// the clock, which a disk or other programs may bound, and by processor time.
// Plain sha256 has one thread, packing one for each processor: the second ratio
// is the one of a thread against a thread, and includes writing the pack.
func BenchmarkPack(b *testing.B) {
	dir := model(b, 96<<20)
	s, err := open(dir)
	if err != nil {
		b.Fatal(err)
	}
	dest := filepath.Join(b.TempDir(), "m.pack")
	var plain, packed cost
	for b.Loop() {
		begin := now(b)
		h := sha256.New()
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{s.reader(b.Context(), nil)}, make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
		plain.since(b, begin)
		begin = now(b)
		if _, err := Make(b.Context(), dir, dest, opt); err != nil {
			b.Fatal(err)
		}
		packed.since(b, begin)
	}
	b.SetBytes(int64(s.bytes))
	b.ReportMetric(plain.wall.Seconds()/packed.wall.Seconds(), "of-sha256")
	b.ReportMetric(plain.cpu.Seconds()/packed.cpu.Seconds(), "of-sha256-cpu")
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "processors")
}

// cost is time by the clock and of all processors.
type cost struct{ wall, cpu time.Duration }

func now(tb testing.TB) cost {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return cost{time.Duration(time.Now().UnixNano()), time.Duration(u.Utime.Nano() + u.Stime.Nano())}
}

func (c *cost) since(tb testing.TB, begin cost) {
	end := now(tb)
	c.wall += end.wall - begin.wall
	c.cpu += end.cpu - begin.cpu
}
