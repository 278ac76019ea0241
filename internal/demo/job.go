package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"cocoon/client"
	"cocoon/contracts/coin"
	"cocoon/contracts/receipt"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// What the demo's client offers.
const (
	demoDeposit  = 2 * coin.TON
	demoPriceCap = 500_000_000_000 // nanoton per million tokens
)

// ReportJob is the job's part of the report. Balances are in nanoton: of the
// operator's wallet, which is also the payout address and pays the gas of the
// redemption; of the job's escrow; and of the client's wallet; before the job
// was opened (operator, client) or redeemed (escrow), and after.
type ReportJob struct {
	Registry        string `json:"registry"`
	Address         string `json:"address"`
	Released        bool   `json:"released"`
	DepositNanoton  uint64 `json:"deposit_nanoton"`
	RedeemedNanoton uint64 `json:"redeemed_nanoton"`
	RedeemFees      uint64 `json:"redeem_fees_nanoton"`
	OperatorBefore  uint64 `json:"operator_before_nanoton"`
	OperatorAfter   uint64 `json:"operator_after_nanoton"`
	EscrowBefore    uint64 `json:"escrow_before_nanoton"`
	EscrowAfter     uint64 `json:"escrow_after_nanoton"`
	EscrowStorage   uint64 `json:"escrow_storage_fee_nanoton"`
	ClientBefore    uint64 `json:"client_before_nanoton"`
	ClientAfter     uint64 `json:"client_after_nanoton"`
}

// ReportReceipt is the receipt's part of the report.
type ReportReceipt struct {
	Valid            bool   `json:"valid"`
	Seq              uint64 `json:"seq"`
	PromptTokens     uint64 `json:"prompt_tokens"`
	CompletionTokens uint64 `json:"completion_tokens"`
	Cumulative       uint64 `json:"cumulative_nanoton"`
}

func (r *run) balance(ctx context.Context, a toncell.Address) (uint64, error) {
	st, err := r.chain.client.Account(ctx, a.Addr())
	if err != nil {
		return 0, err
	}
	return st.Balance.Uint64(), nil
}

// connection returns the demo's own client of the worker.
func (r *run) connection() (*client.Client, error) {
	return client.New(client.Options{Gateway: r.gatewayAddr, Worker: r.worker, Appraise: r.trust.Appraise, Clock: r.Clock})
}

// openJob opens a job, shows that the worker serves nothing for it, and
// releases it with the worker's verdict.
func (r *run) openJob(ctx context.Context) error {
	r.begin("job", "open a job with a deposit; the registry releases it on the verdict")
	c, j := r.chain, &r.rep.Job
	model, err := packVerity(r.packs, "model")
	if err != nil {
		return err
	}
	if j.ClientBefore, err = r.balance(ctx, c.tenant); err != nil {
		return err
	}
	out, err := r.command(ctx, "cocoon", r.wallet("job", "open",
		"--client-key", r.temp("vouchers.seed"), "--registry", c.registry.String(), "--payout", c.payout.String(),
		"--model", model.Root.String(), "--policy", r.policyHash.String(), "--price-cap", fmt.Sprint(uint64(demoPriceCap)),
		"--deposit", demoDeposit.String(), "--json")...)
	if err != nil {
		return err
	}
	var opened struct {
		Address toncell.Address `json:"address"`
	}
	if err := json.Unmarshal(out, &opened); err != nil {
		return fmt.Errorf("reading the job's report: %w", err)
	}
	c.job, j.Address, j.DepositNanoton = opened.Address, opened.Address.String(), uint64(demoDeposit)
	r.note("job %s with %s TON", c.job, demoDeposit)
	return r.release(ctx)
}

