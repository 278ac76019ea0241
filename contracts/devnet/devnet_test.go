package devnet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"math/big"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"

	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
)

func ton9(n int64) *big.Int { return new(big.Int).Mul(big.NewInt(n), big.NewInt(1_000_000_000)) }

func start(t testing.TB, o devnet.Options) *devnet.Devnet {
	t.Helper()
	return devnettest.Start(t, o)
}

// library connects the unmodified client library.
func library(t testing.TB, d *devnet.Devnet, policy ton.ProofCheckPolicy) *ton.APIClient {
	t.Helper()
	pool := liteclient.NewConnectionPool()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // without a limit it has one of 3 s
	defer cancel()
	if err := pool.AddConnectionsFromConfig(ctx, d.Config()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Stop)
	api := ton.NewAPIClient(pool, policy)
	api.SetTrustedBlockFromConfig(d.Config())
	return api
}

func TestDevnetSatisfiesTheUnmodifiedClientInEachPolicy(t *testing.T) {
	d := start(t, devnet.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for name, policy := range map[string]ton.ProofCheckPolicy{
		"unsafe": ton.ProofCheckPolicyUnsafe, "fast": ton.ProofCheckPolicyFast, "secure": ton.ProofCheckPolicySecure,
	} {
		t.Run(name, func(t *testing.T) {
			api := library(t, d, policy)
			key := ed25519.NewKeyFromSeed(append(make([]byte, 31), byte(policy)+1))
			w, err := wallet.FromPrivateKey(api, key, wallet.ConfigV5R1Final{NetworkGlobalID: devnet.GlobalID})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Faucet(ctx, w.WalletAddress(), ton9(10)); err != nil {
				t.Fatal(err)
			}
			to := address.NewAddress(0, 0, append(make([]byte, 31), byte(policy)+100)).Bounce(false)
			msg := wallet.SimpleMessage(to, tlb.MustFromTON("1.5"), nil)
			msg.InternalMessage.Bounce = false
			tx, block, err := w.SendWaitTransaction(ctx, msg)
			if err != nil {
				t.Fatal(err)
			}
			if tx.OutMsgCount != 1 {
				t.Errorf("%d messages", tx.OutMsgCount)
			}
			master, err := api.GetMasterchainInfo(ctx)
			if err != nil {
				t.Fatal(err)
			}
			acc, err := api.GetAccount(ctx, master, to)
			if err != nil {
				t.Fatal(err)
			}
			if got := acc.State.Balance.Nano(); got.Cmp(big.NewInt(1_500_000_000)) != 0 {
				t.Errorf("the receiver has %s", got)
			}
			res, err := api.RunGetMethod(ctx, master, w.WalletAddress(), "seqno")
			if err != nil {
				t.Fatal(err)
			}
			if res.MustInt(0).Int64() != 1 {
				t.Errorf("seqno %s", res.MustInt(0))
			}
			checkBlocks(ctx, t, api, block, tx, w.WalletAddress())
		})
	}
}

// checkBlocks reads the chain around one transaction.
func checkBlocks(ctx context.Context, t *testing.T, api *ton.APIClient, master *ton.BlockIDExt, tx *tlb.Transaction, addr *address.Address) {
	t.Helper()
	shards, err := api.GetBlockShardsInfo(ctx, master)
	if err != nil || len(shards) != 1 {
		t.Fatalf("%d shards, %v", len(shards), err)
	}
	found := false
	for seqno := master.SeqNo; seqno > 0 && !found; seqno-- {
		shard, err := api.LookupBlock(ctx, 0, shards[0].Shard, seqno)
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := api.GetBlockTransactionsV2(ctx, shard, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.LT != tx.LT {
				continue
			}
			found = true
			got, err := api.GetTransaction(ctx, shard, addr, s.LT)
			if err != nil || string(got.Hash) != string(tx.Hash) {
				t.Errorf("the proven transaction differs: %v", err)
			}
		}
		var data ton.BlockData
		if err := api.Client().QueryLiteserver(ctx, ton.GetBlockData{ID: shard}, &data); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data.Payload); !bytes.Equal(sum[:], shard.FileHash) {
			t.Errorf("block %d has the file hash %x instead of %x", seqno, sum, shard.FileHash)
		}
	}
	if !found {
		t.Error("the transaction is in no block")
	}
	cfg, err := api.GetBlockchainConfig(ctx, master)
	if err != nil {
		t.Fatal(err)
	}
	if id := int32(cfg.Get(19).BeginParse().MustLoadInt(32)); id != devnet.GlobalID {
		t.Errorf("global id %d", id)
	}
	txs, err := api.ListTransactions(ctx, addr, 10, tx.LT, tx.Hash)
	if err != nil || len(txs) == 0 {
		t.Errorf("%d transactions, %v", len(txs), err)
	}
}
