package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/rimtest"
)

// setupGPU puts reference integrity manifests of a test PKI into the script's
// directory gpu and starts a RIM service: $RIM is its address, $RIMAT the time
// at which everything is valid.
func setupGPU(env *testscript.Env) error {
	pki, err := rimtest.NewPKI()
	if err != nil {
		return err
	}
	dir := filepath.Join(env.WorkDir, "gpu")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	server, err := gpuService(pki, dir)
	if err != nil {
		return err
	}
	ts := httptest.NewServer(server)
	env.Defer(ts.Close)
	env.Setenv("RIM", ts.URL)
	env.Setenv("RIMAT", rimtest.Now.Format(time.RFC3339))
	return nil
}

// gpuService makes a RIM service, and files of what it has in dir.
func gpuService(pki *rimtest.PKI, dir string) (*rimtest.Server, error) {
	server := rimtest.NewServer()
	signer, err := rimtest.Issue(pki.L3, rimtest.Profile{Name: "Test RIM L4 Signer"})
	if err != nil {
		return nil, err
	}
	for _, p := range [][2]*rimtest.Authority{{signer, pki.L3}, {pki.L3, pki.CA}, {pki.CA, pki.Root}} {
		server.Issued(p[0], p[1])
	}
	mint := func(version string, change func(*rimtest.RIM), active ...int) ([]byte, error) {
		r := rimtest.RIM{Version: version, Values: rimtest.One(64, version, active...), Signer: signer}
		if change != nil {
			change(&r)
		}
		return pki.Mint(r)
	}
	files := map[string][]byte{"roots.pem": pki.RootPEM()}
	for _, v := range []string{"535.86.09", "550.54.14", "550.90.07", "550.144.03", "570.86.10"} {
		doc, err := mint(v, nil, 7, 21, 22)
		if err != nil {
			return nil, err
		}
		server.Put(rim.DriverID(rim.Hopper, "", v), doc)
		files["driver-"+v+".xml"] = doc
	}
	for _, v := range []string{"96.00.9F.00.01", "96.00.9F.00.04", "96.00.AF.00.01"} {
		doc, err := mint(v, nil, 0, 1, 2)
		if err != nil {
			return nil, err
		}
		server.Put(rim.VBIOSID("1010", "0200", "882", v), doc)
		if v == "96.00.AF.00.01" {
			server.Put(rim.VBIOSID("G520", "0280", "895", v), doc)
		}
		files["vbios-"+v+".xml"] = doc
	}
	old, err := mint("560.35.03", func(r *rimtest.RIM) {
		r.Signer, r.From, r.To = nil, rimtest.Now.AddDate(-3, 0, 0), rimtest.Now.AddDate(-1, 0, 0)
	})
	if err != nil {
		return nil, err
	}
	server.Put(rim.DriverID(rim.Hopper, "", "560.35.03"), old)
	good := files["driver-550.90.07.xml"]
	files["expired.xml"] = old
	files["changed.xml"] = bytes.Replace(good, []byte(`active="False"`), []byte(`active="True"`), 1)
	files["doctype.xml"] = []byte("<!DOCTYPE x>" + string(good))
	files["not-a-rim.xml"] = []byte(strings.Repeat("x", 100))
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return nil, fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return server, nil
}
