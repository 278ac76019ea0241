package proof

import (
	"encoding/hex"
	"fmt"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// MaxBundle bounds a serialised Bundle, in bytes.
const MaxBundle = 32 << 20

// BundleType is the media type of a serialised Bundle.
const BundleType = "application/vnd.cocoon.account-proof+json"

// Bundle is a self-contained proof of one account's state: the signed links
// from a block that the reader trusts to the master block, and the Merkle
// proofs from there to the account. It is kept as JCS; bags of cells are
// base64 in it, hashes lower-case hex.
type Bundle struct {
	Type    string       `json:"type"` // BundleType
	Address string       `json:"address"`
	Trusted BlockName    `json:"trusted"`
	Links   []BundleLink `json:"links"`
	Shard   [][]byte     `json:"shard_proof"` // two bags, or none for the masterchain
	Account [][]byte     `json:"account_proof"`
	State   []byte       `json:"state"` // one bag, empty for an absent account
}

// BlockName names a master block.
type BlockName struct {
	Seqno    uint32 `json:"seqno"`
	RootHash string `json:"root_hash"`
	FileHash string `json:"file_hash"`
}

// BundleLink is a Link.
type BundleLink struct {
	To               BlockName         `json:"to"`
	KeyBlock         bool              `json:"key_block"`
	HeaderProof      []byte            `json:"header_proof"`
	ConfigProof      []byte            `json:"config_proof"`
	ValidatorSetHash uint32            `json:"validator_set_hash"`
	CatchainSeqno    uint32            `json:"catchain_seqno"`
	Signatures       []BundleSignature `json:"signatures"`
	Simplex          *BundleSimplex    `json:"simplex,omitempty"`
}

// BundleSimplex is a Simplex.
type BundleSimplex struct {
	Session   string `json:"session"` // hex
	Slot      uint32 `json:"slot"`
	Candidate []byte `json:"candidate"`
}

// BundleSignature is one validator's Ed25519 signature.
type BundleSignature struct {
	Node      string `json:"node"` // short id of the validator's key, hex
	Signature []byte `json:"signature"`
}

// Name returns a master block's name.
func Name(id *ton.BlockIDExt) BlockName {
	return BlockName{id.SeqNo, hex.EncodeToString(id.RootHash), hex.EncodeToString(id.FileHash)}
}

// ID returns the id of the master block with this name.
func (n BlockName) ID() (ton.BlockIDExt, error) {
	root, err1 := hash32(n.RootHash)
	file, err2 := hash32(n.FileHash)
	if err1 != nil || err2 != nil {
		return ton.BlockIDExt{}, fmt.Errorf("reading the name of block %d: bad hash", n.Seqno)
	}
	return ton.BlockIDExt{Workchain: address.MasterchainID, Shard: -1 << 63, SeqNo: n.Seqno, RootHash: root, FileHash: file}, nil
}

func hash32(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
		return nil, fmt.Errorf("%q is not a lower-case 32-byte hash", s)
	}
	return b, nil
}

// NewBundle packs an answer that CheckAccount accepted after Follow accepted
// the links.
func NewBundle(addr *address.Address, trusted ton.BlockIDExt, links []Link, a *AccountAnswer) ([]byte, error) {
	b := Bundle{Type: BundleType, Address: addr.StringRaw(), Trusted: Name(&trusted), Links: []BundleLink{},
		Shard: bags(a.ShardProof), Account: bags(a.Proof), State: []byte{}}
	if a.State != nil {
		b.State = a.State.ToBOCWithFlags(false)
	}
	for _, l := range links {
		bl := BundleLink{To: Name(&l.To), KeyBlock: l.ToKey, HeaderProof: l.Dest, ConfigProof: l.Config,
			ValidatorSetHash: uint32(l.Signatures.ValidatorSetHash), CatchainSeqno: uint32(l.Signatures.CatchainSeqno)}
		for _, s := range l.Signatures.Signatures {
			bl.Signatures = append(bl.Signatures, BundleSignature{hex.EncodeToString(s.NodeIDShort), s.Signature})
		}
		if l.Simplex != nil {
			bl.Simplex = &BundleSimplex{hex.EncodeToString(l.Simplex.Session[:]), l.Simplex.Slot, l.Simplex.Candidate}
		}
		b.Links = append(b.Links, bl)
	}
	out, err := jcs.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("writing an account proof: %w", err)
	}
	return out, nil
}

