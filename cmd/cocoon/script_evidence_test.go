package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/contracts/devnet"
	"cocoon/image/info"
	"cocoon/internal/bootargs"
	"cocoon/internal/vectors"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/ovmftest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/verity"
	"cocoon/verifier/collateral"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/server"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/tpmtest"
)

// setupEvidence gives the scripts about evidence and measuring what they
// need: evidence of a machine that does not exist with its manifest and
// policy ($AT is the time at which they are good, $SPKI the machine's TLS
// key), and a build that is a build in form only.
func setupEvidence(env *testscript.Env) error {
	name := filepath.Base(env.WorkDir)
	switch {
	case strings.Contains(name, "verify_evidence"), name == "script-policy":
		return writeEvidence(env)
	case strings.Contains(name, "measure_tee"):
		if err := writeBuild(env.WorkDir); err != nil {
			return err
		}
		return writeTEE(env)
	case strings.Contains(name, "measure"), strings.Contains(name, "manifest"), strings.Contains(name, "log_"), strings.Contains(name, "audit"), strings.Contains(name, "image_fetch"):
		return writeBuild(env.WorkDir)
	}
	return nil
}

func writeEvidence(env *testscript.Env) error {
	w := tpmtest.NewWorld(env.T())
	env.Setenv("AT", tpmtest.Now.Format(time.RFC3339))
	env.Setenv("SPKI", w.TLSSPKI.String())
	env.Setenv("KEY", w.Policy.Manifests.Keys[0].String())
	for file, b := range map[string][]byte{
		"ak-root.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Policy.TPM.AKRoots[0]}), "ek-root.der": w.Policy.TPM.EKRoots[0],
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, file), b, 0o644); err != nil {
			return err
		}
	}
	if err := serveWorld(env, w); err != nil {
		return err
	}
	good := w.Evidence(env.T())
	staged := w.Evidence(env.T())
	w.GiveStages(env.T(), staged)
	restaged := *staged
	restaged.Stages = &evidence.Stages{Version: evidence.StagesVersion, List: staged.Stages.List[:1]}
	manifestDoc := w.Envelope(env.T())
	w.Manifest.Models = append(w.Manifest.Models, manifest.Model{Name: "chat2", VerityRoot: digest.Sum256([]byte("chat2"))})
	w.Config.Models = []evidence.ConfigModel{{Name: "chat2", Verity: evidence.Verity{Root: digest.Sum256([]byte("chat2")), DataBlocks: 1}}}
	several, severalManifest := w.Evidence(env.T()), w.Envelope(env.T())
	w.Config.Models, w.Manifest.Models = nil, w.Manifest.Models[:1]
	if err := os.WriteFile(filepath.Join(env.WorkDir, "several-manifest.json"), severalManifest, 0o644); err != nil {
		return err
	}
	late := *w.Policy
	late.Environment, late.TrustClasses = "production", []string{"tdx"}
	w.Boot.Components.InitrdSHA256 = digest.Sum256([]byte("another initrd"))
	w.Config.Engine.Verity.Root = digest.Sum256([]byte("another engine"))
	bad := w.Evidence(env.T())
	forged := *good
	forged.Claims.ReceiptKey = digest.Sum256([]byte("another key"))
	docs := map[string]any{"good.json": good, "bad.json": bad, "forged.json": &forged, "staged.json": staged, "several.json": several, "restaged.json": &restaged, "policy.json": w.Policy, "production.json": &late}
	for name, v := range docs {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "manifest.json"), manifestDoc, 0o644); err != nil {
		return err
	}
	return writeTDXEvidence(env, w, good)
}

// writeTDXEvidence writes evidence of a TD that runs the same, good at $TDXAT
// but for a manifest that speaks of TDX, and what it takes to verify it.
func writeTDXEvidence(env *testscript.Env, w *tpmtest.World, like *evidence.Evidence) error {
	pki, err := tdxtest.New("evidence")
	if err != nil {
		return err
	}
	ev := *like
	c := tdxtest.StatusTDX(tcb.UpToDate)
	ev.CPU = evidence.CPU{Type: evidence.TypeTDX, CertChain: [][]byte{}, RuntimeEvents: like.CPU.RuntimeEvents}
	ev.CPU.EventLog, c.Quote.TD.RTMR = tdxtest.CCEL(tdxtest.DirectBoot())
	r3 := &c.Quote.TD.RTMR[3]
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			return err
		}
		d := sha512.Sum384(b)
		*r3 = sha512.Sum384(append(r3[:], d[:]...))
	}
	if c.Quote.TD.ReportData, err = ev.Claims.ReportData(); err != nil {
		return err
	}
	var raw *collateral.Raw
	if ev.CPU.Quote, raw, err = pki.Make(&c); err != nil {
		return err
	}
	p := *w.Policy
	p.Environment, p.TrustClasses, p.TPM, p.DCAP = policy.Development, []string{policy.ClassTest}, nil, dcappolicy.Default()
	for name, v := range map[string]any{"tdx.json": &ev, "tdx-policy.json": &p, "collateral.json": raw} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o644); err != nil {
			return err
		}
	}
	env.Setenv("TDXAT", tdxtest.Now.Format(time.RFC3339))
	return os.WriteFile(filepath.Join(env.WorkDir, "roots.pem"), pki.RootPEM(), 0o644)
}

