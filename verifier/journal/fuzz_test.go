package journal

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

func FuzzParseEntry(f *testing.F) {
	e := entry(1)
	text, err := e.Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(entryHead + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		again, err := e.Text()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q became %q, %v", b, again, err)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	e := entry(1)
	text, err := e.Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendRecord(nil, 5, 3, text), uint64(5))
	f.Fuzz(func(t *testing.T, b []byte, index uint64) {
		group, text, err := parseRecord(b, index)
		if err == nil && !bytes.Equal(appendRecord(nil, index, group, text), b) {
			t.Fatalf("record %d is not what is written", index)
		}
	})
}

func FuzzOpenPromise(f *testing.F) {
	k, err := log.NewKey(origin, testKey.Public().(ed25519.PublicKey))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(promiseHead + "\n"))
	j, _ := signer(f)
	raw, err := j.promise(&group{first: 5, leaves: []digest.SHA256{hash("leaf", 0), hash("leaf", 1), hash("leaf", 2)}}, 6)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := OpenPromise(b, k); err == nil && !bytes.Equal(b, raw) {
			t.Fatalf("%+v without the key", p)
		}
	})
}
