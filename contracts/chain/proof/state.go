package proof

import (
	"bytes"
	"fmt"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// State is a proven account at one master block.
type State struct {
	Account
	// Master is the block that proves it, Utime its time.
	Master   ton.BlockIDExt
	Utime    uint32
	GlobalID int32
	// Shard is the shard block whose state holds the account.
	Shard ton.BlockIDExt
}

// AccountAnswer is what a lite-server gives for an account
// (liteServer.accountState), decoded with DecodeBoC or checked with
// CheckCells. Of a masterchain account ShardProof is empty.
type AccountAnswer struct {
	ShardProof []*cell.Cell
	Proof      []*cell.Cell
	State      *cell.Cell // nil where the server says that there is none
}

// CheckAccount checks an answer about addr against a trusted master block. An
// account that provably does not exist has the status Absent; a server that
// hides the path gets ErrUnproven.
func CheckAccount(master *ton.BlockIDExt, addr *address.Address, a *AccountAnswer) (*State, error) {
	if master.Workchain != address.MasterchainID || addr.Type() != address.StdAddress {
		return nil, invalid("not a master block or not a standard address")
	}
	st := &State{Master: *master}
	proofs, root := a.Proof, master.RootHash
	shard := *master
	if addr.Workchain() != address.MasterchainID {
		b, s, err := blockAndState(a.ShardProof, master.RootHash)
		if err != nil {
			return nil, fmt.Errorf("checking the masterchain: %w", err)
		}
		if b.notMaster || b.seqno != master.SeqNo {
			return nil, invalid("block %d is not a master block", master.SeqNo)
		}
		st.Utime, st.GlobalID = b.utime, b.globalID
		id, err := findShard(s, addr)
		if err != nil {
			return nil, err
		}
		shard, root = *id, id.RootHash
	}
	st.Shard = shard
	b, s, err := blockAndState(proofs, root)
	if err != nil {
		return nil, fmt.Errorf("checking the shard: %w", err)
	}
	if b.workchain != addr.Workchain() || b.seqno != shard.SeqNo {
		return nil, invalid("shard block %d is another block", shard.SeqNo)
	}
	if addr.Workchain() == address.MasterchainID {
		st.Utime, st.GlobalID = b.utime, b.globalID
	} else if b.globalID != st.GlobalID {
		return nil, invalid("the shard is of network %d and the masterchain of %d", b.globalID, st.GlobalID)
	}
	return st, st.read(s, addr, a.State)
}

func blockAndState(proofs []*cell.Cell, rootHash []byte) (*block, *state, error) {
	if len(proofs) != 2 {
		return nil, nil, invalid("%d proofs instead of 2", len(proofs))
	}
	b, err := parseBlock(proofs[0], rootHash)
	if err != nil {
		return nil, nil, err
	}
	s, err := parseState(proofs[1], b)
	return b, s, err
}

// read finds the account in the shard's state.
func (st *State) read(s *state, addr *address.Address, claimed *cell.Cell) error {
	if s.accounts.GetType() != cell.OrdinaryCellType {
		return fmt.Errorf("%w: the accounts are pruned", ErrUnproven)
	}
	r := newReader(s.accounts)
	root := r.maybeRef()
	if r.err != nil {
		return invalid("parsing the accounts: %w", r.err)
	}
	leaf, err := lookup(root, addr.Data(), 256, skipBalance)
	if err != nil {
		return err
	}
	if leaf == nil {
		if claimed != nil {
			return invalid("a state is given for an account that does not exist")
		}
		none, err := ParseAccount(cell.BeginCell().MustStoreUInt(0, 1).EndCell())
		if err != nil {
			return err
		}
		st.Account = *none
		return nil
	}
	account := leaf.ref()
	lastHash := leaf.bytes(256)
	lastLT := leaf.uint(64)
	if leaf.err != nil {
		return invalid("parsing a shard account: %w", leaf.err)
	}
	if claimed == nil {
		return fmt.Errorf("%w: the account exists, but its state is withheld", ErrUnproven)
	}
	if !bytes.Equal(account.Hash(0), claimed.Hash()) || claimed.ToRawUnsafe().LevelMask.Mask != 0 {
		return invalid("the account's state is %x instead of %x", claimed.Hash(), account.Hash(0))
	}
	parsed, err := ParseAccount(claimed)
	if err != nil {
		return invalid("%w", err)
	}
	if parsed.Address == nil || parsed.Address.Workchain() != addr.Workchain() || !bytes.Equal(parsed.Address.Data(), addr.Data()) {
		return invalid("the state is of another account")
	}
	st.Account = *parsed
	st.LastLT, st.LastHash, st.Cell = lastLT, lastHash, claimed
	return nil
}

// Config checks a lite-server's proof of the network's config at a trusted
// master block (liteServer.configInfo) and returns the root of the dictionary.
func Config(master *ton.BlockIDExt, blockProof, stateProof *cell.Cell) (*cell.Cell, error) {
	_, s, err := blockAndState([]*cell.Cell{blockProof, stateProof}, master.RootHash)
	if err != nil {
		return nil, err
	}
	if s.custom == nil {
		return nil, invalid("not a masterchain state")
	}
	r := newReader(s.custom)
	r.magic(0xcc26, 16)
	r.maybeRef() // shard_hashes
	r.bytes(256) // the config contract's address
	dict := r.ref()
	if r.err != nil {
		return nil, invalid("parsing the masterchain's state: %w", r.err)
	}
	if dict.ToRawUnsafe().LevelMask.Mask != 0 || !ordinary(dict) {
		return nil, fmt.Errorf("%w: the config is pruned", ErrUnproven)
	}
	return dict, nil
}

// Param returns a config parameter.
func Param(config *cell.Cell, id uint32) (*cell.Cell, error) { return param(config, id) }
