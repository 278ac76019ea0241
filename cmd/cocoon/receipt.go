package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// newReceiptCmd checks receipts.
func newReceiptCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "receipt", Short: "what an enclave signed for a response"}
	cmd.AddCommand(newReceiptVerifyCmd(), newReceiptProveCmd())
	return cmd
}

type receiptFlags struct {
	ton               tonFlags
	key, clientKey    hashFlag
	request, response string
	voucher, log      string
	proof, verdict    string
	inclusion         string
}

// receiptReport is what "receipt verify --json" writes.
type receiptReport struct {
	Valid   bool             `json:"valid"`
	Checks  []receiptCheck   `json:"checks"`
	Amount  coin.Nano        `json:"amount"` // of this response, nanoton
	Receipt *receipt.Receipt `json:"receipt"`
}

type receiptCheck struct {
	ID       string `json:"id"`
	Status   string `json:"status"` // pass, fail or skip
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

func (r *receiptReport) check(ok bool, id, expected, actual, remedy string) {
	c := receiptCheck{ID: id, Status: "pass", Expected: expected, Actual: actual}
	if !ok {
		c.Status, c.Remedy, r.Valid = "fail", remedy, false
	}
	r.Checks = append(r.Checks, c)
}

func (r *receiptReport) skip(id, why string) {
	r.Checks = append(r.Checks, receiptCheck{ID: id, Status: "skip", Remedy: why})
}

// err turns failed checks into faults.
func (r *receiptReport) err() error {
	var errs []error
	for _, c := range r.Checks {
		if c.Status == "fail" {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, c.ID, "the receipt's "+c.ID[len("receipt."):], c.Expected, c.Actual, c.Remedy))
		}
	}
	return errors.Join(errs...)
}

