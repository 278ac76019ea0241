package demo

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/receipt"
	"cocoon/internal/bootargs"
	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
)

// contractRefusals offers registry and job directly what must not release or
// pay: for each changed run a verdict that a registered verifier might have
// signed by mistake, an expired verdict, a forged and a replayed voucher.
func (r *run) contractRefusals(ctx context.Context) error {
	r.begin("contracts", "registry and job are offered bad verdicts and vouchers directly")
	key, err := keyfile.ReadEd25519(r.temp("verifier", "verifier.key"))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(r.keep(fileVerdictCell))
	if err != nil {
		return fmt.Errorf("reading verdict: %w", err)
	}
	var good verdictcell.Verdict
	if err := good.UnmarshalText([]byte(strings.TrimSpace(string(text)))); err != nil {
		return err
	}
	for i := range r.rep.Refusals {
		if err := r.offerChanged(ctx, key, good.Common, &r.rep.Refusals[i]); err != nil {
			return err
		}
	}
	if err := r.offerExpired(ctx, key, good.Common); err != nil {
		return err
	}
	return r.offerVouchers(ctx)
}

// changedManifest is what would have to be registered for a changed run to
// pass: the manifest with the changed part's value in it. The hash of its
// payload is in no registry.
func (r *run) changedManifest(env []byte, f *Refusal) (digest.SHA256, error) {
	v, err := openManifest(env, r.manifestHash)
	if err != nil {
		return digest.SHA256{}, err
	}
	actual, err := digest.Parse256(f.Actual)
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("case %s: reading the value found: %w", f.Case, err)
	}
	m := *v.Manifest
	tpm := *m.TPM
	m.TPM = &tpm
	m.TDX, m.SNP = nil, nil // the machine of this run has a TPM; these would follow the change, too
	switch f.Case {
	case "initrd":
		tpm.Components.InitrdSHA256 = actual
	case "cmdline":
		m.Boot.Cmdline += changedWord
	case "root":
		root, err := bootargs.Parse(m.Boot.Cmdline)
		if err != nil {
			return digest.SHA256{}, err
		}
		root.Hash = r.rootVerity
		m.Boot.RootVerity, m.Boot.Cmdline = r.rootVerity, root.String()
	case "model":
		m.Models = []manifest.Model{{Name: modelName, VerityRoot: actual}}
	case "config":
		m.Engines = append([]manifest.Engine{}, m.Engines...)
		m.Engines[0].ImageDigest = actual
	default:
		return digest.SHA256{}, fmt.Errorf("case %s: unknown", f.Case)
	}
	tpm.Firmwares = nil
	for _, fw := range v.Manifest.TPM.Firmwares {
		n, err := manifest.NewTPMFirmware(fw.Firmware, tpm.Components, m.Boot.Cmdline)
		if err != nil {
			return digest.SHA256{}, fmt.Errorf("case %s: %w", f.Case, err)
		}
		tpm.Firmwares = append(tpm.Firmwares, n)
	}
	b, err := m.Payload()
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("case %s: %w", f.Case, err)
	}
	return digest.Sum256(b), nil
}

// offerChanged signs, with the registered verifier's key, the verdict that a
// fooled verifier would have given the changed run, and offers it.
func (r *run) offerChanged(ctx context.Context, key ed25519.PrivateKey, c verdictcell.Common, f *Refusal) error {
	env, err := os.ReadFile(r.keep(fileManifest))
	if err != nil {
		return fmt.Errorf("reading manifest: %w", err)
	}
	hash, err := r.changedManifest(env, f)
	if err != nil {
		return err
	}
	c.Manifest = hash
	now, err := r.chainTime(ctx)
	if err != nil {
		return err
	}
	v, err := sign(key, c, now.Add(-10*time.Second), now.Add(5*time.Minute))
	if err != nil {
		return err
	}
	if f.Contract, err = r.offer(ctx, v); err != nil {
		return fmt.Errorf("case %s: %w", f.Case, err)
	}
	f.By = append(f.By, "registry")
	r.note("%-8s a verdict for it is refused by the registry: %s", f.Case, f.Contract)
	return nil
}

func sign(key ed25519.PrivateKey, c verdictcell.Common, from, until time.Time) (*verdictcell.Verdict, error) {
	h, err := c.Hash()
	if err != nil {
		return nil, err
	}
	s, err := verdictcell.Sign(key, h, uint64(from.Unix()), uint64(until.Unix()))
	if err != nil {
		return nil, err
	}
	return verdictcell.New(c, s)
}

// chainTime returns the ledger's time, which contracts go by.
func (r *run) chainTime(ctx context.Context) (time.Time, error) {
	st, err := r.chain.client.Account(ctx, r.chain.registry.Addr())
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(int64(st.Utime), 0).UTC(), nil
}

