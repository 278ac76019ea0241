package proof_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/lite"
	"cocoon/contracts/chain/proof"
)

// recording reads an answer of a mainnet lite-server. They are kept outside the
// repository, in the directory that $COCOON_TON_RECORDINGS names:
//
//	ordinary.tl  liteServer.partialBlockProof, key blocks 46894135 to 46920655
//	simplex.tl   liteServer.partialBlockProof, key blocks 59238081 to 59379986
//	active.json  parts of liteServer.accountState of an active account
//	absent.json  the same of an address that nobody uses
func recording(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("COCOON_TON_RECORDINGS")
	if dir == "" {
		t.Skip("no recordings of mainnet: $COCOON_TON_RECORDINGS is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recorded reads where recorded links start, and the links.
func recorded(t testing.TB, name string) (ton.BlockIDExt, []proof.Link) {
	t.Helper()
	b := recording(t, name+".tl")
	links, _, err := lite.BlockProof(b)
	if err != nil {
		t.Fatal(err)
	}
	from := b[8:88] // behind the constructor and a Bool
	return ton.BlockIDExt{Workchain: int32(binary.LittleEndian.Uint32(from)), Shard: int64(binary.LittleEndian.Uint64(from[4:])),
		SeqNo: binary.LittleEndian.Uint32(from[12:]), RootHash: from[16:48], FileHash: from[48:80]}, links
}

func TestMainnetBlocksAreFollowedUnderBothConsensusProtocols(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to uint32
		links    int
		simplex  bool
	}{
		"ordinary": {46894135, 46920655, 3, false},
		"simplex":  {59238081, 59379986, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			from, links := recorded(t, name)
			if from.SeqNo != tc.from || len(links) != tc.links || (links[0].Simplex != nil) != tc.simplex {
				t.Fatalf("%d links from block %d", len(links), from.SeqNo)
			}
			to, err := proof.Follow(from, links)
			if err != nil {
				t.Fatal(err)
			}
			if to.SeqNo != tc.to {
				t.Errorf("they end at block %d", to.SeqNo)
			}
			t.Logf("%d signatures", len(links[0].Signatures.Signatures))
		})
	}
}

func TestMainnetAccountsAreRead(t *testing.T) {
	for name, want := range map[string]proof.Status{"active": proof.Active, "absent": proof.Absent} {
		t.Run(name, func(t *testing.T) {
			b := recording(t, name+".json")
			var v struct {
				Account string `json:"account_id"`
				Seqno   string `json:"block_seqno"`
				Root    string `json:"block_root_hash"`
				Shard   string `json:"shard_block_root_hash"`
				ShardP  []byte `json:"shard_proof"`
				Proof   []byte `json:"proof"`
				State   []byte `json:"state"`
			}
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatal(err)
			}
			unhex := func(s string) []byte {
				b, err := hex.DecodeString(s)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			bag := func(b []byte, n int) []*cell.Cell {
				cs, err := proof.DecodeBoC(b, n)
				if err != nil {
					t.Fatal(err)
				}
				return cs
			}
			seqno, err := strconv.ParseUint(v.Seqno, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			master := ton.BlockIDExt{Workchain: -1, Shard: -1 << 63, SeqNo: uint32(seqno), RootHash: unhex(v.Root), FileHash: make([]byte, 32)}
			addr := address.NewAddress(0, 0, unhex(v.Account))
			a := &proof.AccountAnswer{ShardProof: bag(v.ShardP, 2), Proof: bag(v.Proof, 2)}
			if len(v.State) > 0 {
				a.State = bag(v.State, 1)[0]
			}
			st, err := proof.CheckAccount(&master, addr, a)
			if err != nil {
				t.Fatal(err)
			}
			if st.Status != want || st.GlobalID != -239 || hex.EncodeToString(st.Shard.RootHash) != v.Shard {
				t.Errorf("%s on network %d in shard %x", st.Status, st.GlobalID, st.Shard.RootHash)
			}
			if a.State != nil {
				a.State = nil
				if _, err := proof.CheckAccount(&master, addr, a); err == nil {
					t.Error("a withheld state passed for none")
				}
			}
		})
	}
}
