package modelowner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls/modelkey"
)

func release(n int) Release {
	return Release{Time: "2026-06-01T00:00:00Z", Pack: fmt.Sprintf("chat@%d:%s", n, digest.SHA256{byte(n)}), TrustClass: "tdx", Image: "cocoon", Version: uint64(n)}
}

// logOf writes a log of n releases.
func logOf(t testing.TB, n int) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "releases")
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := j.Append(release(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, b
}

func TestALogGoesOnWhereItEnded(t *testing.T) {
	path, _ := logOf(t, 2)
	j, err := OpenJournal(path)
	if err != nil || j.Count() != 2 {
		t.Fatalf("%v", err)
	}
	if _, err := OpenJournal(path); !fault.Has(err, CodeLogBusy) {
		t.Errorf("a second writer: %v", err)
	}
	if err := j.Append(release(3)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadLog(bytes.NewReader(b))
	if err != nil || len(got) != 3 || got[2].Seq != 3 || got[2].Version != 3 || got[0].Previous != (digest.SHA256{}) || got[2].Previous == got[1].Previous {
		t.Errorf("read %+v, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// A crash leaves a part of a line, for which no key was released.
func TestWhatACrashLeftIsCutOff(t *testing.T) {
	_, whole := logOf(t, 3)
	two := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for cut := two; cut < len(whole); cut += 17 {
		path := filepath.Join(t.TempDir(), "releases")
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJournal(path)
		if err != nil || j.Count() != 2 {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if err := j.Append(release(3)); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, whole) {
			t.Fatalf("cut at %d: the log differs, %v", cut, err)
		}
	}
}

func TestALogThatWasChangedIsRefused(t *testing.T) {
	_, whole := logOf(t, 4)
	lines := strings.SplitAfter(string(whole), "\n")
	for name, text := range map[string]string{
		"a line taken out":       lines[0] + lines[2] + lines[3],
		"the first taken out":    lines[1] + lines[2] + lines[3],
		"two lines swapped":      lines[0] + lines[2] + lines[1] + lines[3],
		"a line twice":           lines[0] + lines[0] + lines[1],
		"a value changed":        strings.Replace(string(whole), `"trust_class":"tdx"`, `"trust_class":"snp"`, 1),
		"another form":           strings.Replace(string(whole), `{"config`, `{ "config`, 1),
		"no time":                strings.Replace(string(whole), `2026-06-01T`, `2026-66-01T`, 1),
		"an empty line":          "\n" + string(whole),
		"a line that is endless": strings.Repeat("x", maxRecord+1) + "\n",
	} {
		if got, err := ReadLog(strings.NewReader(text)); !fault.Has(err, CodeLogBad) {
			t.Errorf("%s: read %d releases, %v", name, len(got), err)
		}
		path := filepath.Join(t.TempDir(), "releases")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(path); !fault.Has(err, CodeLogBad) {
			t.Errorf("%s: opened, %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s: what is refused was changed, %v", name, err)
		}
	}
}

func TestALogThatFailedTakesNothingMore(t *testing.T) {
	path, _ := logOf(t, 1)
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	good := j.f
	if j.f, err = os.Open(path); err != nil { // for reading only
		t.Fatal(err)
	}
	if err := j.Append(release(2)); !fault.Has(err, CodeLog) {
		t.Errorf("got %v", err)
	}
	j.f.Close()
	j.f = good
	if err := j.Append(release(2)); !fault.Has(err, CodeLog) {
		t.Errorf("afterwards: %v", err)
	}
	j.Close()
}

func TestAChallengeIsGoodOnceAndForAWhile(t *testing.T) {
	var age time.Duration
	c, err := newChallenges(func() time.Duration { return age })
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.issue()
	if err != nil {
		t.Fatal(err)
	}
	for i := range d {
		other := d
		other[i] ^= 1
		if err := c.use(other); !fault.Has(err, modelkey.CodeChallenge) {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
	age = ChallengeLife - time.Millisecond
	if err := c.check(d); err != nil {
		t.Fatal(err)
	}
	if err := c.use(d); err != nil {
		t.Fatal(err)
	}
	if err := c.use(d); !fault.Has(err, modelkey.CodeChallenge) {
		t.Errorf("again: %v", err)
	}
	if err := c.check(d); !fault.Has(err, modelkey.CodeChallenge) {
		t.Errorf("again: %v", err)
	}
	age = ChallengeLife
	if err := c.use(d); !fault.Has(err, modelkey.CodeChallenge) {
		t.Errorf("after its end: %v", err)
	}
	if len(c.used) != 0 {
		t.Errorf("%d are kept after their end", len(c.used))
	}
}

// FuzzReadLog reads what is, and is not, a log.
func FuzzReadLog(f *testing.F) {
	_, whole := logOf(f, 2)
	f.Add(whole)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ReadLog(bytes.NewReader(b))
		if err == nil && len(got) > bytes.Count(b, []byte("\n")) {
			t.Fatalf("%d releases in %d lines", len(got), bytes.Count(b, []byte("\n")))
		}
		for i, r := range got {
			if r.Seq != uint64(i)+1 {
				t.Fatalf("release %d has number %d", i+1, r.Seq)
			}
		}
	})
}
