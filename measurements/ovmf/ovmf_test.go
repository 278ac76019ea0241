package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz/lzma"

	"cocoon/internal/toolstree"
	"cocoon/measurements/boot"
	"cocoon/measurements/tdvf"
)

// ffs makes a volume of a file system with files in it.
func ffs(guid tdvf.GUID, files ...[]byte) []byte {
	const header = 72
	b := make([]byte, header)
	copy(b[16:], guid[:])
	copy(b[40:], "_FVH")
	binary.LittleEndian.PutUint16(b[48:], header)
	for _, f := range files {
		b = append(b, f...)
		for len(b)%8 != 0 {
			b = append(b, 0xff)
		}
	}
	for len(b)%tdvf.PageSize != 0 {
		b = append(b, 0xff)
	}
	binary.LittleEndian.PutUint64(b[32:], uint64(len(b)))
	return b
}

func ffsFile(guid tdvf.GUID, typ byte, body []byte) []byte {
	b := make([]byte, 24)
	copy(b, guid[:])
	b[18] = typ
	size := len(b) + len(body)
	b[20], b[21], b[22] = byte(size), byte(size>>8), byte(size>>16)
	return append(b, body...)
}

func ffsSection(typ byte, body []byte) []byte {
	size := 4 + len(body)
	b := append([]byte{byte(size), byte(size >> 8), byte(size >> 16), typ}, body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func packed(t testing.TB, inner []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := lzma.WriterConfig{Size: int64(len(inner)), SizeInHeader: true}.NewWriter(&out)
	if err == nil {
		_, err = w.Write(inner)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return ffsSection(sectionGUIDed, append(append(append([]byte{}, guidLZMA[:]...), 24, 0, 1, 0), out.Bytes()...))
}

func utf16(s string) []byte {
	var b []byte
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return append(b, 0, 0)
}

// image makes a firmware whose measured core has the given module in it.
func image(t testing.TB, module []byte) ([]byte, []byte) {
	t.Helper()
	pei := ffs(tdvf.GUID{1}, ffsFile(tdvf.GUID{9}, 6, []byte("other")), ffsFile(guidTcg2Pei, 6, module))
	dxe := ffs(tdvf.GUID{2}, ffsFile(tdvf.GUID{8}, 7, []byte("driver")))
	inner := append(ffsSection(0x19, []byte{0}), append(ffsSection(sectionVolume, pei), ffsSection(sectionVolume, dxe)...)...)
	main := ffs(tdvf.GUID{3}, ffsFile(tdvf.GUID{7}, 0x0b, packed(t, inner)))
	return append(store("BootOrder"), main...), pei
}

// store makes a volume of variables.
func store(names ...string) []byte {
	body := make([]byte, storeHeader)
	copy(body, guidAuthStore[:])
	for _, n := range names {
		v := make([]byte, variableHeader)
		binary.LittleEndian.PutUint16(v, startID)
		v[2] = stateAdded
		name := utf16(n)
		binary.LittleEndian.PutUint32(v[36:], uint32(len(name)))
		binary.LittleEndian.PutUint32(v[40:], 2)
		v = append(append(v, name...), 1, 2)
		for len(v)%4 != 0 {
			v = append(v, 0xff)
		}
		body = append(body, v...)
	}
	binary.LittleEndian.PutUint32(body[16:], uint32(len(body)+64))
	body = append(body, bytes.Repeat([]byte{0xff}, 64)...)
	const header = 72
	b := make([]byte, header)
	copy(b[16:], guidNVData[:])
	copy(b[40:], "_FVH")
	binary.LittleEndian.PutUint16(b[48:], header)
	b = append(b, body...)
	for len(b)%tdvf.PageSize != 0 {
		b = append(b, 0xff)
	}
	binary.LittleEndian.PutUint64(b[32:], uint64(len(b)))
	return b
}

func parse(t testing.TB, b []byte) *tdvf.Firmware {
	t.Helper()
	f, err := tdvf.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheCoreIsRead(t *testing.T) {
	b, pei := image(t, append([]byte("code"), utf16("2031.02+ds-1")...))
	c, err := ReadCore(parse(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if c.Version != "2031.02+ds-1" || len(c.Volumes) != 2 || c.Volumes[0].SHA256 != boot.Of(pei).SHA256 {
		t.Errorf("core is %+v", c)
	}
	if n := len(c.Events("OVMF.fd")); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	v, err := ReadVariables(parse(t, b))
	if diff := cmp.Diff(&Variables{Names: []string{"BootOrder"}}, v); err != nil || diff != "" {
		t.Errorf("variables: %v %s", err, diff)
	}
}

func TestACoreThatIsNotKnownIsAbsent(t *testing.T) {
	for name, module := range map[string][]byte{
		"no version": []byte("code"), "two versions": append(utf16("2031.02"), utf16("2031.05")...),
	} {
		b, _ := image(t, module)
		if _, err := ReadCore(parse(t, b)); !errors.Is(err, ErrAbsent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadCore(parse(t, make([]byte, tdvf.PageSize))); !errors.Is(err, ErrAbsent) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestEnrolledKeysAreSeen(t *testing.T) {
	v, err := ReadVariables(parse(t, store("Lang", "PK")))
	if err != nil || !v.Enrolled || len(v.Names) != 2 {
		t.Errorf("%+v: %v", v, err)
	}
	b := store("PK")
	binary.LittleEndian.PutUint32(b[72+storeHeader+40:], 1<<30)
	if _, err := ReadVariables(parse(t, b)); !errors.Is(err, ErrFormat) {
		t.Errorf("a variable beyond the store: %v", err)
	}
}

func TestASizeThatLiesIsRefused(t *testing.T) {
	b, _ := image(t, utf16("2031.02"))
	at := bytes.Index(b, guidLZMA[:]) + 20
	for name, change := range map[string]func([]byte){
		"the dictionary": func(b []byte) { binary.LittleEndian.PutUint32(b[at+1:], 1<<31) },
		"the length":     func(b []byte) { binary.LittleEndian.PutUint64(b[at+5:], 1<<40) },
		"the data":       func(b []byte) { b[at+20] ^= 0xff },
	} {
		bad := bytes.Clone(b)
		change(bad)
		if c, err := ReadCore(parse(t, bad)); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestThePinnedFirmwareGivesWhatWasWatched computes PCR 0 and 7 of the tools
// tree's firmware.
func TestThePinnedFirmwareGivesWhatWasWatched(t *testing.T) {
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("the tools tree is absent: %v", err)
	}
	b, err := os.ReadFile(tools.OVMF())
	if err != nil {
		t.Skip(err)
	}
	f := parse(t, b)
	if f.SHA256().String() != "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129" {
		t.Skipf("firmware %s was not watched", f.SHA256())
	}
	c, err := ReadCore(f)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ReadVariables(f)
	if err != nil || v.Enrolled {
		t.Errorf("variables %+v: %v", v, err)
	}
	events := append(c.Events("x"), boot.New(0, 4, "separator", "", boot.Of(boot.Separator())))
	if got, _ := boot.PCR256(events, 0); got.String() != "c52ccebcb2f9e66ae492acf8a1d80ff26df1176c9fc52cb53bf08ffbb838069b" {
		t.Errorf("PCR 0 is %s", got)
	}
}

func FuzzReadCore(f *testing.F) {
	b, _ := image(f, utf16("2031.02"))
	f.Add(b)
	f.Add(store("PK"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		fw, err := tdvf.Parse(b)
		if err != nil {
			return
		}
		if c, err := ReadCore(fw); err == nil && (c.Version == "" || len(c.Volumes) == 0) {
			t.Errorf("core %+v is accepted", c)
		}
		_, _ = ReadVariables(fw)
	})
}
