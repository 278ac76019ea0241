package server

import (
	"crypto"

	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// verdictCell returns the verdict in the form that contracts read, signed by
// this verifier, for a worker on a ledger; "" for one without, and under test
// roots. It says the same as the EAR and lives as long.
func verdictCell(ev *evidence.Evidence, r *result.Result, key crypto.Signer) (string, error) {
	// A cell cannot say that a root was a test's, so there is none then: no
	// contract acts on such a verdict.
	if ev.Config.Registry == "" || len(r.TestRoots) > 0 {
		return "", nil
	}
	registry, err := toncell.ParseAddress(ev.Config.Registry)
	if err != nil {
		return "", fault.New(fault.ExitParse, "config.registry", "name the registry by its raw or user-friendly address", "reading registry address: %w", err)
	}
	payout, err := toncell.ParseAddress(r.Claims.Payout)
	if err != nil {
		return "", fault.New(fault.ExitParse, "claims.payout", "set a payout address in operator.json", "reading payout address: %w", err)
	}
	class, err := verdictcell.ParseTrustClass(r.TrustClass)
	if err != nil {
		return "", err
	}
	c := verdictcell.Common{
		GlobalID: ev.Config.NetworkID, Registry: registry, TrustClass: class, ReceiptKey: r.Claims.ReceiptKey, Payout: payout,
		Manifest: r.Manifest.SHA256, ModelRoot: r.Claims.Model.VerityRoot, PolicyHash: r.PolicySHA256, EvidenceSHA256: r.EvidenceSHA256,
	}
	hash, err := c.Hash()
	if err != nil {
		return "", err
	}
	sig, err := verdictcell.Sign(key, hash, uint64(r.Time.Unix()), uint64(r.NotAfter.Unix()))
	if err != nil {
		return "", err
	}
	v, err := verdictcell.New(c, sig)
	if err != nil {
		return "", err
	}
	text, err := v.MarshalText()
	return string(text), err
}