// serveWorld runs a verifier of the world ($WORLD_URL) and names what a
// registry must list for it.
func serveWorld(env *testscript.Env, w *tpmtest.World) error {
	srv, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(env.T()), Signer: scriptKey("verifier")}})
	if err != nil {
		return err
	}
	http := httptest.NewServer(srv)
	env.Defer(http.Close)
	env.Setenv("WORLD_URL", http.URL)
	env.Setenv("WORLD_MANIFEST", w.Manifests(env.T())[0].SHA256.String())
	env.Setenv("WORLD_MODEL", w.Config.Model.Verity.Root.String())
	env.Setenv("NETWORK_ID", strconv.Itoa(devnet.GlobalID))
	return nil
}

// writeTEE writes ovmf.fd and ovmf2.fd, firmwares of one version, id.pem, an ID
// key. $VECTORS is the directory of the launch vectors, empty
// where they are absent.
func writeTEE(env *testscript.Env) error {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if dir := vectors.Find(); dir != "" {
		env.Setenv("VECTORS", filepath.Join(dir, "launch"))
	}
	for name, b := range map[string][]byte{
		"ovmf.fd":    ovmftest.Firmware(env.T(), ovmftest.Options{Version: "2026.08+script-1"}),
		"ovmf2.fd":   ovmftest.Firmware(env.T(), ovmftest.Options{Version: "2026.08+script-1", Extra: "x"}),
		"between.fd": ovmftest.Firmware(env.T(), ovmftest.Options{Version: "2025.11"}),
		"id.pem":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeBuild writes image/, packs/, firmware.fd and recorded.json.
func writeBuild(dir string) error {
	write := func(name string, b []byte) (info.Artefact, error) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return info.Artefact{}, err
		}
		return info.Artefact{File: filepath.Base(name), SHA256: digest.Sum256(b).String(), Size: int64(len(b))}, os.WriteFile(path, b, 0o644)
	}
	disk := func(fill byte) ([]byte, info.Verity, error) {
		data := bytes.Repeat([]byte{fill}, 4*verity.BlockSize)
		tree, root, err := verity.Build(bytes.NewReader(data), 4, []byte("salt"))
		return append(data, tree...), info.Verity{Root: digest.SHA256(root).String(), Salt: "73616c74", DataBlocks: 4}, err
	}
	rootDisk, rootVerity, err := disk('r')
	if err != nil {
		return err
	}
	hash, salt, err := rootVerity.Params()
	if err != nil {
		return err
	}
	im := info.Image{Format: info.ImageFormat, Name: "script-image", Version: 7, Epoch: 1767225600, Go: "go1.26", KernelName: "6.12",
		Cmdline: bootargs.Root{Hash: hash, Salt: salt, Blocks: 4}.String(), Root: rootVerity,
		Packages: []info.Package{{Name: "base", Version: "1", Arch: "amd64", SHA256: digest.Sum256(nil).String()}}, ToolsUsed: []info.Package{}}
	for name, b := range map[string][]byte{"vmlinuz": smallPE(), "initrd": []byte("initrd"), "root.img": rootDisk, "cmdline": []byte(im.Cmdline)} {
		a, err := write("image/"+name, b)
		if err != nil {
			return err
		}
		im.Artefacts = append(im.Artefacts, a)
	}
	packs := info.Packs{Format: info.PacksFormat, Packages: []info.Package{}}
	for _, name := range []string{"engine", "model"} {
		b, v, err := disk(name[0])
		if err != nil {
			return err
		}
		a, err := write("packs/"+name+".img", b)
		if err != nil {
			return err
		}
		packs.Packs = append(packs.Packs, info.Pack{Name: name, File: a.File, SHA256: a.SHA256, Size: a.Size, Verity: v, Files: []info.Entry{}})
	}
	if err := info.Write(filepath.Join(dir, "image", info.ImageFile), im); err != nil {
		return err
	}
	if err := info.Write(filepath.Join(dir, "packs", info.PacksFile), packs); err != nil {
		return err
	}
	fw, err := write("firmware.fd", []byte("firmware"))
	if err != nil {
		return err
	}
	sum, err := digest.Parse256(fw.SHA256)
	if err != nil {
		return err
	}
	rec := pcr.Recordings{Format: 1, Firmwares: []pcr.Firmware{{Name: "script-firmware", SHA256: sum, PCR0: digest.Sum256([]byte("0")),
		PCR7: digest.Sum256([]byte("7")), Provenance: pcr.ProvenanceRecorded, Cmdline: pcr.CmdlineInitrdFirst}}}
	return info.Write(filepath.Join(dir, "recorded.json"), rec)
}

// smallPE returns a PE32+ image of one section.
func smallPE() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x200, 0x300)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x46:], 1)
	le.PutUint16(b[0x54:], 240)
	le.PutUint16(b[0x58:], 0x20b)
	le.PutUint32(b[0x58+60:], 0x200)
	le.PutUint32(b[0x58+108:], 16)
	le.PutUint32(b[0x58+240+16:], 0x100)
	le.PutUint32(b[0x58+240+20:], 0x200)
	return append(b, bytes.Repeat([]byte{'k'}, 0x100)...)
}
