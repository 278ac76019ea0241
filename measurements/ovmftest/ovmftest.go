// Package ovmftest makes firmware files for tests: built like OVMF, with a
// measured core, a variable store and the descriptions for TDX and SEV-SNP, and
// with nothing in them that could run. Definitions: those of packages ovmf and
// tdvf.
package ovmftest

import (
	"bytes"
	"encoding/binary"

	"github.com/ulikunitz/xz/lzma"

	"cocoon/measurements/tdvf"
)

// T is what is used of testing.TB and of testscript's T.
type T interface {
	Fatal(args ...any)
}

// Options say what is in a firmware.
type Options struct {
	Version   string   // of the measured core
	Variables []string // names of those that are set
	Extra     string   // more code, to make another file of the same version
}

var (
	guidFile    = tdvf.GUID{7}
	guidLZMA    = guid("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
	guidTcg2Pei = guid("a0c98b77-cba5-4bb8-993b-4af6ce33ece4")
	guidNVData  = guid("fff12b8d-7696-4c8b-a985-2747075b4f50")
	guidStore   = guid("aaf32c78-947b-439a-a180-2e144ec37792")
)

// guid reads a constant; a wrong one gives a firmware that no test accepts.
func guid(s string) tdvf.GUID {
	g, _ := tdvf.ParseGUID(s)
	return g
}

// Firmware returns a firmware file.
func Firmware(t T, o Options) []byte {
	pei := Volume(tdvf.GUID{1}, File(tdvf.GUID{9}, 6, []byte("other")), File(guidTcg2Pei, 6, append([]byte("code"+o.Extra), UTF16(o.Version)...)))
	dxe := Volume(tdvf.GUID{2}, File(tdvf.GUID{8}, 7, []byte("driver")))
	inner := append(Section(0x19, []byte{0}), append(Section(0x17, pei), Section(0x17, dxe)...)...)
	vars := Store(o.Variables...)
	main := Volume(tdvf.GUID{3}, File(guidFile, 0x0b, Packed(t, inner)))
	b := append(append(append([]byte{}, vars...), main...), make([]byte, tdvf.PageSize)...)
	describe(b, len(vars))
	return b
}

// describe writes the table of entries and the two descriptions into the last
// page.
func describe(b []byte, vars int) {
	le := binary.LittleEndian
	const fromEndTDX, fromEndSEV = 2000, 1000
	at := len(b) - 32 - 18
	g := guid("96b582de-1fb2-45f7-baea-a366c55a082d")
	copy(b[at+2:], g[:])
	total := 18
	for _, e := range []struct {
		guid tdvf.GUID
		data []uint32
	}{
		{guid("e47a6535-984a-4798-865e-4685a7bf8ec2"), []uint32{fromEndTDX}},
		{guid("dc886566-984a-4798-a75e-5585a7bf67cc"), []uint32{fromEndSEV}},
		{guid("7255371f-3a3b-4b04-927b-1da6efa8d454"), []uint32{0x80c00, 0x400}},
		{guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e"), []uint32{0x80b004}},
	} {
		n := 4*len(e.data) + 18
		for i, v := range e.data {
			le.PutUint32(b[at-n+4*i:], v)
		}
		le.PutUint16(b[at-18:], uint16(n))
		copy(b[at-16:], e.guid[:])
		at, total = at-n, total+n
	}
	le.PutUint16(b[len(b)-50:], uint16(total))
	code := len(b) - vars
	put := func(fromEnd int, name string, words ...uint32) {
		d := b[len(b)-fromEnd:]
		copy(d, name)
		for i, v := range words {
			le.PutUint32(d[4+4*i:], v)
		}
	}
	put(fromEndTDX, "TDVF", 16+4*32, 1, 4,
		uint32(vars), uint32(code), uint32(1<<32-code), 0, uint32(code), 0, tdvf.BFV, tdvf.AttrExtend,
		0, uint32(vars), uint32(1<<32-len(b)), 0, uint32(vars), 0, tdvf.CFV, 0,
		0, 0, 0x809000, 0, 0x2000, 0, tdvf.TDHOB, 0,
		0, 0, 0x800000, 0, 0x6000, 0, tdvf.TempMem, 0)
	put(fromEndSEV, "ASEV", 16+4*12, 1, 4,
		0x800000, 0x9000, tdvf.SEVMemory, 0x80d000, 0x1000, tdvf.SEVSecrets,
		0x80e000, 0x1000, tdvf.SEVCPUID, 0x80000, 0x1000, tdvf.SEVKernelHashes)
}

// Volume returns a firmware volume with files in it, of whole pages.
func Volume(guid tdvf.GUID, files ...[]byte) []byte {
	b := volumeHeader(guid)
	for _, f := range files {
		b = append(b, f...)
		for len(b)%8 != 0 {
			b = append(b, 0xff)
		}
	}
	return closed(b)
}

func volumeHeader(guid tdvf.GUID) []byte {
	b := make([]byte, 72)
	copy(b[16:], guid[:])
	copy(b[40:], "_FVH")
	binary.LittleEndian.PutUint16(b[48:], uint16(len(b)))
	return b
}

func closed(b []byte) []byte {
	for len(b)%tdvf.PageSize != 0 {
		b = append(b, 0xff)
	}
	binary.LittleEndian.PutUint64(b[32:], uint64(len(b)))
	return b
}

// File returns a file of a volume.
func File(guid tdvf.GUID, typ byte, body []byte) []byte {
	b := make([]byte, 24)
	copy(b, guid[:])
	b[18] = typ
	size := len(b) + len(body)
	b[20], b[21], b[22] = byte(size), byte(size>>8), byte(size>>16)
	return append(b, body...)
}

// Section returns a section of a file, padded to four bytes.
func Section(typ byte, body []byte) []byte {
	size := 4 + len(body)
	b := append([]byte{byte(size), byte(size >> 8), byte(size >> 16), typ}, body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Packed returns a section that holds others, compressed.
func Packed(t T, inner []byte) []byte {
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
	return Section(0x02, append(append(append([]byte{}, guidLZMA[:]...), 24, 0, 1, 0), out.Bytes()...))
}

// UTF16 returns ASCII as UTF-16LE with a final NUL.
func UTF16(s string) []byte {
	var b []byte
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return append(b, 0, 0)
}

// StoreHeader is where the first variable stands in a Store.
const StoreHeader = 72 + 28

// Store returns a volume of variables, each with two bytes of data.
func Store(names ...string) []byte {
	le := binary.LittleEndian
	body := make([]byte, 28)
	copy(body, guidStore[:])
	for _, n := range names {
		v := make([]byte, 60)
		le.PutUint16(v, 0x55aa)
		v[2] = 0x3f
		name := UTF16(n)
		le.PutUint32(v[36:], uint32(len(name)))
		le.PutUint32(v[40:], 2)
		v = append(append(v, name...), 1, 2)
		for len(v)%4 != 0 {
			v = append(v, 0xff)
		}
		body = append(body, v...)
	}
	le.PutUint32(body[16:], uint32(len(body)+64))
	body = append(body, bytes.Repeat([]byte{0xff}, 64)...)
	return closed(append(volumeHeader(guidNVData), body...))
}
