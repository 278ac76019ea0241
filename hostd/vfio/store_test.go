package vfio

import (
	"encoding/json"
	"testing"
)

// FuzzParseStore reads state files that a crash or a hand has changed.
func FuzzParseStore(f *testing.F) {
	f.Add([]byte(`{"version":1,"before":[{"bdf":"0000:1b:00.0","driver":"nvidia","power_control":"auto"}]}`))
	f.Add([]byte(`{"version":1,"before":[{"bdf":"../../x","driver":"","power_control":""}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseStore(b)
		if err != nil {
			return
		}
		for _, p := range list {
			if err := CheckBDF(p.BDF); err != nil {
				t.Fatalf("read address %q: %v", p.BDF, err)
			}
		}
		doc, err := json.Marshal(storeDoc{Version: 1, Before: list})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseStore(doc); err != nil || len(again) != len(list) {
			t.Fatalf("%d devices became %d, %v", len(list), len(again), err)
		}
	})
}