func (r *run) release(ctx context.Context) error {
	cl, err := r.connection()
	if err != nil {
		return err
	}
	peer, err := cl.Connect(ctx)
	if err != nil {
		return err
	}
	if err := r.refuseUnreleased(ctx, cl); err != nil {
		return err
	}
	if peer.VerdictCell == "" {
		return fault.New(fault.ExitInternal, "demo.verdict", "see the verifier's log", "the worker shows no verdict for contracts")
	}
	if err := writeFile(r.keep(fileVerdictCell), []byte(peer.VerdictCell+"\n")); err != nil {
		return err
	}
	if _, err := r.command(ctx, "cocoon", r.wallet("job", "release", r.chain.job.String(), "--verdict", r.keep(fileVerdictCell))...); err != nil {
		return err
	}
	s, _, err := r.chain.ledger.Job(ctx, r.chain.job)
	if err != nil {
		return err
	}
	_, r.rep.Job.Released = s.ReleasedTo([32]byte(r.worker))
	if !r.rep.Job.Released {
		return fault.New(fault.ExitInternal, "demo.release", "see cocoon job show", "the job is not released to the worker's receipt key")
	}
	r.note("released to receipt key %s", short(r.worker.String()))
	return nil
}

// refuseUnreleased asks the worker itself, without the client's own checks, to
// serve the job before its release.
func (r *run) refuseUnreleased(ctx context.Context, cl *client.Client) error {
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hello"}],"max_tokens":1}`, modelName)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://enclave/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Cocoon-Job", r.chain.job.String())
	tr := cl.Transport()
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("reading the worker's refusal: %w", err)
	}
	var e struct{ Error struct{ Code string } }
	_ = json.Unmarshal(doc, &e) // what is no refusal has no code
	if resp.StatusCode != http.StatusPaymentRequired || e.Error.Code == "" {
		return fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "asking for service before the release: %s: %.200s", resp.Status, doc)
	}
	r.also(&Refusal{Case: "unreleased", Step: "job", Code: e.Error.Code, Expected: "a released job", Actual: "a funded job", By: []string{"worker"}})
	return nil
}

// settle takes the last voucher, which hostd has kept and the worker confirms,
// and redeems it, as the worker's owner does.
func (r *run) settle(ctx context.Context) error {
	r.begin("settle", "the operator redeems the last voucher, which hostd has kept")
	v, err := r.keptVoucher(ctx)
	if err != nil {
		return err
	}
	doc, err := v.Marshal()
	if err != nil {
		return err
	}
	out, err := r.command(ctx, "cocoon", "job", "voucher", r.chain.job.String(), "--gateway", r.gatewayAddr,
		"--worker", r.worker.String(), "--policy", r.keep(fileCPolicy), "--manifests-from", "http://"+r.verifierAddr, "--ton-config", r.keep(fileTON))
	if err != nil {
		return err
	}
	if out = bytes.TrimSpace(out); !bytes.Equal(out, doc) {
		return fault.Mismatch(fault.ExitInternal, "demo.voucher", "the voucher that hostd kept", string(out), string(doc), "please report it")
	}
	if err := writeFile(r.keep(fileVoucher), doc); err != nil {
		return err
	}
	if err := r.redeem(ctx, v); err != nil {
		return err
	}
	// What anyone can check who has the files and a lite-server.
	_, err = r.command(ctx, "cocoon", "receipt", "verify", r.keep(fileReceipt), "--config", r.keep(fileTON),
		"--voucher", r.keep(fileVoucher), "--verdict", r.keep(fileVerdictCell), "--log", r.temp("receipts.log"))
	return err
}

// voucherLimit bounds the time from the client's voucher to hostd's disk.
const voucherLimit = time.Minute

