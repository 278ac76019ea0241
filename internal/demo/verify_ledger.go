package demo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/registrysource"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// proven returns an account's state from its kept proof: from the network's
// init block over signed blocks to the account.
func (k *kept) proven(file, addr string) (*proof.State, toncell.Address, error) {
	a, err := toncell.ParseAddress(addr)
	if err != nil {
		return nil, a, err
	}
	doc, err := k.read(file)
	if err != nil {
		return nil, a, err
	}
	cfg, err := k.read(fileTON)
	if err != nil {
		return nil, a, err
	}
	st, err := chain.VerifyAccountProof(doc, cfg, a.Addr())
	return st, a, err
}

func (k *kept) registryState() (*registry.State, error) {
	st, _, err := k.proven(fileRegistryProof, k.rep.Job.Registry)
	if err != nil {
		return nil, err
	}
	return ledger.RegistryOf(st)
}

func (k *kept) jobState() (*job.State, toncell.Address, error) {
	st, a, err := k.proven(fileJobProof, k.rep.Job.Address)
	if err != nil {
		return nil, a, err
	}
	s, err := ledger.JobOf(st, a)
	return s, a, err
}

// result appraises evidence with the registry as it was proven.
func (k *kept) result(ev *evidence.Evidence, at time.Time) (*result.Result, error) {
	st, _, err := k.proven(fileRegistryProof, k.rep.Job.Registry)
	if err != nil {
		return nil, err
	}
	s, err := ledger.RegistryOf(st)
	if err != nil {
		return nil, err
	}
	if k.trust.Policy.Manifests.Registry == nil {
		return nil, fault.New(fault.ExitRefused, "demo.policy", "run make demo again", "the client's policy names no registry")
	}
	t := *k.trust
	t.Clock = func() time.Time { return at }
	t.Registry = func(context.Context) (*appraise.Registry, error) {
		// The proof is younger than the verdict; it is read as of then.
		r := registrysource.State(k.trust.Policy.Manifests.Registry.Address, s, st)
		r.Time = at
		return r, nil
	}
	return t.Result(context.Background(), ev, nil)
}

func (k *kept) registry() (string, error) {
	s, err := k.registryState()
	if err != nil {
		return "", err
	}
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fault.New(fault.ExitRefused, "demo.registry", "run make demo again", "the proven registry does not list the %s", what))
		}
	}
	need(s.Manifests[k.rep.ManifestSHA256].State == registry.Active, "manifest as active")
	need(s.Models[k.ev.Claims.Model.VerityRoot].Active, "model as active")
	v, ok := s.Verifiers[verdictcell.KeyID(k.key)]
	need(ok && v.Public.Equal(k.key), "verifier's key")
	return "proven: lists manifest, model and the verifier's key", errors.Join(errs...)
}

func (k *kept) cell(file string) (*verdictcell.Verdict, [32]byte, error) {
	b, err := k.read(file)
	if err != nil {
		return nil, [32]byte{}, err
	}
	var v verdictcell.Verdict
	if err := v.UnmarshalText([]byte(strings.TrimSpace(string(b)))); err != nil {
		return nil, [32]byte{}, fault.New(fault.ExitParse, "demo.verdict", "run make demo again", "reading %s: %w", file, err)
	}
	h, err := v.Hash()
	if err == nil && (len(v.Signatures) != 1 || !v.Signatures[0].Verify(k.key, h)) {
		err = fault.New(fault.ExitRefused, "demo.verdict", "run make demo again", "%s is not signed by the verifier", file)
	}
	return &v, h, err
}

// job ties the verdict that the contract recorded to the evidence.
func (k *kept) job() (string, error) {
	v, hash, err := k.cell(fileVerdictCell)
	if err != nil {
		return "", err
	}
	s, _, err := k.jobState()
	if err != nil {
		return "", err
	}
	c, cl := &v.Common, &k.ev.Claims
	var errs []error
	equal := func(what, a, b string) {
		if a != b {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, "demo.verdict", "the verdict cell's "+what, a, b, "run make demo again"))
		}
	}
	equal("receipt key", cl.ReceiptKey.String(), digest.SHA256(c.ReceiptKey).String())
	equal("manifest", k.rep.ManifestSHA256.String(), digest.SHA256(c.Manifest).String())
	equal("model", cl.Model.VerityRoot.String(), digest.SHA256(c.ModelRoot).String())
	equal("evidence", k.res.EvidenceSHA256.String(), digest.SHA256(c.EvidenceSHA256).String())
	equal("registry", k.rep.Job.Registry, c.Registry.String())
	equal("trust class", k.res.TrustClass, c.TrustClass.String())
	got, released := s.ReleasedTo(job.Hash(cl.ReceiptKey))
	equal("hash, as the job recorded it", digest.SHA256(hash).String(), digest.SHA256(got).String())
	return fmt.Sprintf("proven: released by verdict %s to the enclave's receipt key", short(digest.SHA256(hash).String())),
		errors.Join(append(errs, want("job.released", fmt.Sprint(k.rep.Job.Released), fmt.Sprint(released)))...)
}

