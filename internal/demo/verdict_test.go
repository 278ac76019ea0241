package demo

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/appraise"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
)

// The verdict is kept with its checks, and verified with them.
func TestTheKeptVerdictHasItsChecks(t *testing.T) {
	w := tpmtest.NewWorld(t)
	r := appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	v, err := result.Sign(r, key, "test")
	if err != nil {
		t.Fatal(err)
	}
	archived, err := json.Marshal(map[string]any{"result": r, "ear": v.Token, "checks": v.Checks})
	if err != nil {
		t.Fatal(err)
	}
	k := &kept{dir: t.TempDir()}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(k.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("x.result.json", archived)
	_, verdict, err := readResult(filepath.Join(k.dir, "x.result.json"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := verdict.marshal()
	if err != nil {
		t.Fatal(err)
	}
	write(fileVKey, []byte(hex.EncodeToString(key.Public().(ed25519.PublicKey))+"\n"))
	write(fileVerdict, good)
	at, ear, err := k.verdictTime()
	if err != nil || at.Unix() != ear.IssuedAt {
		t.Fatalf("made at %v, %v", at, err)
	}
	n := 0
	for _, s := range ear.Submods {
		n += len(s.Checks())
	}
	if n != len(r.Checks()) {
		t.Errorf("%d checks, want %d", n, len(r.Checks()))
	}
	changed := *verdict
	changed.Checks = bytes.Replace(verdict.Checks, []byte("pass"), []byte("skip"), 1)
	without := verdictDoc{EAR: verdict.EAR}
	for name, v := range map[string]*verdictDoc{"a check that is changed": &changed, "no checks": &without} {
		doc, err := v.marshal()
		if err != nil {
			t.Fatal(err)
		}
		write(fileVerdict, doc)
		if _, _, err := k.verdictTime(); !fault.Has(err, "verdict.checks") {
			t.Errorf("%s: %v", name, err)
		}
	}
	write(fileVerdict, []byte(verdict.EAR))
	if _, _, err := k.verdictTime(); !fault.Has(err, "demo.verdict") {
		t.Errorf("a bare token: %v", err)
	}
}
