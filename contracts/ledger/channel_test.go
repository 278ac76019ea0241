package ledger_test

import (
	"os"
	"path/filepath"
	"testing"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
)

// The whole channel: receipts signed in the enclave, vouchers signed by the
// client, the last one redeemed, and all of it checked from files alone.
func TestDevnetReceiptsVouchersAndRedemptionFitTogether(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	st := w.release()
	verdict, ok := st.ReleasedTo(job.Hash(public(key("receipt"))))
	if !ok {
		t.Fatal("not released")
	}
	dir := t.TempDir()
	price := receipt.Price{Prompt: 400_000, Completion: 1_000_000}
	book, err := receipt.OpenBook(receipt.BookOptions{
		Job: w.job, GlobalID: -1009, ClientKey: st.Terms.Key(), Key: key("receipt"), ModelRoot: st.Terms.ModelRoot,
		Manifest: sum("manifest"), Verdict: verdict, Price: price, Deposit: coin.Nano(st.Deposited), Credit: 10_000,
		Path: filepath.Join(dir, "book.log"), Clock: w.net.Now,
	})
	w.ok(err)
	payer, err := receipt.OpenPayer(receipt.PayerOptions{
		Job: w.job, GlobalID: -1009, Key: key("client key"), ReceiptKey: public(key("receipt")), ModelRoot: st.Terms.ModelRoot,
		Manifest: sum("manifest"), Verdict: verdict, PriceCap: st.Terms.PriceCap, Deposit: coin.Nano(st.Deposited),
		Path: filepath.Join(dir, "client.log"),
	})
	w.ok(err)
	for i := range uint64(5) {
		account, err := book.Open(2000)
		w.ok(err)
		d := receipt.Delivery{Request: sum("q"), Response: sum("a"), Tokens: receipt.Tokens{Prompt: 10, Completion: 100 * (i + 1)}}
		s, err := account.Issue(d)
		w.ok(err)
		doc, err := s.Marshal()
		w.ok(err)
		parsed, err := receipt.Parse(doc)
		w.ok(err)
		v, err := payer.Accept(parsed, receipt.Expect{Request: d.Request, Response: &d.Response, Most: 2000})
		w.ok(err)
		w.ok(book.Accept(v))
	}
	const owed = 5*4 + 100 + 200 + 300 + 400 + 500
	red, err := w.ledger.Redeem(w.ctx, w.worker, book.Voucher())
	w.ok(err)
	fee := coin.Nano(w.terms.Fee(owed))
	if red.Worker != owed-fee || w.balance(w.payout) != owed-fee || w.balance(w.gateway) != fee {
		t.Errorf("worker %d, gateway %d of %d", w.balance(w.payout), w.balance(w.gateway), owed)
	}

	// Offline: config, account proof, receipt log.
	cfg, err := w.net.ConfigJSON()
	w.ok(err)
	bundle, _, err := w.chain.ExportAccountProof(w.ctx, w.job.Addr())
	w.ok(err)
	w.ok(book.Close())
	w.ok(payer.Close())
	w.ok(w.net.Close())
	proven, err := chain.VerifyAccountProof(bundle, cfg, w.job.Addr())
	w.ok(err)
	s, err := ledger.JobOf(proven, w.job)
	w.ok(err)
	leaves, err := receipt.ReadLeaves(filepath.Join(dir, "client.log"))
	w.ok(err)
	if s.Paid != owed || s.ReceiptCount != 5 || s.ReceiptsRoot != receipt.Root(leaves) {
		t.Errorf("on chain: %d paid for %d receipts, root %s", s.Paid, s.ReceiptCount, s.ReceiptsRoot)
	}
	if s.Verdicts[verdict].ReceiptKey != job.Hash(public(key("receipt"))) {
		t.Error("the verdict on chain names another receipt key")
	}
	if _, err := os.Stat(filepath.Join(dir, "book.log")); err != nil {
		t.Error(err)
	}
	for i, leaf := range leaves {
		path, err := receipt.Prove(leaves, uint64(i))
		w.ok(err)
		if !receipt.Included(leaf, uint64(i), s.ReceiptCount, path, s.ReceiptsRoot) {
			t.Errorf("receipt %d is not in the root on chain", i+1)
		}
	}
}
