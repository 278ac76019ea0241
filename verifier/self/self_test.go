package self_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/self"
	"cocoon/verifier/wire"
)

func document() *self.Document {
	return &self.Document{Profile: self.Profile, Claims: self.Claims{Keys: []digest.SHA256{{1}, {2}}, Policies: []digest.SHA256{{3}}, LogKey: "log", Build: "b", At: "2026-11-01T00:00:00Z"},
		CPU: evidence.CPU{Type: evidence.TypeSNP, Quote: []byte{1}, CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}}
}

func TestDocumentsThatAreNone(t *testing.T) {
	for name, change := range map[string]func(*self.Document){
		"another profile": func(d *self.Document) { d.Profile = evidence.Profile },
		"no key":          func(d *self.Document) { d.Claims.Keys = nil },
		"an unknown TEE":  func(d *self.Document) { d.CPU.Type = "x" },
		"no time":         func(d *self.Document) { d.Claims.At = "" },
		"no real time":    func(d *self.Document) { d.Claims.At = "yesterday" },
		"no such day":     func(d *self.Document) { d.Claims.At = "2026-11-31T00:00:00Z" },
		"another zone":    func(d *self.Document) { d.Claims.At = "2026-11-01T00:00:00+01:00" },
		"no seconds":      func(d *self.Document) { d.Claims.At = "2026-11-01T00:00Z" },
		"part of seconds": func(d *self.Document) { d.Claims.At = "2026-11-01T00:00:00.5Z" },
	} {
		d := document()
		change(d)
		b, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := self.Parse(b); !fault.Has(err, self.CodeFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEverythingOfADescriptionIsBound changes what a description says, one thing
// at a time.
func TestEverythingOfADescriptionIsBound(t *testing.T) {
	key := func(b byte) wire.Key { return wire.Key{Public: digest.SHA256{b}} }
	info := wire.Info{Build: "b", LogKey: "log", Keys: []wire.Key{key(1), key(2)}, Policies: []wire.PolicyRef{{SHA256: digest.SHA256{3}}}}
	info.Keys[0].RetireAt, info.AKRoots, info.TestRoots = "2026-12-01T00:00:00Z", [][]byte{{1}}, []string{"intel"}
	claims, err := self.ClaimsOf(&info)
	if err != nil {
		t.Fatal(err)
	}
	d := &self.Document{Claims: claims}
	if err := d.Bound(&info); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*wire.Info){
		"its evidence":  func(i *wire.Info) { i.Evidence = []byte(`{}`) },
		"another order": func(i *wire.Info) { i.Keys = []wire.Key{i.Keys[1], i.Keys[0]} },
		"another date": func(i *wire.Info) {
			i.Keys = slices.Clone(i.Keys)
			i.Keys[0].RetireAt = "2030-12-01T00:00:00Z"
		},
		"another state": func(i *wire.Info) {
			i.Keys = slices.Clone(i.Keys)
			i.Keys[0].State = wire.KeyNext
		},
		"another build":  func(i *wire.Info) { i.Build = "c" },
		"an AK root":     func(i *wire.Info) { i.AKRoots = [][]byte{{2}} },
		"no test root":   func(i *wire.Info) { i.TestRoots = nil },
		"another policy": func(i *wire.Info) { i.Policies = []wire.PolicyRef{{SHA256: digest.SHA256{3}, Name: "x"}} },
		"a key more":     func(i *wire.Info) { i.Keys = append(i.Keys, key(4)) },
		"a key less":     func(i *wire.Info) { i.Keys = i.Keys[:1] },
		"another key":    func(i *wire.Info) { i.Keys = []wire.Key{key(1), key(5)} },
		"a policy more":  func(i *wire.Info) { i.Policies = append(i.Policies, wire.PolicyRef{}) },
		"another log":    func(i *wire.Info) { i.LogKey = "x" },
	} {
		i := info
		change(&i)
		if err := d.Bound(&i); (err == nil) != (name == "its evidence") || err != nil && !fault.Has(err, self.CodeBound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	one, err := d.Claims.ReportData()
	if err != nil {
		t.Fatal(err)
	}
	d.Claims.At = "2027-01-01T00:00:00Z"
	if two, err := d.Claims.ReportData(); err != nil || one == two {
		t.Errorf("the time is not signed: %v", err)
	}
}

// TestADocumentIsOfItsTime holds one against clocks before and after it.
func TestADocumentIsOfItsTime(t *testing.T) {
	d := document()
	made, err := d.Claims.Time()
	if err != nil {
		t.Fatal(err)
	}
	for after, code := range map[time.Duration]string{
		-2 * time.Minute: self.CodeFuture, -time.Minute: "", 0: "", self.MaxAge: "", self.MaxAge + time.Second: self.CodeExpired, 10 * 365 * 24 * time.Hour: self.CodeExpired,
	} {
		if err := d.Fresh(made.Add(after)); code == "" && err != nil || code != "" && !fault.Has(err, code) {
			t.Errorf("%s after: %v, want %q", after, err, code)
		}
	}
	d.Claims.At = ""
	if err := d.Fresh(made); !fault.Has(err, self.CodeFormat) {
		t.Errorf("without a time: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := document().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"profile":"` + self.Profile + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := self.Parse(b)
		if err != nil {
			return
		}
		out, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := self.Parse(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if third, err := again.Marshal(); err != nil || !bytes.Equal(out, third) {
			t.Errorf("%s became %s, %v", out, third, err)
		}
	})
}
