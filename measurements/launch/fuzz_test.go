package launch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/jcs"
	"cocoon/internal/vectors"
	"cocoon/measurements/boot"
	"cocoon/measurements/ovmftest"
)

// kernelFile returns a PE image of headers and one section.
func kernelFile() []byte {
	le := binary.LittleEndian
	const pe, optional, headers = 0x80, 112 + 16*8, 0x200
	b := make([]byte, headers, headers+64)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], pe)
	copy(b[pe:], "PE\x00\x00")
	le.PutUint16(b[pe+6:], 1) // sections
	le.PutUint16(b[pe+20:], optional)
	opt := b[pe+24:]
	le.PutUint16(opt, 0x20b) // PE32+
	le.PutUint32(opt[60:], headers)
	le.PutUint32(opt[108:], 16) // directories
	le.PutUint32(opt[optional+16:], 64)
	le.PutUint32(opt[optional+20:], headers)
	return append(b, bytes.Repeat([]byte("code"), 16)...)
}

// TestAnyChangedByteOfAFirmwareIsSeen flips the bytes of a firmware file: it is
// refused, or no TEE that starts with it reports what it did.
func TestAnyChangedByteOfAFirmwareIsSeen(t *testing.T) {
	good := ovmftest.Firmware(t, ovmftest.Options{Version: "2026.08"})
	want, err := ReadFirmware("OVMF.fd", good)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for i := range good {
		// What describes the rest is at the end; of code and variables a part will do.
		if i%29 != 0 && i < len(good)-2100 {
			continue
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		got, err := ReadFirmware("OVMF.fd", bad)
		if err != nil {
			continue
		}
		read++
		if got.SHA256 == want.SHA256 {
			t.Errorf("byte %#x flipped: the file's hash is the same", i)
		}
		if got.TDX != nil && got.TDX.MRTD == want.TDX.MRTD && got.TDX.Configuration == want.TDX.Configuration {
			t.Errorf("byte %#x flipped: a TD reports the same", i)
		}
		if got.SNP != nil && cmp.Equal(got.SNP, want.SNP) {
			t.Errorf("byte %#x flipped: an SNP guest reports the same", i)
		}
	}
	if read == 0 {
		t.Error("every change was refused: none of them was in a byte that is only measured")
	}
}

// TestAnyChangedByteOfAnImageIsSeen flips the bytes of kernel, initrd and
// command line.
func TestAnyChangedByteOfAnImageIsSeen(t *testing.T) {
	parts := [3][]byte{kernelFile(), []byte("initrd"), []byte("console=ttyS0 quiet")}
	read := func(p [3][]byte) (*Image, error) { return ReadImage(p[0], p[1], string(p[2])) }
	want, err := read(parts)
	if err != nil {
		t.Fatal(err)
	}
	for n := range parts {
		for i := range parts[n] {
			bad := parts
			bad[n] = bytes.Clone(parts[n])
			bad[n][i] ^= 1
			if got, err := read(bad); err == nil && *got == *want {
				t.Errorf("part %d: byte %#x flipped, and the components are the same", n, i)
			}
		}
	}
}

func FuzzReadFirmware(f *testing.F) {
	for _, v := range []string{"2025.02", "2026.08", "2031.02"} {
		f.Add(ovmftest.Firmware(f, ovmftest.Options{Version: v}))
	}
	f.Add(ovmftest.Firmware(f, ovmftest.Options{Version: "2026.08", Variables: []string{"PK", "KEK"}}))
	if dir := vectors.Find(); dir != "" {
		for _, name := range []string{"ovmf_AmdSev_suffix.bin", "ovmf_OvmfX64_suffix.bin"} {
			b, err := os.ReadFile(filepath.Join(dir, "launch", name))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	im := &Image{Cmdline: "quiet", KernelFile: boot.Of([]byte("k")).SHA256, Kernel: *boot.Of([]byte("k")), Initrd: *boot.Of([]byte("i"))}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		fw, err := ReadFirmware("fuzzed", b)
		if err != nil {
			return
		}
		doc, err := json.Marshal(fw)
		if err != nil {
			t.Fatal(err)
		}
		var back Firmware
		if err := jcs.Decode(doc, len(doc), &back); err != nil {
			t.Fatalf("components cannot be read back: %v", err)
		}
		if diff := cmp.Diff(*fw, back); diff != "" {
			t.Fatalf("components come back different:\n%s", diff)
		}
		if fw.Validate() != nil {
			return
		}
		if _, err := Events(im, fw, Host{Memory: 2 << 30}); err == nil {
			if _, err := Expect(im, fw, Host{Memory: 2 << 30}, shapes[:1]); err == nil && fw.TDX == nil && fw.TPM == nil && fw.SNP == nil && fw.Menu == "" {
				t.Fatal("values of a firmware of which nothing is known")
			}
		}
	})
}

func FuzzReadImage(f *testing.F) {
	f.Add(kernelFile(), []byte("initrd"), "console=ttyS0 quiet")
	f.Add(kernelFile()[:0x200], []byte{0}, "")
	f.Fuzz(func(t *testing.T, kernel, initrd []byte, cmdline string) {
		im, err := ReadImage(kernel, initrd, cmdline)
		if err != nil {
			return
		}
		if im.Validate() != nil || len(initrd) == 0 || boot.CheckCmdline(cmdline) != nil {
			t.Fatalf("components are accepted and not valid: %+v", im)
		}
	})
}
