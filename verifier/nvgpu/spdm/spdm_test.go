package spdm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu/spdm"
	"cocoon/verifier/nvgputest"
)

func realReports(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(vectors.Dir(t), "gpu", "evidence", "*", "report.bin"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%d reports, %v", len(names), err)
	}
	out := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(filepath.Dir(name))] = b
	}
	return out
}

func TestRealReportsAreRead(t *testing.T) {
	for name, b := range realReports(t) {
		r, err := spdm.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		gpu, gpuErr := r.Opaque.GPU()
		sw, swErr := r.Opaque.Switch()
		if (gpuErr == nil) == (swErr == nil) {
			t.Errorf("%s: a GPU (%v) as much as a switch (%v)", name, gpuErr, swErr)
		}
		blocks := 64
		if swErr == nil {
			blocks = 31
			if sw.BIOS == "" || sw.PDI == (spdm.PDI{}) {
				t.Errorf("%s: %+v", name, sw)
			}
		} else if gpu.Driver == "" || gpu.VBIOS == "" || gpu.Project == "" || gpu.NVDEC0 == spdm.NVDEC0Absent {
			t.Errorf("%s: %+v", name, gpu)
		}
		if len(r.Measurements) != blocks || len(r.Signed)+len(r.Signature) != len(b) {
			t.Errorf("%s: %d measurements", name, len(r.Measurements))
		}
		for n := range b {
			if _, err := spdm.Parse(b[:n]); !errors.Is(err, spdm.ErrMalformed) {
				t.Fatalf("%s: %d of %d bytes: %v", name, n, len(b), err)
			}
		}
		if _, err := spdm.Parse(append(slices.Clone(b), 0)); !errors.Is(err, spdm.ErrMalformed) {
			t.Errorf("%s: with a byte after it: %v", name, err)
		}
	}
}

// made returns a report under a test root, as changed.
func made(t testing.TB, change func([]byte)) []byte {
	t.Helper()
	p, err := nvgputest.New("spdm")
	if err != nil {
		t.Fatal(err)
	}
	d := nvgputest.BlackwellGPU(0)
	it, err := p.Make(&d, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(it.Report)
	}
	return it.Report
}