func (k *kept) receipt() (string, error) {
	b, err := k.read(fileReceipt)
	if err != nil {
		return "", err
	}
	s, err := receipt.Parse(b)
	if err != nil {
		return "", err
	}
	_, hash, err := k.cell(fileVerdictCell)
	if err != nil {
		return "", err
	}
	r, said := &s.Receipt, &k.rep.Receipt
	valid := s.Verify(ed25519.PublicKey(k.ev.Claims.ReceiptKey[:])) && r.Job.String() == k.rep.Job.Address &&
		[32]byte(r.Manifest) == [32]byte(k.rep.ManifestSHA256) && [32]byte(r.ModelRoot) == [32]byte(k.ev.Claims.Model.VerityRoot) && [32]byte(r.Verdict) == hash
	if !valid {
		return "", fault.New(fault.ExitRefused, "demo.receipt", "run make demo again", "the receipt is not one of the enclave's for this job, manifest, model and verdict")
	}
	return fmt.Sprintf("%d signed by the enclave: %d + %d tokens, %s TON", r.Seq, r.Tokens.Prompt, r.Tokens.Completion, r.Cumulative), errors.Join(
		want("receipt.valid", fmt.Sprint(said.Valid), "true"),
		want("receipt", fmt.Sprint(*said), fmt.Sprint(ReportReceipt{true, r.Seq, r.Tokens.Prompt, r.Tokens.Completion, uint64(r.Cumulative)})),
	)
}

func (k *kept) redemption() (string, error) {
	b, err := k.read(fileVoucher)
	if err != nil {
		return "", err
	}
	v, err := receipt.ParseVoucher(b)
	if err != nil {
		return "", err
	}
	s, addr, err := k.jobState()
	if err != nil {
		return "", err
	}
	rb, err := k.read(fileReceipt)
	if err != nil {
		return "", err
	}
	rs, err := receipt.Parse(rb)
	if err != nil {
		return "", err
	}
	leaf, err := rs.Leaf()
	if err != nil {
		return "", err
	}
	vo := &v.Voucher
	ok := v.Verify(s.Terms.ClientKey[:]) && vo.Job == addr && vo.Amount == rs.Receipt.Cumulative &&
		uint64(vo.Amount) == s.Paid && vo.Seq == s.Seq && vo.ReceiptCount == s.ReceiptCount && vo.ReceiptsRoot == s.ReceiptsRoot
	if vo.ReceiptCount == 1 {
		ok = ok && vo.ReceiptsRoot == receipt.Root([]receipt.Hash{leaf})
	}
	if !ok {
		return "", fault.New(fault.ExitRefused, "demo.redemption", "run make demo again", "the proven job did not pay this voucher for this receipt")
	}
	j := &k.rep.Job
	return fmt.Sprintf("proven: the job paid %s TON for %d receipts", coin.Nano(s.Paid), s.ReceiptCount), errors.Join(
		want("job.redeemed_nanoton", fmt.Sprint(j.RedeemedNanoton), fmt.Sprint(s.Paid)),
		want("deposit", fmt.Sprint(j.DepositNanoton), fmt.Sprint(s.Deposited)),
		want("operator's balance", fmt.Sprint(j.OperatorAfter), fmt.Sprint(j.OperatorBefore+j.RedeemedNanoton-j.RedeemFees)),
		want("escrow's balance", fmt.Sprint(j.EscrowAfter), fmt.Sprint(j.EscrowBefore-j.RedeemedNanoton-j.EscrowStorage)),
	)
}

// expired holds the expired verdict against what it must be: the registered
// verifier's signature over the released verdict, with its time over.
func (k *kept) expired(f Refusal) error {
	v, _, err := k.cell(filepath.Join(dirRefusals, "verdict_expired.cell"))
	if err != nil {
		return err
	}
	good, _, err := k.cell(fileVerdictCell)
	if err != nil {
		return err
	}
	c := good.Common
	c.EvidenceSHA256 = earlierEvidence(c.EvidenceSHA256)
	if v.Common != c {
		return fault.New(fault.ExitRefused, "demo.verdict", "run make demo again", "the expired verdict is not about the released worker")
	}
	_, until := v.Interval()
	if !slices.Contains(f.By, "registry") {
		return fault.New(fault.ExitRefused, "demo.report", "run make demo again", "the expired verdict was not refused by the registry")
	}
	return want("expiry of verdict_expired", f.Actual, time.Unix(int64(until), 0).UTC().Format(time.RFC3339))
}
