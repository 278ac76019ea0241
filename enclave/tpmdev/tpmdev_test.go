package tpmdev

import (
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"cocoon/hostd/swtpm"
	"cocoon/internal/fault"
	"cocoon/internal/imagetest"
	"cocoon/measurements/digest"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
)

func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// conn is a software TPM's command channel.
type conn struct {
	swtpm.Channel
	c net.Conn
}

func (c conn) Close() error { return c.c.Close() }

// power starts a real software TPM that was manufactured as hostd does, with
// all registers reset.
func power(t *testing.T) (*TPM, *swtpm.CA) {
	t.Helper()
	tools, dir := imagetest.Tools(t), t.TempDir()
	ca, err := swtpm.OpenCA(filepath.Join(dir, "ca"), "default", now)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "tpm")
	if _, err := swtpm.Manufacture(t.Context(), tools, state, ca); err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := swtpm.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := tools.Command(t.Context(), "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--fd", "3", "--flags", "not-need-init,startup-clear")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	c, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	dev := New(conn{swtpm.Channel{RW: c}, c})
	t.Cleanup(func() {
		dev.Close()
		_ = cmd.Wait() // it ends with its connection
	})
	return dev, ca
}

// emptyLog is a crypto-agile log without events: its header (TCG PC Client
// Platform Firmware Profile, section 10.4.5.1).
func emptyLog() []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, 1)
	spec = le.AppendUint16(spec, 0x000b) // SHA-256
	spec = le.AppendUint16(spec, 32)
	spec = append(spec, 0)
	log := le.AppendUint32(nil, 0)
	log = le.AppendUint32(log, 3) // EV_NO_ACTION
	log = append(log, make([]byte, 20)...)
	log = le.AppendUint32(log, uint32(len(spec)))
	return append(log, spec...)
}

// TestTheWholeWayWithARealTPM measures, enrols and quotes, and lets the
// verifier's own code judge.
func TestTheWholeWayWithARealTPM(t *testing.T) {
	dev, ekCA := power(t)
	events := [][]byte{[]byte("one"), []byte("two")}
	pcr, err := dev.Measure(events)
	if err != nil {
		t.Fatal(err)
	}
	want := digest.SHA256{}
	for _, e := range events {
		sum := digest.Sum256(e)
		want = digest.Sum256(append(want[:], sum[:]...))
	}
	if pcr != want {
		t.Errorf("PCR 15 is %s, want %s", pcr, want)
	}
	third := []byte("three")
	events = append(events, third)
	sum := digest.Sum256(third)
	want = digest.Sum256(append(want[:], sum[:]...))
	if pcr, err = dev.Extend(pcr, [][]byte{third}); err != nil || pcr != want {
		t.Errorf("PCR 15 is %s after one event more, want %s, %v", pcr, want, err)
	}
	if _, err := dev.Measure(events); !fault.Has(err, CodePCRUsed) {
		t.Errorf("measuring twice: got %v, want %s", err, CodePCRUsed)
	}

	keys, err := dev.LoadKeys()
	if err != nil {
		t.Fatal(err)
	}
	akCA, err := tpm.NewCA("test", now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	enroller, err := tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: []*x509.Certificate{ekCA.Root}, CA: akCA, Clock: now})
	if err != nil {
		t.Fatal(err)
	}
	begin, err := enroller.Begin(t.Context(), &tpm.EnrollRequest{EKChain: [][]byte{keys.EKCertificate()}, EKPublic: keys.EKPublic(), AKPublic: keys.AKPublic()})
	if err != nil {
		t.Fatal(err)
	}
	credential, err := keys.Activate(begin.CredentialBlob, begin.Secret)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enroller.Finish(t.Context(), &tpm.ActivateRequest{Session: begin.Session, Credential: credential})
	if err != nil {
		t.Fatal(err)
	}
	extra := digest.Sum256([]byte("claims"))
	attest, signature, err := keys.Quote(extra)
	if err != nil {
		t.Fatal(err)
	}
	res := tpm.Verify(&tpm.Evidence{Attest: attest, Signature: signature, CertChain: cert.CertChain, EventLog: emptyLog(), RuntimeEvents: events},
		&tpm.Options{AKRoots: []*x509.Certificate{akCA.Cert}, Now: now(), QualifyingData: extra[:]})
	for _, c := range res.Checks {
		// A TPM without a machine has no log of a boot.
		if c.Status != result.Pass && c.ID != tpm.CheckLogStructure {
			t.Errorf("%s: %s: %s (expected %s, actual %s)", c.ID, c.Status, c.Reason, c.Expected, c.Actual)
		}
	}
	begin.CredentialBlob[len(begin.CredentialBlob)-1] ^= 1
	if _, err := keys.Activate(begin.CredentialBlob, begin.Secret); err == nil {
		t.Error("a changed credential was activated")
	}
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenWithoutATPMSaysWhatToDo(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "tpmrm0"))
	if !fault.Has(err, CodeAbsent) {
		t.Errorf("got %v, want %s", err, CodeAbsent)
	}
}

func TestReadEventLog(t *testing.T) {
	root := fstest.MapFS{}
	if _, err := ReadEventLog(root, EventLogPath); !fault.Has(err, "tpm.event_log_absent") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: got %v", err)
	}
	for name, c := range map[string]struct {
		size int
		ok   bool
	}{"empty": {0, false}, "small": {1, true}, "at the limit": {MaxEventLog, true}, "over the limit": {MaxEventLog + 1, false}} {
		root[EventLogPath] = &fstest.MapFile{Data: make([]byte, c.size)}
		if b, err := ReadEventLog(root, EventLogPath); (err == nil) != c.ok || c.ok && len(b) != c.size {
			t.Errorf("%s: got %d bytes, %v", name, len(b), err)
		}
	}
}
