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

	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
)

// newReceiptCmd checks receipts.
func newReceiptCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "receipt", Short: "what an enclave signed for a response"}
	cmd.AddCommand(newReceiptVerifyCmd())
	return cmd
}

type receiptFlags struct {
	ton               tonFlags
	key, clientKey    hashFlag
	request, response string
	voucher, log      string
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
		Use:   "verify FILE (--key KEY | --config FILE) [--request FILE] [--response FILE] [--voucher FILE] [--log FILE]",
		Short: "verify a receipt, and what it says",
		Long: `Verifies a signed receipt (JSON, or the base64 of it that a response carries;
"-" is standard input): the signature by the enclave's receipt key, and, where
given, the exact request and response bodies, the voucher that pays for it, and
the client's receipt log, whose Merkle root the voucher must name.

With --config the receipt key is the one that the job's release recorded on
chain, proven; --key names it offline.

Exit codes: 0 valid; 1 usage; 2 not valid; 3 no lite-server answers; 5 not a
receipt.`,
		Example: `  cocoon receipt verify receipt.json --key 3b6a… --request body.json --response answer.sse
  cocoon receipt verify receipt.json --config build/devnet/global.config.json --voucher voucher.json`,
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
	fs.BoolVar(&f.ton.json, "json", false, "write the result as JSON")
	return cmd
}

func runReceiptVerify(cmd *cobra.Command, f *receiptFlags, path string) error {
	if f.key.set == (f.ton.config != "") {
		return errors.New("name the receipt key with either --key or --config")
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
	if f.ton.config != "" {
		if key, clientKey, err = receiptOnChain(cmd, f, s, r); err != nil {
			return err
		}
		clientKnown = true
	}
	r.check(s.Verify(key[:]), "receipt.signature", "by key "+key.String(), s.Signature.String(), "the receipt was changed, or another key signed it")
	if err := receiptBodies(f, s, r); err != nil {
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

// receiptOnChain takes the receipt key from the job's proven state.
func receiptOnChain(cmd *cobra.Command, f *receiptFlags, s *receipt.Signed, r *receiptReport) (key, client hexbytes.Hash, err error) {
	err = f.ton.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
		j, _, err := l.Job(ctx, s.Receipt.Job)
		if err != nil {
			return err
		}
		rec, ok := j.Verdicts[s.Receipt.Verdict]
		r.check(ok, "receipt.verdict", "a verdict that released the job", s.Receipt.Verdict.String(), "no release on chain names this verdict")
		r.check(j.Terms.ModelRoot == s.Receipt.ModelRoot, "receipt.model", j.Terms.ModelRoot.String(), s.Receipt.ModelRoot.String(), "the job is about another model")
		r.check(s.Receipt.Price.Max() <= j.Terms.PriceCap, "receipt.price", fmt.Sprintf("at most %d", j.Terms.PriceCap), fmt.Sprint(s.Receipt.Price.Max()), "the price is over the job's cap")
		key, client = rec.ReceiptKey, j.Terms.ClientKey
		return nil
	})
	return key, client, err
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
	if f.log == "" {
		r.skip("receipt.inclusion", "name the receipt log to check the voucher's Merkle root")
		return nil
	}
	return receiptInclusion(f.log, s, v, r)
}

// receiptInclusion checks that the voucher's root is over receipts with this
// one among them.
func receiptInclusion(path string, s *receipt.Signed, v *receipt.Voucher, r *receiptReport) error {
	leaves, err := receipt.ReadLeaves(path)
	if err != nil {
		return err
	}
	if uint64(len(leaves)) < v.ReceiptCount || s.Receipt.Seq > v.ReceiptCount {
		r.check(false, "receipt.inclusion", fmt.Sprintf("%d receipts", v.ReceiptCount), fmt.Sprint(len(leaves)), "the log has fewer receipts than the voucher")
		return nil
	}
	leaves = leaves[:v.ReceiptCount]
	leaf, err := s.Leaf()
	if err != nil {
		return err
	}
	path2, err := receipt.Prove(leaves, s.Receipt.Seq-1)
	if err != nil {
		return err
	}
	in := receipt.Included(leaf, s.Receipt.Seq-1, v.ReceiptCount, path2, v.ReceiptsRoot)
	r.check(in, "receipt.inclusion", "root "+v.ReceiptsRoot.String(), "root "+receipt.Root(leaves).String(), "the voucher's root is not over this receipt")
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