func TestMalformedReportsAreRefused(t *testing.T) {
	const response, record, opaque = 37, 45, 45 + 64*55 + 32
	if _, err := spdm.Parse(made(t, nil)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte){
		"another SPDM version in the request":  func(b []byte) { b[0] = 0x12 },
		"another request":                      func(b []byte) { b[1] = 0x81 },
		"no signature asked for":               func(b []byte) { b[2] = 0 },
		"one measurement asked for":            func(b []byte) { b[3] = 1 },
		"another slot asked for":               func(b []byte) { b[36] = 1 },
		"another SPDM version in the response": func(b []byte) { b[response] = 0x12 },
		"another response":                     func(b []byte) { b[response+1] = 0x7F },
		"parameters in the response":           func(b []byte) { b[response+3] = 1 },
		"fewer blocks than the record has":     func(b []byte) { b[response+4]-- },
		"no block":                             func(b []byte) { b[response+4] = 0 },
		"a record that does not fit":           func(b []byte) { b[response+7] = 1 },
		"a record of another length":           func(b []byte) { b[response+5]++ },
		"an index twice":                       func(b []byte) { b[record+55] = 1 },
		"an index of zero":                     func(b []byte) { b[record] = 0 },
		"an index that is reserved":            func(b []byte) { b[record] = 0xFD },
		"a block that is not DMTF's":           func(b []byte) { b[record+1] = 2 },
		"a block of another size":              func(b []byte) { b[record+2]++ },
		"a value of another size":              func(b []byte) { b[record+5]-- },
		"opaque data of another length":        func(b []byte) { b[opaque]++ },
		"an element that does not fit":         func(b []byte) { b[opaque+2+3] = 1 },
		"an element twice":                     func(b []byte) { b[opaque+2+12] = b[opaque+2] },
	} {
		if _, err := spdm.Parse(made(t, change)); !errors.Is(err, spdm.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpaqueElementsAreRefused(t *testing.T) {
	base := func() spdm.Opaque {
		r, err := spdm.Parse(made(t, nil))
		if err != nil {
			t.Fatal(err)
		}
		return r.Opaque
	}
	set := func(tag uint16, v []byte) func(spdm.Opaque) spdm.Opaque {
		return func(o spdm.Opaque) spdm.Opaque {
			o = slices.DeleteFunc(o, func(e spdm.Element) bool { return e.Type == tag })
			if v == nil {
				return o
			}
			return append(o, spdm.Element{Type: tag, Value: v})
		}
	}
	if _, err := base().GPU(); err != nil {
		t.Fatal(err)
	}
	if _, err := set(99, []byte{1})(base()).GPU(); err != nil {
		t.Errorf("an unknown element: %v", err)
	}
	for name, change := range map[string]func(spdm.Opaque) spdm.Opaque{
		"no driver version":               set(spdm.TagDriverVersion, nil),
		"an empty driver version":         set(spdm.TagDriverVersion, []byte{0}),
		"a driver version with a blank":   set(spdm.TagDriverVersion, []byte("550 90")),
		"a driver version with a control": set(spdm.TagDriverVersion, []byte("550\x1b[31m")),
		"a long driver version":           set(spdm.TagDriverVersion, bytes.Repeat([]byte("5"), 33)),
		"no VBIOS version":                set(spdm.TagVBIOSVersion, nil),
		"a VBIOS version of a switch":     set(spdm.TagVBIOSVersion, []byte("96.10.55.00.01")),
		"a short firmware ID":             set(spdm.TagFWID, make([]byte, 47)),
		"NVDEC0 of two bytes":             set(spdm.TagNVDEC0, []byte{0xAA, 0}),
		"protected PCIe in between":       set(spdm.TagProtectedPCIe, []byte{1}),
		"a list of few switches":          set(spdm.TagSwitchPDI, make([]byte, 136)),
		"a version without a flag":        set(spdm.TagFeatureFlag, nil),
		"a flag of one byte":              set(spdm.TagFeatureFlag, []byte{1}),
	} {
		if _, err := change(base()).GPU(); !errors.Is(err, spdm.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(made(f, nil))
	f.Add(made(f, func(b []byte) { b[45+55] = 1 }))
	f.Add([]byte{0x11, 0xE0})
	if vectors.Find() != "" {
		for _, b := range realReports(f) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := spdm.Parse(b)
		if err != nil {
			if !errors.Is(err, spdm.ErrMalformed) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		if !bytes.Equal(append(slices.Clone(r.Signed), r.Signature...), b) || len(r.Signature) != spdm.SignatureSize || len(r.Measurements) == 0 {
			t.Fatal("parts are not the whole")
		}
		_, _ = r.Opaque.GPU()
		_, _ = r.Opaque.Switch()
	})
}

func FuzzParseOpaque(f *testing.F) {
	r, err := spdm.Parse(made(f, nil))
	if err != nil {
		f.Fatal(err)
	}
	var all []byte
	for _, e := range r.Opaque {
		all = append(append(all, byte(e.Type), byte(e.Type>>8), byte(len(e.Value)), byte(len(e.Value)>>8)), e.Value...)
	}
	f.Add(all)
	f.Add([]byte{6, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := spdm.ParseOpaque(b)
		if err != nil {
			return
		}
		n := 0
		for _, e := range o {
			n += 4 + len(e.Value)
		}
		if n != len(b) {
			t.Fatalf("%d of %d bytes were read", n, len(b))
		}
		if g, err := o.GPU(); err == nil && (g.Driver == "" || len(g.FWID) != 0 && len(g.FWID) != spdm.ValueSize) {
			t.Fatalf("%+v", g)
		}
		_, _ = o.Switch()
	})
}
