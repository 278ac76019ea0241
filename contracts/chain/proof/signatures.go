package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"

	"github.com/xssnick/tonutils-go/adnl"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
)

// What validators sign (ton_api.tl of the TON node). Under the older consensus
// it is the block's name; under Simplex it is the vote that makes a candidate
// final, inside an envelope that names the session, and the candidate names the
// block.
const (
	schemaBlockID      = "ton.blockId root_cell_hash:int256 file_hash:int256 = ton.BlockId"
	schemaDataToSign   = "consensus.dataToSign session_id:int256 data:bytes = consensus.DataToSign"
	schemaFinalizeVote = "consensus.simplex.finalizeVote id:consensus.CandidateId = consensus.simplex.UnsignedVote"
	schemaCandidateID  = "consensus.candidateId slot:int hash:int256 = consensus.CandidateId"
	schemaOrdinary     = "consensus.candidateHashDataOrdinary block:tonNode.blockIdExt collated_file_hash:int256 parent:consensus.CandidateParent = consensus.CandidateHashData"
	schemaEmpty        = "consensus.candidateHashDataEmpty block:tonNode.blockIdExt parent:consensus.candidateId = consensus.CandidateHashData"
	schemaParent       = "consensus.candidateParent id:consensus.CandidateId = consensus.CandidateParent"
	schemaNoParent     = "consensus.candidateWithoutParents = consensus.CandidateParent"
)

// Sizes of TL values, in bytes.
const (
	sizeBlock       = 4 + 8 + 4 + 32 + 32
	sizeCandidateID = 4 + 32
	// MaxCandidate bounds a candidate's description; the longest known form
	// takes 160 bytes.
	MaxCandidate = 1024
)

// Simplex is what a signature set of the Simplex consensus carries beside the
// signatures (liteServer.signatureSet.simplex).
type Simplex struct {
	Session   [32]byte
	Slot      uint32
	Candidate []byte // consensus.CandidateHashData, boxed
}

func tlID(b []byte, schema string) []byte { return binary.LittleEndian.AppendUint32(b, tl.CRC(schema)) }

// signedMessage returns the bytes that the validators of a link signed.
func (l *Link) signedMessage() ([]byte, error) {
	if l.Simplex == nil {
		return append(append(tlID(nil, schemaBlockID), l.To.RootHash...), l.To.FileHash...), nil
	}
	// The vote names the candidate by its hash only: without a look inside it,
	// the signatures of one block would do for any other.
	block, err := candidateBlock(l.Simplex.Candidate)
	if err != nil {
		return nil, err
	}
	if !block.Equals(&l.To) {
		return nil, fmt.Errorf("the signed candidate is block %d %x", block.SeqNo, block.RootHash)
	}
	hash := sha256.Sum256(l.Simplex.Candidate)
	vote := tlID(tlID(nil, schemaFinalizeVote), schemaCandidateID)
	vote = append(binary.LittleEndian.AppendUint32(vote, l.Simplex.Slot), hash[:]...)
	return append(append(tlID(nil, schemaDataToSign), l.Simplex.Session[:]...), tl.ToBytes(vote)...), nil
}

// candidateBlock reads the block that a candidate stands for, and refuses
// anything around it that the schema does not have. An empty candidate stands
// for the block it extends: to make it final makes that block final.
func candidateBlock(b []byte) (*ton.BlockIDExt, error) {
	bad := errors.New("the signed candidate is malformed")
	if len(b) < 4+sizeBlock || len(b) > MaxCandidate {
		return nil, bad
	}
	id, rest := binary.LittleEndian.Uint32(b), b[4+sizeBlock:]
	switch id {
	case tl.CRC(schemaEmpty):
		if len(rest) != sizeCandidateID {
			return nil, bad
		}
	case tl.CRC(schemaOrdinary):
		if len(rest) < 32+4 {
			return nil, bad
		}
		parent := rest[32:]
		whole := tlID(tlID(nil, schemaParent), schemaCandidateID)
		with := len(parent) == len(whole)+sizeCandidateID && bytes.HasPrefix(parent, whole)
		if !with && !bytes.Equal(parent, tlID(nil, schemaNoParent)) {
			return nil, bad
		}
	default:
		return nil, fmt.Errorf("the signed candidate has the unknown form %08x", id)
	}
	v := b[4:]
	return &ton.BlockIDExt{
		Workchain: int32(binary.LittleEndian.Uint32(v)), Shard: int64(binary.LittleEndian.Uint64(v[4:])),
		SeqNo: binary.LittleEndian.Uint32(v[12:]), RootHash: v[16:48], FileHash: v[48:80],
	}, nil
}

// checkSignatures demands distinct, valid signatures of validators that hold
// more than two thirds of the weight.
func (l *Link) checkSignatures(validators []*tlb.ValidatorAddr) error {
	set := ton.ValidatorSetHashable{CCSeqno: uint32(l.Signatures.CatchainSeqno)}
	byNode := map[string]*tlb.ValidatorAddr{}
	total, signed := new(big.Int), new(big.Int)
	for _, v := range validators {
		if len(v.PublicKey.Key) != ed25519.PublicKeySize {
			return errors.New("a validator's key is malformed")
		}
		id, err := tl.Hash(adnl.PublicKeyED25519{Key: v.PublicKey.Key})
		if err != nil {
			return fmt.Errorf("naming a validator: %w", err)
		}
		set.Validators = append(set.Validators, ton.ValidatorItemHashable{Key: v.PublicKey.Key, Weight: v.Weight, Addr: v.ADNLAddr})
		byNode[string(id)] = v
		total.Add(total, new(big.Int).SetUint64(v.Weight))
	}
	b, err := tl.Serialize(set, true)
	if err != nil {
		return fmt.Errorf("hashing the validator set: %w", err)
	}
	if got := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); got != uint32(l.Signatures.ValidatorSetHash) {
		return errors.New("signatures of another validator set")
	}
	msg, err := l.signedMessage()
	if err != nil {
		return err
	}
	for _, s := range l.Signatures.Signatures {
		v := byNode[string(s.NodeIDShort)]
		if v == nil {
			return fmt.Errorf("node %x is no validator, or signed twice", s.NodeIDShort)
		}
		delete(byNode, string(s.NodeIDShort))
		if !ed25519.Verify(v.PublicKey.Key, msg, s.Signature) {
			return fmt.Errorf("the signature of node %x is wrong", s.NodeIDShort)
		}
		signed.Add(signed, new(big.Int).SetUint64(v.Weight))
	}
	if total.Sign() == 0 || new(big.Int).Mul(signed, big.NewInt(3)).Cmp(new(big.Int).Lsh(total, 1)) <= 0 {
		return fmt.Errorf("validators with %s of the weight %s signed", signed, total)
	}
	return nil
}
