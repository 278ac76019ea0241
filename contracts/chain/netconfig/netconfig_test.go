package netconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/contracts/chain/netconfig"
	"cocoon/internal/fault"
)

const good = `{"@type":"config.global","dht":{"k":6},"liteservers":[
 {"ip":-2018135749,"port":53312,"id":{"@type":"pub.ed25519","key":"aF91CuUHuuOv9rm2W5+O/4h38M3sRm40DtSdRxQhmtQ="}}],
 "validator":{"zero_state":{"workchain":-1},"init_block":{"workchain":-1,"shard":-9223372036854775808,"seqno":7,
 "root_hash":"F6OpKZKqvqeFp6CQmFomXNMfMj2EnaUSOXN+Mh+wVWk=","file_hash":"XplPz01CXAps5qeSWUtxcyBfdAo5zVb1N979KLSKD24="}}}`

func TestPublishedFormIsRead(t *testing.T) {
	c, err := netconfig.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Servers) != 1 || c.Servers[0].Addr != "135.181.177.59:53312" || c.InitBlock.SeqNo != 7 {
		t.Errorf("%+v", c)
	}
}

func TestBadConfigsAreRefused(t *testing.T) {
	for name, edit := range map[string][2]string{
		"no servers":              {`{"ip":-2018135749,"port":53312,"id":{"@type":"pub.ed25519","key":"aF91CuUHuuOv9rm2W5+O/4h38M3sRm40DtSdRxQhmtQ="}}`, ""},
		"a short key":             {`aF91CuUHuuOv9rm2W5+O/4h38M3sRm40DtSdRxQhmtQ=`, `aF91`},
		"another kind of key":     {`pub.ed25519`, `pub.aes`},
		"port zero":               {`53312`, `0`},
		"a port out of range":     {`53312`, `70000`},
		"an address out of range": {`-2018135749`, `99999999999`},
		"a block of workchain 0":  {`"init_block":{"workchain":-1`, `"init_block":{"workchain":0`},
		"another shard":           {`-9223372036854775808`, `1`},
		"a short hash":            {`F6OpKZKqvqeFp6CQmFomXNMfMj2EnaUSOXN+Mh+wVWk=`, `F6Op`},
		"a duplicate member":      {`"validator":{`, `"Validator":{},"validator":{`},
		"trailing data":           {`"seqno":7`, `"seqno":7}}}{{{`},
	} {
		t.Run(name, func(t *testing.T) {
			doc := strings.Replace(good, edit[0], edit[1], 1)
			if doc == good {
				t.Fatal("the edit changed nothing")
			}
			if _, err := netconfig.Parse([]byte(doc)); !fault.Has(err, "ton.config.malformed") {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := netconfig.Load(filepath.Join(t.TempDir(), "none")); !fault.Has(err, "ton.config.missing") {
		t.Errorf("a missing file gave %v", err)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, netconfig.MaxSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := netconfig.Load(big); !fault.Has(err, "ton.config.malformed") {
		t.Errorf("a huge file gave %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := netconfig.Parse(doc)
		if err != nil {
			if !fault.Has(err, "ton.config.malformed") {
				t.Fatal(err)
			}
			return
		}
		if len(c.Servers) == 0 || len(c.InitBlock.RootHash) != 32 {
			t.Fatalf("accepted %+v", c)
		}
	})
}
