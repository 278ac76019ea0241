package pack

import (
	"bytes"
	"context"
	"crypto/aes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"cocoon/internal/devmapper"
	"cocoon/internal/fault"
	"cocoon/measurements/modelpack"
	"cocoon/measurements/verity"
	"cocoon/verifier/evidence"
)

// Decrypt keeps the table as it is, and the key apart: the pack's is wiped.
func (m *machine) Decrypt(t devmapper.Target) (string, error) {
	m.calls = append(m.calls, "decrypt "+t.Name)
	m.crypt = t
	m.crypt.Key = bytes.Clone(t.Key)
	return "/dev/dm-0", m.cryptErr
}

// below is what a device below dm-verity holds: the disk, or what dm-crypt
// makes of it (admin-guide/device-mapper/dm-crypt: plain64, sectors of 512
// bytes).
func (m *machine) below(device string) []byte {
	if device != "/dev/dm-0" {
		return m.disk
	}
	c, err := xts.NewCipher(aes.NewCipher, m.crypt.Key)
	if err != nil {
		panic(err)
	}
	out := make([]byte, m.crypt.Sectors*512)
	for i := 0; i < len(out); i += 512 {
		c.Decrypt(out[i:i+512], m.disk[i:i+512], uint64(i/512))
	}
	return out
}

// encrypted is a machine with an encrypted model pack, made as its owner makes
// it.
func encrypted(t *testing.T) (*machine, Pack, modelpack.Key) {
	t.Helper()
	dir, dest := t.TempDir(), filepath.Join(t.TempDir(), "m.pack")
	if err := os.WriteFile(filepath.Join(dir, "model.gguf"), bytes.Repeat([]byte("weights."), 1500), 0o600); err != nil {
		t.Fatal(err)
	}
	key := modelpack.NewKey()
	d, err := modelpack.Make(t.Context(), dir, dest, modelpack.Options{Name: "m", Revision: "1", Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{disk: disk}
	p := Pack{Name: "model", Serial: SerialModel, Verity: evidence.Verity(d.Verity), Key: bytes.Clone(key[:])}
	m.crypt = decrypted(p, "")
	m.crypt.Key = p.Key
	m.tree = m.below("/dev/dm-0")[d.Verity.DataBlocks*verity.BlockSize:]
	return m, p, key
}

func TestAnEncryptedPackIsDecryptedBelowItsHashTree(t *testing.T) {
	m, p, key := encrypted(t)
	got, err := Mount(context.Background(), m, p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"decrypt crypt-model", "map pack-model", "mount /run/cocoon/pack/model"}, m.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if m.spec.Device != "/dev/dm-0" || m.spec.Root != [32]byte(p.Verity.Root) || got.Device != "/dev/dm-1" {
		t.Errorf("dm-verity is over %s with root %x, the pack on %s", m.spec.Device, m.spec.Root, got.Device)
	}
	if want := "aes-xts-plain64 {key} 0 /dev/cocoon-model 0"; m.crypt.Table != want || !m.crypt.ReadOnly || m.crypt.Type != "crypt" || !bytes.Equal(m.crypt.Key, key[:]) {
		t.Errorf("target is %+v, table want %q", m.crypt, want)
	}
	if !bytes.Equal(p.Key, make([]byte, modelpack.KeySize)) {
		t.Error("the key is left in memory")
	}
}

// The cipher does not authenticate: the hash tree finds every changed byte.
func TestEveryByteOfACiphertextMatters(t *testing.T) {
	good, p, key := encrypted(t)
	size := int(decrypted(p, "").Sectors * 512)
	for i := 0; i < size; i += 509 {
		m := &machine{disk: bytes.Clone(good.disk), tree: good.tree}
		m.disk[i] ^= 1
		p.Key = bytes.Clone(key[:])
		_, err := Mount(context.Background(), m, p)
		if !fault.Has(err, CodeCorrupt) {
			t.Fatalf("byte %d: got %v, want %s", i, err, CodeCorrupt)
		}
		if calls := strings.Join(m.calls, ","); !strings.HasSuffix(calls, "unmap pack-model,unmap crypt-model") {
			t.Fatalf("byte %d: a device is left: %s", i, calls)
		}
	}
}

func TestWhatIsNotThisPackIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(m *machine, p *Pack)
		code   string
	}{
		"another key":               {func(_ *machine, p *Pack) { p.Key[0] ^= 1 }, CodeCorrupt},
		"another root":              {func(_ *machine, p *Pack) { p.Verity.Root[0] ^= 1 }, CodeCorrupt},
		"another salt":              {func(_ *machine, p *Pack) { p.Verity.Salt[0] ^= 1 }, CodeCorrupt},
		"sectors in another order":  {func(m *machine, _ *Pack) { copy(m.disk[:512], bytes.Clone(m.disk[512:1024])) }, CodeCorrupt},
		"the pack taken for plain":  {func(_ *machine, p *Pack) { p.Key = nil }, CodeCorrupt},
		"a disk that is too short":  {func(m *machine, _ *Pack) { m.cryptErr = fmt.Errorf("loading table: %w", unix.EINVAL) }, CodeMount},
		"no disk":                   {func(m *machine, _ *Pack) { m.disk = nil }, CodeAbsent},
		"bytes that nobody mounted": {func(m *machine, _ *Pack) { m.mountErr = unix.EINVAL }, CodeMount},
	} {
		t.Run(name, func(t *testing.T) {
			m, p, _ := encrypted(t)
			tt.change(m, &p)
			if _, err := Mount(context.Background(), m, p); !fault.Has(err, tt.code) {
				t.Errorf("got %v, want %s", err, tt.code)
			}
			if !bytes.Equal(p.Key, make([]byte, len(p.Key))) {
				t.Error("the key is left in memory")
			}
		})
	}
}
