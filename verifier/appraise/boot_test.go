package appraise_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/bootargs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/verifier/appraise"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// TestALogOfARealBootIsRead appraises the log of a real direct boot (see
// measurements/eventlog/testdata/README.md) under a manifest that was computed
// from the components alone.
func TestALogOfARealBootIsRead(t *testing.T) {
	log, err := os.ReadFile("../../measurements/eventlog/testdata/direct-boot.eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	hash := func(s string) digest.SHA256 {
		d, err := digest.Parse256(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	rec, err := pcr.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	fw, err := rec.Find(hash("6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129"))
	if err != nil {
		t.Fatal(err)
	}
	const cmdline = "console=ttyS0 quiet panic=-1 cocoon.root=4ca424ad2045ddb334bb61d0d7b0e572cdc684850acdd8fdac01b0e5a4b6c702 " +
		"cocoon.salt=4a250d90a84c287cc71135a166cbb409afec31376ce25d3bb920fd86ac8e4970 cocoon.blocks=10712"
	root, err := bootargs.Parse(cmdline)
	if err != nil {
		t.Fatal(err)
	}
	w := tpmtest.NewWorld(t)
	publish := func(initrd digest.SHA256) *appraise.Options {
		t.Helper()
		c := pcr.Components{KernelAuthenticodeSHA256: hash("a20646051d119ba9f5e4f6759d6bb1395157aa7d69bc39fa42e3e5d8cb94c56b"), InitrdSHA256: initrd}
		f, err := manifest.NewTPMFirmware(fw, c, cmdline)
		if err != nil {
			t.Fatal(err)
		}
		w.Manifest.Boot = manifest.Boot{Cmdline: cmdline, RootVerity: root.Hash}
		w.Manifest.TPM = &manifest.TPM{Components: c, Firmwares: []manifest.TPMFirmware{f}}
		return options(t, w)
	}
	ev := w.Evidence(t)
	ev.CPU.EventLog = log
	w.Requote(t, ev)
	initrd := hash("42fab21498c66deb17d152f9195e25c09c7e991c936cc6b59bfcdc3e408d67c6")
	if r := resulttest.Complete(t, appraise.Appraise(ev, publish(initrd))); !r.Accepted {
		t.Errorf("refused: %v", r.Err())
	}
	r := resulttest.Complete(t, appraise.Appraise(ev, publish(d("another initrd"))))
	if diff := cmp.Diff([]string{"image.initrd", "pcr.9"}, failedIDs(r)); diff != "" {
		t.Errorf("failed checks (-want +got):\n%s", diff)
	}
	for _, c := range r.Failed() {
		if c.ID == "image.initrd" && c.Actual != initrd.String() {
			t.Errorf("actual initrd %s, want %s", c.Actual, initrd)
		}
	}
}
