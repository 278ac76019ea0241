package hcl_test

import (
	"testing"

	"cocoon/verifier/azure/hcl"
)

func FuzzHCL(f *testing.F) {
	b := make([]byte, 1236)
	copy(b, "HCLA\x01")
	b[12], b[1216], b[1220], b[1224], b[1228] = 2, 20, 1, 2, 1
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := hcl.Parse(in)
		if err == nil && (r.AK == nil || len(r.Hardware) < hcl.TDReportSize) {
			t.Fatalf("a report without key or hardware: %+v", r)
		}
	})
}
