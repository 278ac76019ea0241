package dcap_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
)

// TestKeptCollateralIsItsRoots opens collateral that was good under its own roots
// under others, while it is kept as it stands, and when its hash is all that is left.
func TestKeptCollateralIsItsRoots(t *testing.T) {
	p, err := tdxtest.New("dcap")
	if err != nil {
		t.Fatal(err)
	}
	other, err := tdxtest.New("another")
	if err != nil {
		t.Fatal(err)
	}
	made := tdxtest.DefaultCollateral(quote.TEETDX)
	raw, err := p.Collateral(&made)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	parsed := 0
	parse := func(b []byte) (*collateral.Raw, error) {
		parsed++
		return collateral.ParseJSON(b)
	}
	c := dcap.NewCache(dcap.CacheOptions{})
	for _, kept := range []string{"at first", "by its hash, before"} {
		first, err := c.OpenJSON(doc, p.Roots(), parse)
		if err != nil {
			t.Fatal(err)
		}
		before := parsed
		if again, err := c.OpenJSON(doc, p.Roots(), parse); err != nil || again != first || parsed != before {
			t.Errorf("kept %s: opened again, %v", kept, err)
		}
		if _, err := c.OpenJSON(doc, other.Roots(), parse); err == nil {
			t.Errorf("kept %s: it is taken under other roots", kept)
		}
		changed := append([]byte(nil), doc...)
		changed[len(changed)/2] ^= 1
		if set, err := c.OpenJSON(changed, p.Roots(), parse); err == nil && set == first {
			t.Errorf("kept %s: found by another text", kept)
		}
		// More documents than are kept to be compared.
		for i := range 20 {
			if _, err := c.OpenJSON(append([]byte(nil), fmt.Sprintf("%*s%s", i+1, "", doc)...), p.Roots(), parse); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.OpenJSON(doc, other.Roots(), parse); err == nil {
			t.Error("with its hash alone kept: it is taken under other roots")
		}
	}
}
