package main

import (
	"errors"
	"testing"

	"cocoon/measurements/digest"
)

// TestAQuorumIsOfKeys asks one verifier twice: it lies each time, and counts
// once.
func TestAQuorumIsOfKeys(t *testing.T) {
	one, other := agreed{Payout: "one"}, agreed{Payout: "other", Manifest: digest.SHA256{1}}
	answer := func(url, key string, what agreed) appraiseAnswer {
		return appraiseAnswer{Verifier: url, KeyID: key, Agreed: &what}
	}
	for name, c := range map[string]struct {
		answers []appraiseAnswer
		want    []int
	}{
		"one address twice":            {[]appraiseAnswer{answer("a", "1", one), answer("a", "1", one)}, []int{0}},
		"one key at two addresses":     {[]appraiseAnswer{answer("a", "1", one), answer("b", "1", one)}, []int{0}},
		"one that says this and that":  {[]appraiseAnswer{answer("a", "1", other), answer("a", "1", one), answer("b", "2", one)}, []int{1, 2}},
		"two keys at one address":      {[]appraiseAnswer{answer("a", "1", one), answer("a", "2", one)}, []int{0, 1}},
		"the larger group":             {[]appraiseAnswer{answer("a", "1", other), answer("b", "2", one), answer("c", "3", one)}, []int{1, 2}},
		"who failed, and who is known": {[]appraiseAnswer{{Verifier: "a", err: errors.New("x")}, answer("b", "", one), answer("c", "3", one)}, []int{2}},
		"nobody":                       {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := quorate(c.answers)
			if len(got) != len(c.want) {
				t.Fatalf("%d agree, want %d", len(got), len(c.want))
			}
			for i, n := range c.want {
				if got[i].Verifier != c.answers[n].Verifier || got[i].KeyID != c.answers[n].KeyID || *got[i].Agreed != *c.answers[n].Agreed {
					t.Errorf("answer %d is %+v", i, got[i])
				}
			}
		})
	}
}
