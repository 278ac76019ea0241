package verity

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/toolstree"
)

// device returns blocks of distinct data followed by their hash tree.
func device(t testing.TB, blocks uint64, salt []byte) ([]byte, [HashSize]byte) {
	t.Helper()
	data := make([]byte, blocks*BlockSize)
	for i := uint64(0); i < blocks; i++ {
		binary.LittleEndian.PutUint64(data[i*BlockSize+1000:], i*2654435761+1)
	}
	tree, root, err := Build(bytes.NewReader(data), blocks, salt)
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(tree)) != TreeBlocks(blocks)*BlockSize {
		t.Fatalf("tree has %d bytes, want %d blocks", len(tree), TreeBlocks(blocks))
	}
	return append(data, tree...), root
}

var testSalt = []byte("a salt of some length")

// The sizes cross each boundary of the tree's shape: no hash block, one, one
// level full, two levels, three levels.
var sizes = []uint64{1, 2, 127, 128, 129, 16384, 16385}

func TestVerifyAcceptsWhatBuildMade(t *testing.T) {
	for _, n := range sizes {
		dev, root := device(t, n, testSalt)
		if err := Verify(bytes.NewReader(dev), n, testSalt, root); err != nil {
			t.Errorf("%d blocks: %v", n, err)
		}
	}
}

// veritysetup is the reference implementation; it must find the same root and
// write the same tree.
func TestRootAndTreeAreThoseOfVeritysetup(t *testing.T) {
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("veritysetup is in the tools tree, which is not here: %v", err)
	}
	for _, n := range []uint64{1, 2, 128, 129, 300} {
		for _, salt := range [][]byte{{0x5a}, bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{9}, MaxSalt)} {
			t.Run(fmt.Sprintf("%d blocks, salt of %d bytes", n, len(salt)), func(t *testing.T) {
				dev, root := device(t, n, salt)
				dir := t.TempDir()
				data, hashes := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
				if err := os.WriteFile(data, dev[:n*BlockSize], 0o644); err != nil {
					t.Fatal(err)
				}
				out, err := tools.Command(context.Background(), "veritysetup", "format", "--no-superblock", "--salt="+hex.EncodeToString(salt),
					"--data-block-size=4096", "--hash-block-size=4096", "--hash=sha256", data, hashes).CombinedOutput()
				if err != nil {
					t.Fatalf("running veritysetup: %v\n%s", err, out)
				}
				if want := hex.EncodeToString(root[:]); !strings.Contains(string(out), want) {
					t.Errorf("root %s is not in veritysetup's output:\n%s", want, out)
				}
				got, err := os.ReadFile(hashes)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, dev[n*BlockSize:]) {
					t.Errorf("hash trees differ: veritysetup's has %d bytes, ours %d", len(got), len(dev)-int(n*BlockSize))
				}
			})
		}
	}
}

// A fixed value, so that a change shows where there is no tools tree:
// veritysetup 2.7.5 over two zero blocks and 32 zero bytes of salt.
func TestRootOfTwoZeroBlocks(t *testing.T) {
	_, root, err := Build(bytes.NewReader(make([]byte, 2*BlockSize)), 2, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	const want = "05927d36681daf2129a7ab821c194d61c7943aba7a8a38532b2e075ca1e56736"
	if got := hex.EncodeToString(root[:]); got != want {
		t.Errorf("root is %s, want %s", got, want)
	}
}

func TestVerifyFindsAChangedByteInEveryBlock(t *testing.T) {
	const n = 130 // data, two hash blocks, one top block
	dev, root := device(t, n, testSalt)
	for b := 0; b*BlockSize < len(dev); b++ {
		at := b*BlockSize + (b*131)%BlockSize
		if b >= n { // hash blocks are used up to their last digest only
			at = b * BlockSize
		}
		dev[at] ^= 1
		err := Verify(bytes.NewReader(dev), n, testSalt, root)
		dev[at] ^= 1
		var be *BlockError
		if !errors.As(err, &be) || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("block %d changed: got %v", b, err)
		}
		if b < n && (be.Level != 0 || be.Block != uint64(b)) {
			t.Errorf("data block %d changed: error names level %d block %d", b, be.Level, be.Block)
		}
	}
}

func TestVerifyRefusesOtherParameters(t *testing.T) {
	const n = 130
	dev, root := device(t, n, testSalt)
	wrongRoot := root
	wrongRoot[0] ^= 1
	tests := []struct {
		name   string
		dev    []byte
		blocks uint64
		salt   []byte
		root   [HashSize]byte
	}{
		{"another root", dev, n, testSalt, wrongRoot},
		{"another salt", dev, n, []byte("other"), root},
		{"no salt", dev, n, nil, root},
		{"fewer blocks", dev, n - 1, testSalt, root},
		{"more blocks", dev, n + 1, testSalt, root},
		{"no blocks", dev, 0, testSalt, root},
		{"a size nobody has", dev, MaxDataBlocks + 1, testSalt, root},
		{"a device that is cut short", dev[:len(dev)-1], n, testSalt, root},
		{"an empty device", nil, n, testSalt, root},
		{"a salt too long for the kernel", dev, n, make([]byte, MaxSalt+1), root},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := Verify(bytes.NewReader(tt.dev), tt.blocks, tt.salt, tt.root); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestBuildRefusesShortData(t *testing.T) {
	if _, _, err := Build(bytes.NewReader(make([]byte, BlockSize+1)), 2, testSalt); err == nil {
		t.Error("a tree was built over data that end early")
	}
}

func superblock() []byte {
	b := make([]byte, 512)
	le := binary.LittleEndian
	copy(b, "verity\x00\x00")
	le.PutUint32(b[8:], 1)
	le.PutUint32(b[12:], 1)
	copy(b[32:], "sha256")
	le.PutUint32(b[64:], 4096)
	le.PutUint32(b[68:], 4096)
	le.PutUint64(b[72:], 77)
	le.PutUint16(b[80:], 4)
	copy(b[88:], "salt")
	return b
}

func TestParseSuperblock(t *testing.T) {
	s, err := ParseSuperblock(superblock())
	if err != nil || s.DataBlocks != 77 || string(s.Salt) != "salt" {
		t.Fatalf("got %+v, error %v", s, err)
	}
	for name, at := range map[string]int{"signature": 0, "version": 8, "hash type": 12, "algorithm": 33, "data block size": 65, "hash block size": 69, "salt size": 81} {
		b := superblock()
		b[at] ^= 0xff
		if _, err := ParseSuperblock(b); err == nil {
			t.Errorf("a superblock with another %s was accepted", name)
		}
	}
	if _, err := ParseSuperblock(superblock()[:511]); err == nil {
		t.Error("a short superblock was accepted")
	}
}

func FuzzParseSuperblock(f *testing.F) {
	f.Add(superblock())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSuperblock(b); err == nil {
			if err := check(s.DataBlocks, s.Salt); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// No device but the one that was built is accepted under a root.
func FuzzVerify(f *testing.F) {
	dev, root := device(f, 3, testSalt)
	f.Add(dev, uint64(3))
	f.Add(dev[:BlockSize], uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, blocks uint64) {
		if err := Verify(bytes.NewReader(b), blocks, testSalt, root); err != nil {
			return
		}
		if blocks != 3 || !bytes.Equal(b[:len(dev)], dev) {
			t.Fatalf("accepted %d bytes as %d blocks", len(b), blocks)
		}
	})
}
