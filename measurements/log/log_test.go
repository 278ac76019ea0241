package log_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

const origin = "log.example.org/cocoon"

func newKey(t testing.TB, name string) (log.Key, ed25519.PrivateKey) {
	t.Helper()
	seed := digest.Sum256([]byte(name))
	priv := ed25519.NewKeyFromSeed(seed[:])
	k, err := log.NewKey(origin, priv.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return k, priv
}

func sign(t testing.TB, key ed25519.PrivateKey, text string) []byte {
	t.Helper()
	s, err := log.Signer(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const emptyRoot = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

// TestKeysAreThoseOfSignedNotes reads a key with the Go checksum database's
// own package.
func TestKeysAreThoseOfSignedNotes(t *testing.T) {
	k, priv := newKey(t, "log")
	v, err := note.NewVerifier(k.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(sign(t, priv, "text\n"), note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"another id": strings.Replace(k.String(), "+", "+0", 1), "no key": origin + "+00000000+", "an upper-case name": "L" + k.String()[1:], "nothing": "",
	} {
		if _, err := log.ParseKey(bad); !errors.Is(err, log.ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckpointsAreStrict(t *testing.T) {
	k, priv := newKey(t, "log")
	good := origin + "\n0\n" + emptyRoot + "\n"
	if c, err := log.OpenCheckpoint(sign(t, priv, good), k); err != nil || c.Size != 0 || c.Root != digest.Sum256(nil) {
		t.Fatalf("%+v, %v", c, err)
	}
	for name, text := range map[string]string{
		"another origin":  "x" + good,
		"a signed size":   strings.Replace(good, "\n0\n", "\n+0\n", 1),
		"a padded size":   strings.Replace(good, "\n0\n", "\n00\n", 1),
		"a short root":    origin + "\n0\n" + emptyRoot[4:] + "\n",
		"an extra line":   good + "extension\n",
		"a size too much": strings.Replace(good, "\n0\n", "\n9223372036854775808\n", 1),
	} {
		if _, err := log.OpenCheckpoint(sign(t, priv, text), k); !errors.Is(err, log.ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, other := newKey(t, "other")
	if _, err := log.OpenCheckpoint(sign(t, other, good), k); !errors.Is(err, log.ErrSignature) {
		t.Errorf("another key's: %v", err)
	}
	both := append(sign(t, priv, good), bytes.SplitAfterN(sign(t, other, good), []byte("\n\n"), 2)[1]...)
	if _, err := log.OpenCheckpoint(both, k); err != nil {
		t.Errorf("with a witness's signature: %v", err)
	}
}

// one returns a proof for a log of one entry, whose root is its leaf hash.
func one(t testing.TB) (*log.Inclusion, digest.SHA256, log.Key) {
	t.Helper()
	k, priv := newKey(t, "log")
	m := digest.Sum256([]byte("manifest"))
	leaf := log.LeafHash(m)
	return &log.Inclusion{Checkpoint: sign(t, priv, origin+"\n1\n"+base64Of(leaf)+"\n")}, m, k
}

func TestNoFlippedByteOfAProofIsAccepted(t *testing.T) {
	p, m, k := one(t)
	doc := p.Text()
	open := func(b []byte) error {
		p, err := log.ParseInclusion(b)
		if err == nil {
			_, err = p.Verify(m, k)
		}
		return err
	}
	if err := open(doc); err != nil {
		t.Fatal(err)
	}
	for i := range doc {
		doc[i] ^= 1
		if open(doc) == nil {
			t.Errorf("byte %d: accepted", i)
		}
		doc[i] ^= 1
	}
}

func TestALogIsNotConsistentWithAnotherHistory(t *testing.T) {
	k, priv := newKey(t, "log")
	p, _, _ := one(t)
	empty := sign(t, priv, origin+"\n0\n"+emptyRoot+"\n")
	fork := sign(t, priv, origin+"\n1\n"+base64Of(digest.Sum256([]byte("fork")))+"\n")
	for name, c := range map[string]struct {
		earlier, later []byte
		ok             bool
	}{
		"from nothing": {empty, p.Checkpoint, true}, "from itself": {p.Checkpoint, p.Checkpoint, true},
		"from a fork": {fork, p.Checkpoint, false}, "backwards": {p.Checkpoint, empty, false},
	} {
		q := &log.Consistency{Earlier: c.earlier, Checkpoint: c.later}
		if _, _, err := q.Verify(k); (err == nil) != c.ok || err != nil && !errors.Is(err, log.ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEntriesNameManifests(t *testing.T) {
	m := digest.Sum256(nil)
	if got, err := log.ParseEntry(log.Entry(m)); err != nil || got != m {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"", "cocoon-manifest/v1\n", string(log.Entry(m)) + "\n", strings.ToUpper(string(log.Entry(m))), m.String() + "\n"} {
		if _, err := log.ParseEntry([]byte(bad)); !errors.Is(err, log.ErrForm) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzProofs(f *testing.F) {
	p, m, k := one(f)
	f.Add(p.Text())
	f.Add((&log.Consistency{Earlier: p.Checkpoint, Checkpoint: p.Checkpoint}).Text())
	f.Fuzz(func(t *testing.T, doc []byte) {
		if p, err := log.ParseInclusion(doc); err == nil {
			if c, err := p.Verify(m, k); err == nil && c.Size != 1 {
				t.Fatal("verified another log")
			}
		}
		if p, err := log.ParseConsistency(doc); err == nil {
			_, _, _ = p.Verify(k)
		}
	})
}

func base64Of(d digest.SHA256) string { return base64.StdEncoding.EncodeToString(d[:]) }
