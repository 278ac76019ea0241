package receipt

import (
	"crypto/ed25519"
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/coin"
	"cocoon/internal/hexbytes"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

// MaxVoucher bounds a voucher document.
const MaxVoucher = 2 << 10

const tagVoucher = 0x43565531

// Voucher is the client's promise to pay for receipts 1 to ReceiptCount.
// Amount is the total since the job was opened, so a replay gains nothing.
type Voucher struct {
	GlobalID     int32           `json:"global_id"` // TON network
	Job          toncell.Address `json:"job"`
	Seq          uint64          `json:"seq"` // each voucher has a higher one
	Amount       coin.Nano       `json:"amount"`
	ReceiptCount uint64          `json:"receipt_count"`
	ReceiptsRoot Hash            `json:"receipts_root"` // Merkle root of the receipts
	Verdict      Hash            `json:"verdict"`       // verdict hash; recorded by a release or renewal
}

// SignedVoucher is a voucher with the client's Ed25519 signature over the hash
// of its cell.
type SignedVoucher struct {
	Voucher   Voucher      `json:"voucher"`
	Signature hexbytes.Sig `json:"signature"`
}

// Cell returns the cell that is signed and redeemed.
func (v *Voucher) Cell() (*cell.Cell, error) {
	claim, err := toncell.NewBuilder().Bits256(v.ReceiptsRoot).Bits256(v.Verdict).Cell()
	if err != nil {
		return nil, fmt.Errorf("building a voucher's claim: %w", err)
	}
	out, err := toncell.NewBuilder().Uint(tagVoucher, 32).Int32(v.GlobalID).Addr(v.Job).Uint(v.Seq, 64).
		Coins(uint64(v.Amount)).Uint(v.ReceiptCount, 64).Ref(claim).Cell()
	if err != nil {
		return nil, fmt.Errorf("building a voucher: %w", err)
	}
	return out, nil
}

// Sign signs the voucher with the client's key.
func (v Voucher) Sign(key ed25519.PrivateKey) (*SignedVoucher, error) {
	c, err := v.Cell()
	if err != nil {
		return nil, err
	}
	return &SignedVoucher{Voucher: v, Signature: hexbytes.Sig(ed25519.Sign(key, c.Hash()))}, nil
}

// Verify reports whether the client's key signed the voucher.
func (s *SignedVoucher) Verify(key ed25519.PublicKey) bool {
	c, err := s.Voucher.Cell()
	return err == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, c.Hash(), s.Signature[:])
}

// Marshal returns the signed voucher's JCS.
func (s *SignedVoucher) Marshal() ([]byte, error) { return jcs.Marshal(s) }

// ParseVoucher reads a signed voucher from an untrusted source. It checks
// form, not signature.
func ParseVoucher(doc []byte) (*SignedVoucher, error) {
	var s SignedVoucher
	if err := jcs.DecodeCanonical(doc, MaxVoucher, &s); err != nil {
		return nil, malformed("voucher", err)
	}
	if s.Voucher.Seq < 1 || s.Voucher.Seq > maxNumber || s.Voucher.ReceiptCount > maxNumber {
		return nil, malformed("voucher", fmt.Errorf("seq %d, receipt count %d", s.Voucher.Seq, s.Voucher.ReceiptCount))
	}
	return &s, nil
}
