package demo

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	verifier "cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/result"
)

// logOrigin is the name of the demo verifier's log.
const logOrigin = "localhost/demo"

// proofLimit bounds the wait for a proof on a busy machine; each question waits
// for two seconds.
const proofLimit = time.Minute

// keepLogKey keeps the public key of the log that the verifier is given.
func (r *run) keepLogKey(path string) error {
	private, err := keyfile.ReadEd25519(path)
	if err != nil {
		return err
	}
	k, err := log.NewKey(logOrigin, private.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	return writeFile(r.keep(fileLogKey), []byte(k.String()+"\n"))
}

// logged asks the verifier for the proof that the verdict is in its log, and
// puts it beside the verdict.
func (r *run) logged(ctx context.Context, evidence digest.SHA256, v *verdictDoc) error {
	c, err := verifier.New(verifier.Options{BaseURL: "http://" + r.verifierAddr, Keys: []ed25519.PublicKey{r.verifierKey[:]}, AllowDevelopment: true, Clock: r.Clock})
	if err != nil {
		return err
	}
	var got *verifier.Verdict
	for end := time.Now().Add(proofLimit); ; {
		if got, err = c.Logged(ctx, evidence); err == nil {
			break
		}
		if !fault.Has(err, "verifier.log.pending") || time.Now().After(end) {
			return err
		}
	}
	if got.EAR != v.EAR {
		return fault.New(fault.ExitRefused, "demo.log", "see the verifier's log in "+filepath.Join(r.Out, dirLogs), "the verifier's log is of another verdict than its archive")
	}
	v.Cell, v.Inclusion = got.Cell, got.Inclusion
	return nil
}

// inLog verifies offline that a kept verdict is in the log of a key, and says
// where.
func inLog(v *verdictDoc, ear *result.EAR, k log.Key) (string, error) {
	bad := func(err error) (string, error) {
		return "", fault.New(fault.ExitRefused, "demo.log", "do not rely on a verifier that does not log what it signs", "verifying that the verdict is in the log: %w", err)
	}
	e, err := journal.EntryOf(v.EAR, ear, v.Cell)
	if err != nil {
		return bad(err)
	}
	leaf, err := e.Leaf()
	if err != nil {
		return bad(err)
	}
	p, err := log.ParseInclusion([]byte(v.Inclusion))
	if err != nil {
		return bad(err)
	}
	c, err := p.VerifyLeaf(leaf, k)
	if err != nil {
		return bad(err)
	}
	return fmt.Sprintf("the verdict is entry %d of %d in the verifier's log %s", p.Index, c.Size, k.ID()), nil
}
