package report_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

func made(t testing.TB, r snptest.Report) ([]byte, []byte, *snptest.PKI) {
	t.Helper()
	p, err := snptest.New("report")
	if err != nil {
		t.Fatal(err)
	}
	raw, cert, err := p.Make(&r)
	if err != nil {
		t.Fatal(err)
	}
	return raw, cert, p
}

func TestMalformedReportsAreRefused(t *testing.T) {
	good, _, _ := made(t, snptest.Default(3, report.Milan, report.VCEK))
	if _, err := report.Parse(good); err != nil {
		t.Fatal(err)
	}
	put := func(at int, v ...byte) func([]byte) { return func(b []byte) { copy(b[at:], v) } }
	for name, change := range map[string]func([]byte){
		"version 1":                         put(0, 1),
		"version 6":                         put(0, 6),
		"policy without its reserved one":   put(10, 1),
		"policy with bit 26":                put(11, 4),
		"policy with bit 63":                put(15, 0x80),
		"VMPL 4":                            put(0x30, 4),
		"no signature algorithm":            put(0x34, 0),
		"platform info with bit 63":         put(0x47, 0x80),
		"platform info with bit 8":          put(0x41, 1),
		"a reserved signing key":            put(0x48, 2<<2),
		"flags with bit 5":                  put(0x48, 1<<5),
		"bytes after the flags":             put(0x4F, 1),
		"an unknown CPU family":             put(0x188, 0x17),
		"an unknown CPU model":              put(0x189, 0x50),
		"bytes after the stepping":          put(0x18B, 1),
		"bytes before the chip ID":          put(0x19F, 1),
		"a reserved byte of a TCB":          put(0x182, 1),
		"a reserved byte of the launch TCB": put(0x1F5, 1),
		"a byte after the current version":  put(0x1EB, 1),
		"a byte after the committed one":    put(0x1EF, 1),
		"mitigations before version 5":      put(0x1F8, 1),
		"a byte before the signature":       put(0x29F, 1),
		"a long r":                          put(0x2A0+48, 1),
		"a long s":                          put(0x2E8+71, 1),
		"a byte after the signature":        put(0x330, 1),
		"the last byte":                     put(report.Size-1, 1),
		"CPUID in version 2":                put(0, 2),
	} {
		b := append([]byte(nil), good...)
		change(b)
		if _, err := report.Parse(b); !errors.Is(err, report.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProductsAreKnownByTheirCPU(t *testing.T) {
	for cpu, want := range map[[2]uint8]report.Product{
		{0x19, 0x00}: report.Milan, {0x19, 0x01}: report.Milan, {0x19, 0x11}: report.Genoa, {0x19, 0xA0}: report.Siena,
		{0x19, 0xAF}: report.Siena, {0x1A, 0x02}: report.Turin, {0x1A, 0x11}: report.Turin,
		{0x19, 0x20}: "", {0x19, 0x50}: "", {0x19, 0xB0}: "", {0x1A, 0x20}: "", {0x17, 0x01}: "",
	} {
		if got, _ := report.ProductOf(cpu[0], cpu[1]); got != want {
			t.Errorf("family %#x model %#x is %q, want %q", cpu[0], cpu[1], got, want)
		}
	}
	if report.Siena.Line() != report.Genoa || report.Turin.Line() != report.Turin {
		t.Error("lines differ")
	}
}

func TestTCBVersionsCompareByComponent(t *testing.T) {
	a, b := snptest.TCB(report.Turin, 1, 2, 3, 4, 5), snptest.TCB(report.Turin, 1, 3, 2, 4, 5)
	if a.AtLeast(b) || b.AtLeast(a) || !a.AtLeast(a) {
		t.Error("versions that differ in both directions are ordered")
	}
	if snptest.TCB(report.Turin, 0, 9, 9, 9, 9).AtLeast(a) {
		t.Error("the FMC's version does not count")
	}
}

func TestTablesAreBounded(t *testing.T) {
	raw, cert, p := made(t, snptest.Default(3, report.Milan, report.VCEK))
	ext := p.Table(raw, report.VCEK, report.Milan, cert)
	body, table, err := report.Split(ext)
	if err != nil || len(body) != report.Size || string(table.VCEK) != string(cert) || table.ASK == nil || table.ARK == nil || table.VLEK != nil {
		t.Fatalf("table %+v, %v", table, err)
	}
	// Pages are padded.
	if _, table, err := report.Split(append(append([]byte(nil), raw...), make([]byte, 4096)...)); err != nil || table.VCEK != nil {
		t.Errorf("empty table: %+v, %v", table, err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"no last entry":      func(b []byte) []byte { return b[:report.Size+72] },
		"an entry twice":     func(b []byte) []byte { copy(b[report.Size+24:], b[report.Size:report.Size+16]); return b },
		"an offset outside":  func(b []byte) []byte { binary.LittleEndian.PutUint32(b[report.Size+16:], 1<<20); return b },
		"an overflow":        func(b []byte) []byte { binary.LittleEndian.PutUint64(b[report.Size+16:], 2<<32|0xFFFFFFFF); return b },
		"into the entries":   func(b []byte) []byte { binary.LittleEndian.PutUint32(b[report.Size+16:], 8); return b },
		"more than is taken": func(b []byte) []byte { return append(b, make([]byte, report.MaxTable)...) },
	} {
		if _, _, err := report.Split(change(append([]byte(nil), ext...))); !errors.Is(err, report.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	if dir := vectors.Find(); dir != "" {
		files, _ := filepath.Glob(filepath.Join(dir, "snp", "*.report.bin"))
		for _, name := range files {
			if b, err := os.ReadFile(name); err == nil {
				f.Add(b)
			}
		}
	}
	for _, r := range []snptest.Report{snptest.Default(2, report.Milan, report.VCEK), snptest.Default(5, report.Turin, report.VLEK)} {
		raw, cert, p := made(f, r)
		f.Add(raw)
		f.Add(p.Table(raw, r.Signer, r.Product, cert))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		body, table, err := report.Split(in)
		if err != nil {
			return
		}
		if len(table.VCEK)+len(table.VLEK)+len(table.ASK)+len(table.ARK) > 4*report.MaxTable {
			t.Fatal("table is larger than what it came from")
		}
		r, err := report.Parse(body)
		if err != nil {
			return
		}
		if r.Version < 2 || r.Version > 5 || (r.Version >= 3) != (r.Product != "") {
			t.Fatalf("accepted %+v", r)
		}
	})
}
