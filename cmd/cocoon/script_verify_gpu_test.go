package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/nrastest"
	"cocoon/verifier/nvgputest"
)

// setupVerifyGPU gives the scripts about GPUs a GPU, a board and their documents,
// made under a test root: $AT is the time at which they are good, $NONCE the
// nonce that they answer.
func setupVerifyGPU(env *testscript.Env) error {
	if !strings.Contains(filepath.Base(env.WorkDir), "verify_gpu") {
		return nil
	}
	env.Setenv("AT", nvgputest.Now.Format(time.RFC3339))
	env.Setenv("NONCE", gpuNonce)
	if err := writeGPUs(env.WorkDir); err != nil {
		return err
	}
	return writeOpinions(env)
}

// writeOpinions writes what an attestation service says of the GPU, and of
// another: nras.json, other.json, and nras-keys.json.
func writeOpinions(env *testscript.Env) error {
	chain, err := os.ReadFile(filepath.Join(env.WorkDir, "gpu.chain"))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	s := nrastest.New(env.T(), nrastest.KeyID)
	files := map[string][]byte{"nras-keys.json": s.Set}
	for name, ueid := range map[string]string{"nras.json": leaf.SerialNumber.String(), "other.json": "4781763792860"} {
		d := nrastest.Device(0)
		d["ueid"], d["eat_nonce"] = ueid, gpuNonce
		files[name] = s.Bundle(env.T(), []nrastest.Doc{d}, func(overall nrastest.Doc, _ map[string]string) { overall["eat_nonce"] = gpuNonce })
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// gpuNonce is what the devices sign, in hex.
const gpuNonce = "00000000000000000000000000000000000000000000000000000000000000aa"

// writeGPUs writes roots.pem, gpu.report and gpu.chain with driver.xml and
// vbios.xml, changed.report, machine.json with bios.xml, and seven.json, a
// board of which one GPU is missing.
func writeGPUs(dir string) error {
	p, err := nvgputest.New("scripts")
	if err != nil {
		return err
	}
	nonce := [32]byte{31: 0xaa}
	files := map[string][]byte{"roots.pem": p.RootsPEM()}
	single := nvgputest.GPU(1)
	rims, err := p.SignAll(nvgputest.RIMs(&single))
	if err != nil {
		return err
	}
	files["driver.xml"], files["vbios.xml"] = rims[0], rims[1]
	if err := addGPU(files, p, "gpu", single, nonce); err != nil {
		return err
	}
	single.Changed = map[int]string{9: "devtools"}
	if err := addGPU(files, p, "changed", single, nonce); err != nil {
		return err
	}
	board := nvgputest.Board()
	items, err := p.Items(board, nonce)
	if err != nil {
		return err
	}
	if rims, err = p.SignAll(nvgputest.RIMs(&board[8])); err != nil {
		return err
	}
	files["bios.xml"] = rims[0]
	files["forged.xml"] = bytes.Replace(rims[0], []byte(`name="Measurement_3"`), []byte(`name="Measurement_4"`), 1)
	for name, list := range map[string][]nvgpu.Item{"machine.json": items, "seven.json": items[1:]} {
		var out []evidence.GPU
		for _, it := range list {
			out = append(out, evidence.GPU{Report: it.Report, Chain: it.Chain})
		}
		if files[name], err = json.Marshal(out); err != nil {
			return err
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// addGPU makes NAME.report, NAME.chain, and NAME.json as NVIDIA's SDK writes
// evidence.
func addGPU(files map[string][]byte, p *nvgputest.PKI, name string, d nvgputest.Device, nonce [32]byte) error {
	it, err := p.Make(&d, nonce)
	if err != nil {
		return err
	}
	var chain []byte
	for _, der := range it.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	files[name+".report"], files[name+".chain"] = it.Report, chain
	files[name+".json"], err = json.Marshal([]map[string]any{{"arch": "HOPPER", "evidence": it.Report, "certificate": chain, "nonce": fmt.Sprintf("%x", nonce)}})
	return err
}