// offer sends a verdict to the registry for the job, and returns the code with
// which the registry refused it; the job must not have recorded it.
func (r *run) offer(ctx context.Context, v *verdictcell.Verdict) (string, error) {
	c := r.chain
	_, _, err := c.ledger.SendVerdict(ctx, c.owner, c.registry, c.job, 0, v)
	if err == nil {
		return "", fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "the registry accepts a bad verdict")
	}
	all := fault.All(err)
	if len(all) != 1 || !strings.HasPrefix(all[0].Code, "contract.") {
		return "", err
	}
	h, err := v.Hash()
	if err != nil {
		return "", err
	}
	s, _, err := c.ledger.Job(ctx, c.job)
	if err != nil {
		return "", err
	}
	if _, recorded := s.Verdicts[h]; recorded {
		return "", fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "the job is released on a bad verdict")
	}
	return all[0].Code, nil
}

// earlierEvidence stands for evidence that the machine showed before.
func earlierEvidence(now [32]byte) [32]byte { return digest.Sum256(now[:]) }

func (r *run) offerExpired(ctx context.Context, key ed25519.PrivateKey, c verdictcell.Common) error {
	now, err := r.chainTime(ctx)
	if err != nil {
		return err
	}
	// As of earlier evidence of the same machine: the job has recorded the
	// verdict on the present evidence.
	c.EvidenceSHA256 = earlierEvidence(c.EvidenceSHA256)
	until := now.Add(-time.Minute)
	v, err := sign(key, c, now.Add(-30*time.Minute), until)
	if err != nil {
		return err
	}
	text, err := v.MarshalText()
	if err != nil {
		return err
	}
	if err := writeFile(r.keep(dirRefusals, "verdict_expired.cell"), append(text, '\n')); err != nil {
		return err
	}
	code, err := r.offer(ctx, v)
	if err != nil {
		return err
	}
	f := Refusal{Case: "verdict_expired", Step: "release", Code: code, Contract: code, By: []string{"registry"},
		Expected: "expires after " + now.Format(time.RFC3339), Actual: until.Format(time.RFC3339)}
	r.rep.Refusals = append(r.rep.Refusals, f)
	r.showRefusal(&f)
	return nil
}

// offerVouchers sends the redeemed voucher again, and one of another key's.
func (r *run) offerVouchers(ctx context.Context) error {
	doc, err := os.ReadFile(r.keep(fileVoucher))
	if err != nil {
		return fmt.Errorf("reading voucher: %w", err)
	}
	v, err := receipt.ParseVoucher(doc)
	if err != nil {
		return err
	}
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	next := v.Voucher
	next.Seq, next.Amount = next.Seq+1, next.Amount+coin.TON
	forged, err := next.Sign(stranger)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, expected, actual string
		v                      *receipt.SignedVoucher
	}{
		{"voucher_replayed", fmt.Sprintf("voucher %d or later", v.Voucher.Seq+1), fmt.Sprintf("voucher %d", v.Voucher.Seq), v},
		{"voucher_forged", "the client's signature", "a stranger's signature", forged},
	} {
		_, err := r.chain.ledger.Redeem(ctx, r.chain.owner, c.v)
		fs := fault.All(err)
		if len(fs) == 0 || !strings.HasPrefix(fs[0].Code, "contract.") {
			return fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "offering %s: %v", c.name, err)
		}
		r.also(&Refusal{Case: c.name, Step: "redeem", Code: fs[0].Code, Contract: fs[0].Code, Expected: c.expected, Actual: c.actual, By: []string{"job"}})
	}
	return nil
}

// printLedger says what happened to the money.
func printLedger(w io.Writer, rep *Report) {
	j := &rep.Job
	fmt.Fprintf(w, "\n  The ledger (a devnet with the real TVM) released job %s\n  to the worker on the verdict; before that the worker served nothing for it.\n", short(j.Address))
	fmt.Fprintf(w, "  The answer came with a receipt signed in the enclave: %d prompt and %d completion tokens.\n  The worker's voucher was redeemed. In TON:\n\n", rep.Receipt.PromptTokens, rep.Receipt.CompletionTokens)
	table(w, [][]string{
		{"", "before", "after", ""},
		{"operator", nano(j.OperatorBefore), nano(j.OperatorAfter), "got " + nano(j.RedeemedNanoton) + ", paid " + nano(j.RedeemFees) + " of fees"},
		{"escrow", nano(j.EscrowBefore), nano(j.EscrowAfter), "paid " + nano(j.RedeemedNanoton) + ", storage " + nano(j.EscrowStorage)},
		{"client", nano(j.ClientBefore), nano(j.ClientAfter), "deposited " + nano(j.DepositNanoton) + "; reserve and fees are the rest"},
	})
}

func nano(n uint64) string { return coin.Nano(n).String() }
