// Package receipt is the off-chain half of a job: the receipt that an enclave
// signs for every response, the cumulative voucher that the client signs for
// its receipts, and the books that both sides keep (DESIGN section 4,
// "Receipt"; the voucher's cells are in docs/contracts.md). Receipts are
// JCS documents; the Merkle tree over them is RFC 6962's.
package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

// Type is the receipt's first member.
const Type = "cocoon-receipt-v2"

// Limits of a receipt.
const (
	MaxSize   = 4 << 10
	maxCount  = 1 << 32   // tokens of one kind
	maxNumber = 1<<53 - 1 // largest exact JSON number
	million   = 1_000_000 // prices are per million tokens
	maxPrice  = 1 << 50   // nanoton per million tokens
)

// Hash is 32 bytes, lower-case hex in JSON.
type Hash = hexbytes.Hash

// Tokens counts one response's tokens by kind.
type Tokens struct {
	Prompt     uint64 `json:"prompt"`     // all prompt tokens
	Cached     uint64 `json:"cached"`     // of these, found in a cache
	Completion uint64 `json:"completion"` // all generated tokens
	Reasoning  uint64 `json:"reasoning"`  // of these, hidden reasoning
}

// Price is nanoton per million tokens, by kind: prompt tokens that were not
// cached, those that were, generated tokens without reasoning, reasoning.
type Price struct {
	Prompt     uint64 `json:"prompt"`
	Cached     uint64 `json:"cached"`
	Completion uint64 `json:"completion"`
	Reasoning  uint64 `json:"reasoning"`
}

// Max returns the price of the dearest kind, which the job's cap bounds.
func (p Price) Max() uint64 { return max(p.Prompt, p.Cached, p.Completion, p.Reasoning) }