// keptVoucher waits until hostd has the voucher for the answer.
func (r *run) keptVoucher(ctx context.Context) (*receipt.SignedVoucher, error) {
	book := vouchers.Book{Dir: filepath.Join(r.temp("hostd"), "vouchers")}
	ctx, cancel := context.WithTimeout(ctx, voucherLimit)
	defer cancel()
	for {
		kept, damaged, err := book.Read()
		if err = errors.Join(append(damaged, err)...); err != nil {
			return nil, err
		}
		for _, k := range kept {
			if k.Voucher.Voucher.Job == r.chain.job && k.Voucher.Voucher.ReceiptCount == r.rep.Receipt.Seq {
				return k.Voucher, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.ExitInternal, "demo.voucher", "see hostd's log and the VM's console", "waiting for the voucher in %s: %w", book.Dir, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// keepReceipt keeps the receipt that the client accepted for the answer.
func (r *run) keepReceipt(s *receipt.Signed) error {
	r.rep.Receipt = ReportReceipt{Valid: s.Verify(ed25519.PublicKey(r.worker[:])), Seq: s.Receipt.Seq, PromptTokens: s.Receipt.Tokens.Prompt,
		CompletionTokens: s.Receipt.Tokens.Completion, Cumulative: uint64(s.Receipt.Cumulative)}
	if !r.rep.Receipt.Valid {
		return fault.New(fault.ExitRefused, "receipt.signature", "see "+fileReceipt, "checking the receipt: the enclave's key did not sign it")
	}
	r.note("receipt %d: %d prompt and %d completion tokens, %s TON in all", s.Receipt.Seq, s.Receipt.Tokens.Prompt, s.Receipt.Tokens.Completion, s.Receipt.Cumulative)
	doc, err := s.Marshal()
	if err != nil {
		return err
	}
	return writeFile(r.keep(fileReceipt), doc)
}

func (r *run) redeem(ctx context.Context, v *receipt.SignedVoucher) error {
	c, j := r.chain, &r.rep.Job
	var err error
	if j.OperatorBefore, err = r.balance(ctx, c.payout); err != nil {
		return err
	}
	if j.EscrowBefore, err = r.balance(ctx, c.job); err != nil {
		return err
	}
	red, err := c.ledger.Redeem(ctx, c.operator, v)
	if err != nil {
		return err
	}
	if j.EscrowAfter, err = r.balance(ctx, c.job); err != nil {
		return err
	}
	// The message's change comes back to the operator in blocks of its own.
	if j.OperatorAfter, err = r.settled(ctx, c.payout); err != nil {
		return err
	}
	if j.ClientAfter, err = r.balance(ctx, c.tenant); err != nil {
		return err
	}
	j.RedeemedNanoton, j.EscrowStorage = uint64(red.Worker), uint64(red.Tx.Storage)
	j.RedeemFees = j.OperatorBefore + j.RedeemedNanoton - j.OperatorAfter
	if j.EscrowBefore-j.EscrowAfter != j.RedeemedNanoton+j.EscrowStorage {
		return fault.Mismatch(fault.ExitInternal, "demo.money", "what left the escrow", fmt.Sprint(j.RedeemedNanoton+j.EscrowStorage),
			fmt.Sprint(j.EscrowBefore-j.EscrowAfter), "please report it")
	}
	if j.RedeemedNanoton == 0 || j.RedeemedNanoton != r.rep.Receipt.Cumulative {
		return fault.Mismatch(fault.ExitInternal, "demo.money", "what the voucher paid", fmt.Sprint(r.rep.Receipt.Cumulative), fmt.Sprint(j.RedeemedNanoton), "please report it")
	}
	r.note("redeemed %s TON; operator %s -> %s TON, fees %s", coin.Nano(j.RedeemedNanoton), coin.Nano(j.OperatorBefore), coin.Nano(j.OperatorAfter), coin.Nano(j.RedeemFees))
	return r.keepProofs(ctx)
}

// settled waits until an account's balance has stopped changing.
func (r *run) settled(ctx context.Context, a toncell.Address) (uint64, error) {
	last, err := r.balance(ctx, a)
	for same := 0; err == nil && same < 3; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		var now uint64
		if now, err = r.balance(ctx, a); now == last {
			same++
		} else {
			same, last = 0, now
		}
	}
	return last, err
}

func (r *run) keepProofs(ctx context.Context) error {
	for file, a := range map[string]toncell.Address{fileRegistryProof: r.chain.registry, fileJobProof: r.chain.job} {
		doc, _, err := r.chain.client.ExportAccountProof(ctx, a.Addr())
		if err != nil {
			return err
		}
		if err := writeFile(r.keep(file), doc); err != nil {
			return err
		}
	}
	return nil
}