func bags(cs []*cell.Cell) [][]byte {
	out := [][]byte{}
	for _, c := range cs {
		out = append(out, c.ToBOCWithFlags(false))
	}
	return out
}

// Verify checks a serialised Bundle offline. trusted is the block that the
// reader trusts, the init block of a global.config.json; a bundle that starts
// elsewhere is refused. The address comes from the caller, too: a proof about
// another account is no answer.
//
// Codes: ton.proof.malformed, ton.proof.untrusted, ton.proof.address,
// ton.proof.invalid, ton.proof.unproven.
func Verify(doc []byte, trusted ton.BlockIDExt, addr *address.Address) (*State, error) {
	var b Bundle
	if err := jcs.DecodeCanonical(doc, MaxBundle, &b); err != nil {
		return nil, malformed(err)
	}
	if b.Type != BundleType {
		return nil, fault.Mismatch(fault.ExitParse, "ton.proof.malformed", "type of the document", BundleType, b.Type, "")
	}
	if want := Name(&trusted); b.Trusted != want {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.proof.untrusted", "block that the proof starts at",
			fmt.Sprintf("%d %s", want.Seqno, want.RootHash), fmt.Sprintf("%d %s", b.Trusted.Seqno, b.Trusted.RootHash),
			"use the global.config.json of the network that the proof is from")
	}
	if b.Address != addr.StringRaw() {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.proof.address", "account", addr.StringRaw(), b.Address,
			"ask for a proof of this account")
	}
	links, answer, err := b.decode()
	if err != nil {
		return nil, malformed(err)
	}
	master, err := Follow(trusted, links)
	if err != nil {
		return nil, Refusal(err)
	}
	st, err := CheckAccount(&master, addr, answer)
	if err != nil {
		return nil, Refusal(err)
	}
	return st, nil
}

func malformed(err error) error {
	return fault.New(fault.ExitParse, "ton.proof.malformed", "export the proof again", "reading an account proof: %w", err)
}

// Refusal gives an error of this package its code: ton.proof.unproven for
// ErrUnproven, else ton.proof.invalid.
func Refusal(err error) error {
	if isUnproven(err) {
		return fault.New(fault.ExitRefused, "ton.proof.unproven", "ask another lite-server",
			"checking an account proof: %w", err)
	}
	return fault.New(fault.ExitRefused, "ton.proof.invalid", "ask another lite-server: this one lies, or serves another network",
		"checking an account proof: %w", err)
}

func (b *Bundle) decode() ([]Link, *AccountAnswer, error) {
	if len(b.Links) > MaxLinks {
		return nil, nil, fmt.Errorf("%d links", len(b.Links))
	}
	var links []Link
	for _, l := range b.Links {
		to, err := l.To.ID()
		if err != nil {
			return nil, nil, err
		}
		link := Link{To: to, ToKey: l.KeyBlock, Dest: l.HeaderProof, Config: l.ConfigProof, Signatures: ton.SignatureSet{
			ValidatorSetHash: int32(l.ValidatorSetHash), CatchainSeqno: int32(l.CatchainSeqno)}}
		for _, s := range l.Signatures {
			node, err := hash32(s.Node)
			if err != nil {
				return nil, nil, err
			}
			link.Signatures.Signatures = append(link.Signatures.Signatures, ton.Signature{NodeIDShort: node, Signature: s.Signature})
		}
		if l.Simplex != nil {
			session, err := hash32(l.Simplex.Session)
			if err != nil {
				return nil, nil, err
			}
			link.Simplex = &Simplex{[32]byte(session), l.Simplex.Slot, l.Simplex.Candidate}
		}
		links = append(links, link)
	}
	a := &AccountAnswer{}
	var err error
	if a.ShardProof, err = cells(b.Shard); err != nil {
		return nil, nil, err
	}
	if a.Proof, err = cells(b.Account); err != nil {
		return nil, nil, err
	}
	if len(b.State) > 0 {
		one, err := DecodeBoC(b.State, 1)
		if err != nil {
			return nil, nil, err
		}
		a.State = one[0]
	}
	return links, a, nil
}

func cells(bags [][]byte) ([]*cell.Cell, error) {
	if len(bags) > 2 {
		return nil, fmt.Errorf("%d proofs", len(bags))
	}
	var out []*cell.Cell
	for _, b := range bags {
		one, err := DecodeBoC(b, 1)
		if err != nil {
			return nil, err
		}
		out = append(out, one[0])
	}
	return out, nil
}
