package devnet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/fault"
)

// MaxWallets bounds the wallets of a new chain.
const MaxWallets = 256

// walletDir holds the wallets' keys inside the chain's directory.
const walletDir = "wallets"

// walletNanoton is what each wallet of a new chain owns: 10,000 TON.
var walletNanoton = big.NewInt(10_000_000_000_000)

// Wallet is one of the wallets that a chain was started with: V5R1, workchain 0,
// deployed at its first message.
type Wallet struct {
	Address string `json:"address"` // UQ…
	Key     string `json:"key"`     // file with the Ed25519 seed, 64 hex digits
}

// newIdentity makes the keys of a new chain.
func newIdentity(globalID int32, utime uint32, o Options) (*identity, error) {
	if o.Wallets < 0 || o.Wallets > MaxWallets {
		return nil, fault.New(fault.ExitInternal, "ton.devnet.wallets", fmt.Sprintf("name at most %d", MaxWallets), "making %d wallets", o.Wallets)
	}
	id := &identity{Format: storeFormat, GlobalID: globalID, Genesis: utime, Wallets: make([][]byte, o.Wallets)}
	seeds := map[string]*[]byte{"validator": &id.Validator, "server": &id.Server, "faucet": &id.Faucet}
	for i := range id.Wallets {
		seeds["wallet "+strconv.Itoa(i+1)] = &id.Wallets[i]
	}
	for name, seed := range seeds {
		if o.Seed != "" {
			sum := sha256.Sum256([]byte("cocoon-devnet-v1\x00" + name + "\x00" + o.Seed))
			*seed = sum[:]
			continue
		}
		*seed = make([]byte, ed25519.SeedSize)
		if _, err := rand.Read(*seed); err != nil {
			return nil, fmt.Errorf("making keys: %w", err)
		}
	}
	return id, nil
}

// check refuses keys of a wrong size, which a damaged store could hold.
func (id *identity) check() error {
	for _, seed := range append([][]byte{id.Validator, id.Server, id.Faucet}, id.Wallets...) {
		if len(seed) != ed25519.SeedSize {
			return corrupt(fmt.Errorf("a key has %d bytes", len(seed)))
		}
	}
	return nil
}

// accounts are the accounts of block 1: the faucet, and the wallets, which have
// coins but no code yet.
func (id *identity) accounts() (*augTree, error) {
	addr, err := faucetAddress(id.Faucet)
	if err != nil {
		return nil, err
	}
	faucet, err := faucetAccount(id.Faucet)
	if err != nil {
		return nil, err
	}
	tree := (*augTree)(nil).set(augAccounts, 256, addr.Data(), faucet, faucetNanoton)
	for _, seed := range id.Wallets {
		addr, err := walletAddress(seed, id.GlobalID)
		if err != nil {
			return nil, err
		}
		uninit := cell.BeginCell().MustStoreUInt(0, 2)
		tree = tree.set(augAccounts, 256, addr.Data(), newAccount(addr, walletNanoton, uninit), walletNanoton)
	}
	return tree, nil
}

func walletAddress(seed []byte, globalID int32) (*address.Address, error) {
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	addr, err := wallet.AddressFromPubKey(pub, wallet.ConfigV5R1Final{NetworkGlobalID: globalID}, 0)
	if err != nil {
		return nil, fmt.Errorf("deriving a wallet's address: %w", err)
	}
	return addr.Bounce(false), nil
}

// writeWalletKeys writes the wallets' keys to the directory, at each start: the
// store has them, so that a kill between the two loses nothing.
func (d *Devnet) writeWalletKeys() error {
	if len(d.id.Wallets) == 0 {
		return nil
	}
	dir := filepath.Join(d.dir, walletDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the wallets' directory: %w", err)
	}
	for i, seed := range d.id.Wallets {
		addr, err := walletAddress(seed, d.id.GlobalID)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, strconv.Itoa(i+1)+".key")
		if err := writeFile(path, []byte(hex.EncodeToString(seed)+"\n"), 0o600); err != nil {
			return err
		}
		d.wallets = append(d.wallets, Wallet{Address: addr.String(), Key: path})
	}
	return nil
}

// Wallets returns the wallets that the chain was started with.
func (d *Devnet) Wallets() []Wallet { return append([]Wallet(nil), d.wallets...) }