func newReceiptVerifyCmd() *cobra.Command {
	f := &receiptFlags{}
	cmd := &cobra.Command{
		Use:   "verify FILE (--key KEY | --config FILE [--proof FILE]) [--verdict FILE] [--request FILE] [--response FILE] [--voucher FILE] [--log FILE | --inclusion FILE]",
		Short: "verify a receipt, and what it says",
		Long: `Verifies a signed receipt (JSON, or the base64 of it that a response carries;
"-" is standard input): the signature by the enclave's receipt key, and, where
given, the exact request and response bodies, the verdict (its receipt key,
manifest and model), the voucher that pays for it, and its place under the
Merkle root: by the client's receipt log, or by an inclusion proof of "receipt
prove".

With --config the receipt key is the one that the job's release recorded on
chain, proven, and the receipt is held against what the job has redeemed. With
--proof too, a file of "job show --proof-out", nothing is asked of the network.
--key names the receipt key instead.

Exit codes: 0 valid; 1 usage; 2 not valid; 3 no lite-server answers; 5 not a
receipt.`,
		Example: `  cocoon receipt verify receipt.json --key 3b6a… --request body.json --response answer.sse
  cocoon receipt verify receipt.json --config build/devnet/global.config.json --voucher voucher.json
  cocoon receipt verify receipt.json --config global.config.json --proof job.proof.json --inclusion proof.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runReceiptVerify(cmd, f, args[0]) },
	}
	fs := cmd.Flags()
	fs.Var(&f.key, "key", "the enclave's raw Ed25519 receipt `key`, hex")
	fs.StringVar(&f.ton.config, "config", "", "read the job on chain: the network's global.config.json `file`")
	fs.DurationVar(&f.ton.timeout, "timeout", time.Minute, "give up on the network after this `time`")
	fs.StringVar(&f.request, "request", "", "the exact request body's `file`")
	fs.StringVar(&f.response, "response", "", "the exact response body's `file`")
	fs.StringVar(&f.voucher, "voucher", "", "the voucher's `file`")
	fs.Var(&f.clientKey, "client-key", "the client's raw Ed25519 public `key`, hex; with --config the job's terms name it")
	fs.StringVar(&f.log, "log", "", "the client's receipt log `file`")
	fs.StringVar(&f.inclusion, "inclusion", "", "an inclusion proof's `file`, instead of the log")
	fs.StringVar(&f.verdict, "verdict", "", "the verdict's `file`, the base64 of its cell")
	fs.StringVar(&f.proof, "proof", "", "read the job from this proof `file` of \"job show --proof-out\" instead of the network")
	fs.BoolVar(&f.ton.json, "json", false, "write the result as JSON")
	return cmd
}

func runReceiptVerify(cmd *cobra.Command, f *receiptFlags, path string) error {
	if f.key.set == (f.ton.config != "") {
		return errors.New("name the receipt key with either --key or --config")
	}
	if f.proof != "" && f.ton.config == "" {
		return errors.New("--proof needs the network's --config")
	}
	if f.log != "" && f.inclusion != "" {
		return errors.New("name either --log or --inclusion")
	}
	doc, err := readDocument(path, receipt.MaxSize)
	if err != nil {
		return err
	}
	s, err := receipt.Parse(doc)
	if err != nil {
		return err
	}
	r := &receiptReport{Valid: true, Receipt: &s.Receipt}
	if r.Amount, err = s.Receipt.Price.Bill(s.Receipt.Tokens); err != nil {
		return err
	}
	key, clientKey := f.key.Hash, f.clientKey.Hash
	clientKnown := f.clientKey.set
	var j *job.State
	if f.ton.config != "" {
		if j, err = receiptJob(cmd, f, s.Receipt.Job); err != nil {
			return err
		}
		receiptOnChain(j, s, r)
		key, clientKey, clientKnown = j.Verdicts[s.Receipt.Verdict].ReceiptKey, j.Terms.ClientKey, true
	}
	r.check(s.Verify(key[:]), "receipt.signature", "by key "+key.String(), s.Signature.String(), "the receipt was changed, or another key signed it")
	if err := receiptBodies(f, s, r); err != nil {
		return err
	}
	if err := receiptVerdict(f, s, key, r); err != nil {
		return err
	}
	if err := receiptRedeemed(f, s, j, r); err != nil {
		return err
	}
	if err := receiptVoucher(f, s, clientKey, clientKnown, r); err != nil {
		return err
	}
	if f.ton.json {
		if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
		return r.err()
	}
	p := &printer{w: cmd.OutOrStdout()}
	verdict := "valid"
	if !r.Valid {
		verdict = "not valid"
	}
	p.f("%s: receipt %d of job %s", verdict, s.Receipt.Seq, s.Receipt.Job)
	p.f("%s TON for this response, %s TON in total, %d prompt and %d completion tokens", r.Amount, s.Receipt.Cumulative, s.Receipt.Tokens.Prompt, s.Receipt.Tokens.Completion)
	for _, c := range r.Checks {
		p.f("  %-4s %s", c.Status, c.ID)
	}
	return errors.Join(p.err, r.err())
}

// receiptJob reads the job's proven state, from the network or from a file.
func receiptJob(cmd *cobra.Command, f *receiptFlags, at toncell.Address) (*job.State, error) {
	if f.proof == "" {
		var j *job.State
		err := f.ton.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
			var err error
			j, _, err = l.Job(ctx, at)
			return err
		})
		return j, err
	}
	doc, err := os.ReadFile(f.proof)
	if err != nil {
		return nil, fmt.Errorf("reading the job's proof: %w", err)
	}
	cfg, err := os.ReadFile(f.ton.config)
	if err != nil {
		return nil, fmt.Errorf("reading the network's config: %w", err)
	}
	st, err := chain.VerifyAccountProof(doc, cfg, at.Addr())
	if err != nil {
		return nil, err
	}
	return ledger.JobOf(st, at)
}

// receiptOnChain holds the receipt against the job's terms and releases.
func receiptOnChain(j *job.State, s *receipt.Signed, r *receiptReport) {
	_, ok := j.Verdicts[s.Receipt.Verdict]
	r.check(ok, "receipt.verdict", "a verdict that released the job", s.Receipt.Verdict.String(), "no release on chain names this verdict")
	r.check(j.Terms.ModelRoot == s.Receipt.ModelRoot, "receipt.model", j.Terms.ModelRoot.String(), s.Receipt.ModelRoot.String(), "the job is about another model")
	r.check(s.Receipt.Price.Max() <= j.Terms.PriceCap, "receipt.price", fmt.Sprintf("at most %d", j.Terms.PriceCap), fmt.Sprint(s.Receipt.Price.Max()), "the price is over the job's cap")
}

// receiptVerdict ties the receipt to the machine: the verdict names the
// receipt key, the manifest and the model. Who signed the verdict is for the
// registry to judge, which the job's release has asked.
func receiptVerdict(f *receiptFlags, s *receipt.Signed, key hexbytes.Hash, r *receiptReport) error {
	if f.verdict == "" {
		r.skip("receipt.manifest", "name the verdict's file to check the manifest and the enclave's key")
		return nil
	}
	b, err := os.ReadFile(f.verdict)
	if err != nil {
		return fmt.Errorf("reading the verdict: %w", err)
	}
	var v verdictcell.Verdict
	if err := v.UnmarshalText(trimSpace(b)); err != nil {
		return fault.New(fault.ExitParse, "verdict.malformed", "name a file with the verdict's cell in base64", "%w", err)
	}
	hash, err := v.Hash()
	if err != nil {
		return err
	}
	const remedy = "the receipt is not of the machine that the verdict is about"
	c := &v.Common
	r.check(s.Receipt.Verdict == hash, "receipt.verdict_hash", hexbytes.Hash(hash).String(), s.Receipt.Verdict.String(), remedy)
	r.check(key == c.ReceiptKey, "receipt.enclave_key", hexbytes.Hash(c.ReceiptKey).String(), key.String(), remedy)
	r.check(s.Receipt.Manifest == c.Manifest, "receipt.manifest", hexbytes.Hash(c.Manifest).String(), s.Receipt.Manifest.String(), remedy)
	r.check(s.Receipt.ModelRoot == c.ModelRoot, "receipt.verdict_model", hexbytes.Hash(c.ModelRoot).String(), s.Receipt.ModelRoot.String(), remedy)
	return nil
}

// receiptRedeemed says whether the job has paid for the receipt, and holds its
// place against the root on chain.
func receiptRedeemed(f *receiptFlags, s *receipt.Signed, j *job.State, r *receiptReport) error {
	switch {
	case j == nil:
		r.skip("receipt.redeemed", "name the network's --config to see whether the job has paid")
		return nil
	case j.ReceiptCount < s.Receipt.Seq:
		r.skip("receipt.redeemed", fmt.Sprintf("the job has redeemed vouchers over %d receipts; this one is not among them yet", j.ReceiptCount))
		return nil
	}
	// Less is paid only where the deposit did not suffice.
	r.check(j.Paid >= uint64(s.Receipt.Cumulative) || j.Paid == j.Deposited, "receipt.redeemed",
		"at least "+s.Receipt.Cumulative.String()+" TON", coin.Nano(j.Paid).String()+" TON", "the job has redeemed a voucher over this receipt for less than it says")
	if f.log == "" && f.inclusion == "" {
		r.skip("receipt.root_on_chain", "name the receipt log or an inclusion proof to check the root on chain")
		return nil
	}
	return receiptUnder(f, s, j.ReceiptCount, j.ReceiptsRoot, "receipt.root_on_chain", r)
}

func receiptBodies(f *receiptFlags, s *receipt.Signed, r *receiptReport) error {
	for _, b := range []struct {
		id, file string
		want     hexbytes.Hash
	}{{"receipt.request", f.request, s.Receipt.Request}, {"receipt.response", f.response, s.Receipt.Response}} {
		if b.file == "" {
			r.skip(b.id, "name the body's file to check it")
			continue
		}
		got, err := bodyHash(b.file)
		if err != nil {
			return err
		}
		r.check(got == b.want, b.id, b.want.String(), got.String(), "the file is not, byte for byte, the body that the enclave saw")
	}
	return nil
}

func receiptVoucher(f *receiptFlags, s *receipt.Signed, client hexbytes.Hash, clientKnown bool, r *receiptReport) error {
	if f.voucher == "" {
		r.skip("receipt.voucher", "name the voucher's file to check that it pays for this receipt")
		return nil
	}
	doc, err := readDocument(f.voucher, receipt.MaxVoucher)
	if err != nil {
		return err
	}
	sv, err := receipt.ParseVoucher(doc)
	if err != nil {
		return err
	}
	v := &sv.Voucher
	covers := v.Job == s.Receipt.Job && v.ReceiptCount >= s.Receipt.Seq && v.Amount >= s.Receipt.Cumulative
	r.check(covers, "receipt.voucher", fmt.Sprintf("receipt %d of %s, %s TON", s.Receipt.Seq, s.Receipt.Job, s.Receipt.Cumulative),
		fmt.Sprintf("%d receipts of %s, %s TON", v.ReceiptCount, v.Job, v.Amount), "the voucher does not pay for this receipt")
	if clientKnown {
		r.check(sv.Verify(ed25519.PublicKey(client[:])), "receipt.voucher_signature", "by key "+client.String(), sv.Signature.String(), "the voucher was changed, or another key signed it")
	} else {
		r.skip("receipt.voucher_signature", "name the client's key with --client-key or --config")
	}
	if f.log == "" && f.inclusion == "" {
		r.skip("receipt.inclusion", "name the receipt log or an inclusion proof to check the voucher's Merkle root")
		return nil
	}
	return receiptUnder(f, s, v.ReceiptCount, v.ReceiptsRoot, "receipt.inclusion", r)
}

// receiptUnder checks that a root over count receipts is over this one, at its
// place.
func receiptUnder(f *receiptFlags, s *receipt.Signed, count uint64, root receipt.Hash, id string, r *receiptReport) error {
	const remedy = "the root is not over this receipt"
	leaf, err := s.Leaf()
	if err != nil {
		return err
	}
	if f.inclusion != "" {
		doc, err := readDocument(f.inclusion, receipt.MaxProof)
		if err != nil {
			return err
		}
		p, err := receipt.ParseProof(doc)
		if err != nil {
			return err
		}
		if p.Count != count {
			r.skip(id, fmt.Sprintf("the inclusion proof is under a root over %d receipts, not %d", p.Count, count))
			return nil
		}
		in := p.Seq == s.Receipt.Seq && receipt.Included(leaf, p.Seq-1, count, p.Path, root)
		r.check(in, id, "root "+root.String(), fmt.Sprintf("an inclusion proof of receipt %d", p.Seq), remedy)
		return nil
	}
	leaves, err := receipt.ReadLeaves(f.log)
	if err != nil {
		return err
	}
	if uint64(len(leaves)) < count || s.Receipt.Seq > count {
		r.check(false, id, fmt.Sprintf("%d receipts", count), fmt.Sprint(len(leaves)), "the log has fewer receipts than the root is over")
		return nil
	}
	p, err := receipt.Prove(leaves[:count], s.Receipt.Seq-1)
	if err != nil {
		return err
	}
	in := receipt.Included(leaf, s.Receipt.Seq-1, count, p, root)
	r.check(in, id, "root "+root.String(), "root "+receipt.Root(leaves[:count]).String(), remedy)
	return nil
}

// readDocument reads a JSON document, or the base64 of one, of bounded size.
func readDocument(path string, limit int64) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading a document: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 2*limit))
	if err != nil {
		return nil, fmt.Errorf("reading a document: %w", err)
	}
	b = trimSpace(b)
	if len(b) == 0 || b[0] == '{' {
		return b, nil
	}
	out, err := base64.StdEncoding.AppendDecode(nil, b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "document.malformed", "name a JSON document or its base64", "reading %s: %w", plain(path), err)
	}
	return out, nil
}

func trimSpace(b []byte) []byte { return bytes.TrimSpace(b) }

func bodyHash(path string) (hexbytes.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return hexbytes.Hash{}, fmt.Errorf("reading a body: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return hexbytes.Hash{}, fmt.Errorf("reading a body: %w", err)
	}
	return hexbytes.Hash(h.Sum(nil)), nil
}