// Bill returns what a response costs: the sum of count × price, per million,
// rounded up to a whole nanoton once.
func (p Price) Bill(t Tokens) (coin.Nano, error) {
	if t.Cached > t.Prompt || t.Reasoning > t.Completion || t.Prompt > maxCount || t.Completion > maxCount || p.Max() > maxPrice {
		return 0, fmt.Errorf("billing %+v at %+v: impossible counts or prices", t, p)
	}
	var hi, lo uint64
	for _, part := range [4][2]uint64{
		{t.Prompt - t.Cached, p.Prompt}, {t.Cached, p.Cached},
		{t.Completion - t.Reasoning, p.Completion}, {t.Reasoning, p.Reasoning},
	} {
		h, l := bits.Mul64(part[0], part[1])
		var carry uint64
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	lo, carry := bits.Add64(lo, million-1, 0)
	hi += carry
	if hi >= million {
		return 0, fmt.Errorf("billing %+v at %+v: amount over 2^64", t, p)
	}
	q, _ := bits.Div64(hi, lo, million)
	return coin.Nano(q), nil
}

// Receipt says what an enclave delivered for a job and what is owed in total.
type Receipt struct {
	Type       string          `json:"type"`
	Job        toncell.Address `json:"job"`
	Seq        uint64          `json:"seq"`             // 1, 2, 3 … within the job
	Salt       Hash            `json:"salt"`            // random: a published leaf tells nothing about the prompt
	Request    Hash            `json:"request_sha256"`  // of the exact request body
	Response   Hash            `json:"response_sha256"` // of the exact response body as sent
	ModelRoot  Hash            `json:"model_root"`
	Manifest   Hash            `json:"manifest"`
	Tokens     Tokens          `json:"tokens"`
	Price      Price           `json:"price"`
	Cumulative coin.Nano       `json:"cumulative"` // owed for receipts 1 to seq, nanoton
	Verdict    Hash            `json:"verdict"`    // verdict hash under which the receipt key works
	Cancelled  bool            `json:"cancelled"`  // the response ended early; delivered tokens are billed
	Time       time.Time       `json:"time"`       // whole seconds, UTC
}

// Signed is a receipt with the enclave's signature over its statement.
type Signed struct {
	Receipt   Receipt      `json:"receipt"`
	Signature hexbytes.Sig `json:"signature"`
}

// check refuses what no enclave would write.
func (r *Receipt) check() error {
	var errs []error
	bad := func(is bool, what string) {
		if is {
			errs = append(errs, errors.New(what))
		}
	}
	bad(r.Type != Type, "type is "+r.Type)
	bad(r.Seq < 1 || r.Seq > maxNumber, "seq out of range")
	bad(r.Time.Nanosecond() != 0 || r.Time.Location() != time.UTC, "time is not whole seconds of UTC")
	if _, err := r.Price.Bill(r.Tokens); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Hash returns SHA-256 of the receipt's JCS.
func (r *Receipt) Hash() (Hash, error) {
	doc, err := jcs.Marshal(r)
	if err != nil {
		return Hash{}, fmt.Errorf("hashing a receipt: %w", err)
	}
	return sha256.Sum256(doc), nil
}

// written is a receipt that was just signed, with the texts that were made on
// the way: whoever waits for the receipt waits for each of them.
type written struct {
	*Signed
	plain []byte // the receipt's JCS
	doc   []byte // what Marshal makes of Signed
}

// tagStatement begins a statement; it keeps a receipt's signature from being
// good for anything else that the receipt key signs.
const tagStatement = 0x43525331

// statement returns what the receipt key signs: the hash of a cell of job,
// number and the receipt's hash, so that a contract, which cannot read JSON,
// can tell two receipts of one number apart. The cell has 77 whole bytes and
// no references: its hash is SHA-256 over the descriptors 00 9a and the bytes.
func (r *Receipt) statement() ([]byte, error) {
	hash, err := r.Hash()
	if err != nil {
		return nil, err
	}
	return r.statementOf(hash), nil
}

func (r *Receipt) statementOf(hash Hash) []byte {
	b := make([]byte, 0, 79)
	b = append(b, 0x00, 0x9a)
	b = binary.BigEndian.AppendUint32(b, tagStatement)
	b = append(b, byte(r.Job.Workchain))
	b = append(b, r.Job.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	sum := sha256.Sum256(append(b, hash[:]...))
	return sum[:]
}

// Sign signs a receipt with the enclave's receipt key.
func Sign(key ed25519.PrivateKey, r Receipt) (*Signed, error) {
	w, err := write(key, r)
	if err != nil {
		return nil, err
	}
	return w.Signed, nil
}

func write(key ed25519.PrivateKey, r Receipt) (*written, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("signing a receipt: %w", err)
	}
	plain, err := jcs.Marshal(&r)
	if err != nil {
		return nil, fmt.Errorf("signing a receipt: %w", err)
	}
	sig := hexbytes.Sig(ed25519.Sign(key, r.statementOf(sha256.Sum256(plain))))
	// The members of Signed in the order of RFC 8785.
	doc := make([]byte, 0, len(plain)+160)
	doc = append(append(doc, `{"receipt":`...), plain...)
	doc = append(hex.AppendEncode(append(doc, `,"signature":"`...), sig[:]), `"}`...)
	return &written{&Signed{Receipt: r, Signature: sig}, plain, doc}, nil
}

// Verify reports whether the receipt key signed the receipt.
func (s *Signed) Verify(key ed25519.PublicKey) bool {
	msg, err := s.Receipt.statement()
	return err == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, msg, s.Signature[:])
}

// Contradicts reports whether two receipts have one job and number and say
// different things: an enclave that is what it seems never signs such a pair.
func (s *Signed) Contradicts(o *Signed) bool {
	return s.Receipt.Job == o.Receipt.Job && s.Receipt.Seq == o.Receipt.Seq && s.Receipt != o.Receipt
}

// Leaf returns the receipt's leaf in the job's Merkle tree. The signature is
// left out: the leaf stands for what was said, in whatever form it was signed.
func (s *Signed) Leaf() (Hash, error) {
	doc, err := jcs.Marshal(s.Receipt)
	if err != nil {
		return Hash{}, err
	}
	return LeafHash(doc), nil
}

// Marshal returns the signed receipt's JCS.
func (s *Signed) Marshal() ([]byte, error) { return jcs.Marshal(s) }

// Parse reads a signed receipt from an untrusted source. It checks form, not
// signature.
func Parse(doc []byte) (*Signed, error) {
	var s Signed
	if err := jcs.DecodeCanonical(doc, MaxSize, &s); err != nil {
		return nil, malformed("receipt", err)
	}
	if err := s.Receipt.check(); err != nil {
		return nil, malformed("receipt", err)
	}
	return &s, nil
}

func malformed(what string, err error) error {
	return fault.New(fault.ExitParse, what+".malformed", "send the "+what+" as it was received, byte for byte", "reading a %s: %w", what, err)
}
