package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/internal/keyfile"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

func scriptKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("script key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func scriptPublic(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }

// setupJob gives the scripts the keys and hashes of a worker and a verifier.
func setupJob(env *testscript.Env) error {
	verifier, receiptKey := scriptPublic(scriptKey("verifier")), scriptPublic(scriptKey("receipt"))
	env.Setenv("VERIFIER", hex.EncodeToString(verifier[:]))
	env.Setenv("RECEIPT_KEY", hex.EncodeToString(receiptKey[:]))
	env.Setenv("PAYOUT", toncell.Address{Hash: sha256Of("payout")}.String())
	for name, v := range map[string][32]byte{"MANIFEST": sha256Of("manifest"), "MODEL": sha256Of("model"), "POLICY": sha256Of("policy")} {
		env.Setenv(name, hex.EncodeToString(v[:]))
	}
	return nil
}

// cmdEnclave plays the parts that are not the command line's: "enclave JOB
// DIR" reads "job show --json" from the file JOB and writes a verdict for its
// worker, one that contradicts it, their verifier's key, and a receipt with its
// bodies and voucher, into DIR. "enclave JOB
// DIR expired" writes a verdict whose time is over.
func cmdEnclave(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: enclave JOB DIR [expired]")
	}
	var shown struct {
		Address toncell.Address `json:"address"`
		Time    time.Time       `json:"time"`
		State   struct {
			Terms job.Terms `json:"terms"`
		} `json:"state"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &shown))
	terms := shown.State.Terms
	c := verdictcell.Common{
		GlobalID: devnet.GlobalID, Registry: terms.Registry, TrustClass: verdictcell.VTPM,
		ReceiptKey: scriptPublic(scriptKey("receipt")), Payout: terms.Payout, Manifest: sha256Of("manifest"),
		ModelRoot: terms.ModelRoot, PolicyHash: terms.PolicyHash, EvidenceSHA256: sha256Of("evidence"),
	}
	hash, err := c.Hash()
	ts.Check(err)
	from := shown.Time.Add(-time.Minute)
	if len(args) == 3 && args[2] == "expired" {
		from = shown.Time.Add(-2 * time.Hour)
	}
	sig, err := verdictcell.Sign(scriptKey("verifier"), hash, uint64(from.Unix()), uint64(from.Add(time.Hour).Unix()))
	ts.Check(err)
	v, err := verdictcell.New(c, sig)
	ts.Check(err)
	text, err := v.MarshalText()
	ts.Check(err)
	dir := ts.MkAbs(args[1])
	write := func(name string, b []byte, err error) {
		ts.Check(err)
		ts.Check(os.MkdirAll(dir, 0o755))
		ts.Check(os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	write("verdict", text, nil)
	// The same evidence, said to be another worker's: no honest verifier signs both.
	other := c
	other.Payout.Hash[0] ^= 1
	hash2, err := other.Hash()
	ts.Check(err)
	sig, err = verdictcell.Sign(scriptKey("verifier"), hash2, uint64(from.Unix()), uint64(from.Add(time.Hour).Unix()))
	ts.Check(err)
	v, err = verdictcell.New(other, sig)
	ts.Check(err)
	text, err = v.MarshalText()
	write("contradicting-verdict", text, err)
	ts.Check(keyfile.Write(filepath.Join(dir, "verifier.key"), scriptKey("verifier")))

	book, err := receipt.OpenBook(receipt.BookOptions{
		Job: shown.Address, GlobalID: devnet.GlobalID, ClientKey: terms.Key(), Key: scriptKey("receipt"),
		ModelRoot: terms.ModelRoot, Manifest: c.Manifest, Verdict: hash, Price: receipt.Price{Prompt: 1000, Completion: 900000},
		Deposit: coin.TON, Credit: coin.TON, Path: filepath.Join(dir, "book.log"), Clock: func() time.Time { return shown.Time },
	})
	ts.Check(err)
	request, response := []byte(`{"q":1}`), []byte("data: hi\n\n")
	write("request", request, nil)
	write("response", response, nil)
	account, err := book.Open(coin.TON / 2)
	ts.Check(err)
	s, err := account.Issue(receipt.Delivery{Request: sha256.Sum256(request), Response: sha256.Sum256(response), Tokens: receipt.Tokens{Prompt: 7, Completion: 100}})
	ts.Check(err)
	doc, err := s.Marshal()
	write("receipt.json", doc, err)
	write("receipt.b64", []byte(base64.StdEncoding.EncodeToString(doc)), nil)
	ts.Check(book.Close())
	// The same number again, as no enclave that is what it seems would sign it.
	lie := s.Receipt
	lie.Tokens.Completion++
	second, err := receipt.Sign(scriptKey("receipt"), lie)
	ts.Check(err)
	lied, err := second.Marshal()
	write("contradiction.json", lied, err)

	seed, err := hex.DecodeString(ts.ReadFile("client.key")[:64])
	ts.Check(err)
	payer, err := receipt.OpenPayer(receipt.PayerOptions{
		Job: shown.Address, GlobalID: devnet.GlobalID, Key: ed25519.NewKeyFromSeed(seed), ReceiptKey: c.ReceiptKey[:],
		ModelRoot: terms.ModelRoot, Manifest: c.Manifest, Verdict: hash, PriceCap: terms.PriceCap, Deposit: coin.TON, Path: filepath.Join(dir, "client.log"),
	})
	ts.Check(err)
	sum := receipt.Hash(sha256.Sum256(response))
	sv, err := payer.Accept(s, receipt.Expect{Request: sha256.Sum256(request), Response: &sum, Most: coin.TON})
	ts.Check(err)
	doc, err = sv.Marshal()
	write("voucher.json", doc, err)
	ts.Check(payer.Close())
}
