// Package netconfig reads a global.config.json: the one file that says which
// TON network a program talks to, and from which block it trusts it on.
//
// In: the JSON document that the TON networks publish (and the devnet writes);
// out: lite-servers and the init block. The document has many more members,
// which are not read; duplicate members are refused.
package netconfig

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

const (
	// MaxSize bounds the document, in bytes.
	MaxSize = 1 << 20
	// MaxServers bounds the lite-servers in it.
	MaxServers = 256
)

// Server is one lite-server.
type Server struct {
	Addr string // host:port
	Key  string // Ed25519 public key, base64, as the library wants it
}

// Config is what is read of a global.config.json.
type Config struct {
	Servers []Server
	// InitBlock is the key block of the masterchain that trust starts at.
	InitBlock ton.BlockIDExt
}

type document struct {
	Servers []struct {
		IP   int64 `json:"ip"`
		Port int   `json:"port"`
		ID   struct {
			Type string `json:"@type"`
			Key  string `json:"key"`
		} `json:"id"`
	} `json:"liteservers"`
	Validator struct {
		InitBlock struct {
			Workchain int32  `json:"workchain"`
			Shard     int64  `json:"shard"`
			Seqno     uint32 `json:"seqno"`
			RootHash  []byte `json:"root_hash"`
			FileHash  []byte `json:"file_hash"`
		} `json:"init_block"`
	} `json:"validator"`
}

// Load reads the file at path.
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "ton.config.missing", "name a global.config.json", "opening the network config: %w", err)
	}
	if info.Size() > MaxSize {
		return nil, bad(jcs.ErrTooLarge)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "ton.config.missing", "name a global.config.json", "reading the network config: %w", err)
	}
	return Parse(b)
}

func bad(err error) error {
	return fault.New(fault.ExitParse, "ton.config.malformed", "get the network's global.config.json anew",
		"reading the network config: %w", err)
}

// Parse reads a document. Anything wrong is ton.config.malformed.
func Parse(doc []byte) (*Config, error) {
	if len(doc) > MaxSize {
		return nil, bad(jcs.ErrTooLarge)
	}
	if err := jcs.Check(doc); err != nil {
		return nil, bad(err)
	}
	var d document
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, bad(err)
	}
	if n := len(d.Servers); n == 0 || n > MaxServers {
		return nil, bad(fmt.Errorf("%d lite-servers", n))
	}
	c := &Config{}
	for i, s := range d.Servers {
		key, err := base64.StdEncoding.DecodeString(s.ID.Key)
		if err != nil || len(key) != 32 || s.ID.Type != "pub.ed25519" {
			return nil, bad(fmt.Errorf("lite-server %d: not an Ed25519 key", i))
		}
		if s.Port < 1 || s.Port > 65535 || s.IP < -1<<31 || s.IP >= 1<<32 {
			return nil, bad(fmt.Errorf("lite-server %d: bad address", i))
		}
		ip := uint32(s.IP) // signed in the published files
		host := net.IPv4(byte(ip>>24), byte(ip>>16), byte(ip>>8), byte(ip)).String()
		c.Servers = append(c.Servers, Server{net.JoinHostPort(host, strconv.Itoa(s.Port)), s.ID.Key})
	}
	b := d.Validator.InitBlock
	if b.Workchain != address.MasterchainID || b.Shard != -1<<63 || len(b.RootHash) != 32 || len(b.FileHash) != 32 {
		return nil, bad(fmt.Errorf("no init block of the masterchain"))
	}
	c.InitBlock = ton.BlockIDExt{Workchain: b.Workchain, Shard: b.Shard, SeqNo: b.Seqno, RootHash: b.RootHash, FileHash: b.FileHash}
	return c, nil
}
